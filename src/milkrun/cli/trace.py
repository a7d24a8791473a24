"""The command that follows one event: trace."""

from __future__ import annotations

from cyclopts import App

from milkrun.cli.common import DEFAULT, Common, When
from milkrun.cli.output import Output, printable
from milkrun.control.coordinator import time_text
from milkrun.control.tracing import SinkStep, Trace, TracedEvent


def register(app: App) -> None:
    """Add the command."""
    app.command(trace)


def trace(
    identity: str, /, *, pipeline: str | None = None, since: When = "-24h", common: Common = DEFAULT
) -> int:
    """Show the way of one event: when it was accepted, where it stands, and what became of it at each sink. Ends with 1 where it isn't found.

    Parameters
    ----------
    identity
        The event's id, as its source reads it.
    pipeline
        Only through this pipeline.
    since
        Events accepted not before are searched, where no source remembers the id: -1h, or an ISO time.
    """
    with common.opened() as (project, out):
        found = project.trace(identity, pipeline=pipeline, since=since)
        if out.format == "json":
            out.json(found)
        else:
            _show(out, found)
        return 0 if found.found else 1


def _show(out: Output, found: Trace) -> None:
    for event in found.events:
        _show_event(out, event)
    for letter in found.refused:
        out.line(f"{time_text(letter.at)}  refused by the source {letter.source}: {printable(letter.why)}")
        out.line(f"  dead letter {letter.dead_letter}, see milkrun dead show {letter.dead_letter}")
    if not found.found:
        out.line(f"{printable(found.id)} was not found", style="red")
        for name, at in found.remembered.items():
            out.line(f"  {name} remembers that it took it in at about {time_text(at)}")
    events = sum(each.events for each in found.searched)
    since = f", since {time_text(found.since)}" if found.since is not None else ""
    out.line(f"searched {events} events of {_places(found)}{since} in {found.seconds:.1f} s")
    if not found.found and found.since is not None:
        out.line("older events: --since")


def _places(found: Trace) -> str:
    topics = sorted({each.topic for each in found.searched})
    return ", ".join(topics) or "no topic"


def _show_event(out: Output, event: TracedEvent) -> None:
    by = " or ".join(event.sources) or "another program"
    out.line(
        f"{time_text(event.accepted)}  accepted by {by}: {event.topic}[{event.partition}] offset {event.offset}"
    )
    for step in event.sinks:
        out.line(
            f"  {step.pipeline}/{step.sink}: {_told(step)}", style="red" if step.state == "missing" else None
        )


def _told(step: SinkStep) -> str:
    parts = [step.state]
    if step.before is not None:
        parts.append(f"between {time_text(step.after)} and {time_text(step.before)}")
    if step.place is not None:
        parts.append(f"in {step.place}")
    if step.why is not None:
        parts.append(f"{printable(step.why)}, dead letter {step.dead_letter} ({step.letter_state})")
    if step.note:
        parts.append(printable(step.note))
    return ", ".join(parts)
