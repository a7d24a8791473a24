"""Replays into what readers find: which events may be written once more into a sink's target, and by whom.

Only a target that keeps the last event of each key takes an event twice without harm.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from milkrun.control.applied import author
from milkrun.control.replay_status import Target
from milkrun.log.protocol import Log
from milkrun.model.clock import Clock
from milkrun.model.errors import Refused
from milkrun.model.spec import ProjectSpec
from milkrun.plugin.config import parse
from milkrun.plugin.sink import Sink, SinkContext
from milkrun.runtime.generations import Bound, Generation, Generations, generations_of, party_of
from milkrun.runtime.paths import parse_path
from milkrun.runtime.registry import sink_class
from milkrun.runtime.sink_task import sink_items
from milkrun.runtime.stores import party_key


def parse_only(conditions: Sequence[str]) -> dict[str, list[str]]:
    """The values of each path in `body.type=order`; several of one path are alternatives. Refused where one isn't such a condition, or
    ConfigError where the path is none."""
    found: dict[str, list[str]] = {}
    for condition in conditions:
        path, equal, value = condition.partition("=")
        if not equal or not path or not value:
            raise Refused(f"{condition!r} is no condition; write for example body.type=order")
        parse_path(path)
        found.setdefault(path, []).append(value)
    return found


def check_keyed(project: ProjectSpec, clock: Clock, target: Target) -> None:
    """Refused where the sink's target keeps more than the last event of each key, or takes no events that come late."""
    kind = sink_class(target.spec.connector)
    context = SinkContext(target.pipeline.name, target.spec.name, project.folder, clock)
    sink: Sink = kind(parse(kind.Config, target.spec.config), context)
    if not sink.keyed:
        raise Refused(
            f"{target.key} keeps every event, so events written once more would be there twice; only a sink that keeps the last event of each "
            "key (mode: upsert) can be replayed into. Without --into-current the replay goes beside it"
        )
    if not sink.capabilities.repairs:
        raise Refused(f"{target.key}: the sink {target.spec.connector} takes no events that come late")


def delivered_bounds(log: Log, target: Target) -> dict[str, Bound]:
    """How far production has come in each partition: later events go there by the present definition anyway."""
    record = generations_of(log, target.pipeline.name, target.spec.name)
    group = party_key(target.pipeline.name, party_of(target.spec.name, record.current))
    partitions = sink_items(log, target.spec, "partitions")[0]
    committed = log.committed_of(group, [(each.topic, each.partition) for each in partitions])
    return {
        str(each): Bound(incarnation, committed.get((each.topic, each.partition), 0))
        for each, incarnation in partitions.items()
    }


def begun_into(
    clock: Clock,
    target: Target,
    starts: dict[str, Bound],
    ends: dict[str, Bound],
    only: Mapping[str, list[str]],
    key: str | None,
) -> Callable[[Generations], Generations]:
    """Adds such a replay to a sink's record."""
    now, by, definition = clock.now(), author(), target.pipeline.version

    def begin(record: Generations) -> Generations:
        if record.current not in record.known:
            record = record.with_one(Generation(record.current, "live", by, now, now, definition))
        made = Generation(
            record.last + 1,
            "running",
            by,
            now,
            now,
            definition,
            starts,
            ends,
            into=record.current,
            only=dict(only),
            key=key,
        )
        return record.with_one(made)

    return begin
