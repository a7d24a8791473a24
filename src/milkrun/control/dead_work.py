"""Corrects, redelivers and drops dead letters: what a person decides, written so that each letter is acted on once.

One command at a time acts on a pipeline's letters: it holds a lease, and all that it writes for a letter is one transaction under that.
A letter of a source goes through routing again, and is in its topic in the same transaction that marks it; one of a sink goes to
that sink alone, which others have had it from before: its delivery is told by an order, and marks it when the event is delivered.
"""

from __future__ import annotations

import getpass
import os
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import pyarrow as pa

from milkrun.control.dead import DeadLetters, Found
from milkrun.control.dead_fixing import Fix
from milkrun.control.dead_outlook import DryRun, Outlook, readmission
from milkrun.control.dead_selection import Selection, select
from milkrun.log.protocol import Lease, Log, Transaction
from milkrun.model.clock import Clock
from milkrun.model.errors import Fenced, Refused
from milkrun.model.ledger import Stage
from milkrun.model.spec import PipelineSpec
from milkrun.plugin.source import Outcome
from milkrun.runtime import accounting
from milkrun.runtime.ingest import Ingest
from milkrun.runtime.letters import Letter, Order, State, Step, dump_letter, letter_key, order_key
from milkrun.runtime.registry import source_class
from milkrun.runtime.stores import LETTERS, ORDERS, cut_key

SAMPLES = 10
"""Letters left alone that a report names."""


@dataclass(frozen=True)
class Left:
    """A letter that was left as it is, and why."""

    id: str
    why: str


@dataclass(frozen=True)
class Report:
    """What a command did: `letters` were meant, of which `done` were acted on; `left` were not, with samples in `reasons`. `outlooks` tell
    of the first ones what would become of them. With `dry` nothing was written."""

    letters: int = 0
    done: int = 0
    left: int = 0
    reasons: tuple[Left, ...] = ()
    outlooks: tuple[Outlook, ...] = ()
    dry: bool = False

    @property
    def ok(self) -> bool:
        """Whether all that were meant were acted on."""
        return self.left == 0

    def plus(self, done: int, left: Sequence[Left], outlooks: Sequence[Outlook] = ()) -> Report:
        """The report with one more chunk."""
        return replace(
            self,
            letters=self.letters + done + len(left),
            done=self.done + done,
            left=self.left + len(left),
            reasons=(*self.reasons, *left)[:SAMPLES],
            outlooks=(*self.outlooks, *outlooks),
        )


@dataclass(frozen=True)
class Workbench:
    """Acts on the letters of pipelines as workers run them. `by` says who acts."""

    log: Log
    clock: Clock
    pipelines: Sequence[PipelineSpec]
    folder: Path
    by: str = field(default_factory=lambda: _user())

    def repair(
        self, selection: Selection, fix: Fix, *, apply: bool = False, why: str = "", show: int = 3
    ) -> Report:
        """Correct the letters' bodies: what would come of that, and with `apply` keep the corrected bodies, to be redelivered. Letters that
        would be refused again are left alone."""
        report = Report(dry=not apply)
        for lease, found in self._chunks(selection, write=apply):
            chunk = [each for each in found if each.state != "redelivering"]
            made = fix.bodies([each.letter for each in chunk])
            left = [
                Left(each.id, body) for each, body in zip(chunk, made, strict=True) if isinstance(body, str)
            ]
            pairs = [(each, body) for each, body in zip(chunk, made, strict=True) if isinstance(body, bytes)]
            outlooks = self._judge(pairs, plans=max(0, show - len(report.outlooks)))
            good = [pair for pair, outlook in zip(pairs, outlooks, strict=True) if outlook.problem is None]
            left += _problems(outlooks)
            if lease is not None:
                self._keep(lease, good, why)
            report = report.plus(len(good), left, outlooks[: max(0, show - len(report.outlooks))])
        return report

    def redeliver(self, selection: Selection, *, why: str = "", dry: bool = False) -> Report:
        """Send the letters: with the body they were corrected to, else as they are. Those that would be refused again
        are left alone, and so are those on their way already."""
        report = Report(dry=dry)
        for lease, chunk in self._chunks(selection, write=not dry):
            pairs = [(each, _sent(each)) for each in chunk if each.state != "redelivering"]
            outlooks = self._judge(pairs)
            good = [pair for pair, outlook in zip(pairs, outlooks, strict=True) if outlook.problem is None]
            left = _problems(outlooks)
            if lease is not None:
                left += self._send(lease, good, why)
            report = report.plus(len(pairs) - len(left), left)
        return report

    def drop(self, selection: Selection, why: str) -> Report:
        """Give the letters up. Their bytes stay; the ledger counts them as dropped."""
        if not why.strip():
            raise Refused("say why: --why TEXT; it stays with the dropped letters")
        report = Report()
        for lease, chunk in self._chunks(selection, write=True):
            assert lease is not None
            on_their_way = [each for each in chunk if each.state == "redelivering"]
            left = [Left(each.id, "it is on its way to its sink") for each in on_their_way]
            self._drop(lease, [each for each in chunk if each.state != "redelivering"], why)
            report = report.plus(len(chunk) - len(left), left)
        return report

    # -- reading

    def _chunks(self, selection: Selection, *, write: bool) -> Iterator[tuple[Lease | None, list[Found]]]:
        """The letters that are meant, chunk by chunk, each of one pipeline; with the lease to write by."""
        if not write:
            letters = DeadLetters(self.log, self.pipelines)
            yield from ((None, chunk) for chunk in select(letters, selection))
            return
        with self._leases() as leases:
            # Read after the leases were taken: what other commands did before shows, and none does anything meanwhile.
            for chunk in select(DeadLetters(self.log, self.pipelines), selection):
                by_pipeline: dict[str, list[Found]] = {}
                for each in chunk:
                    by_pipeline.setdefault(each.letter.pipeline, []).append(each)
                for name, some in by_pipeline.items():
                    yield leases[name], some

    @contextmanager
    def _leases(self) -> Iterator[dict[str, Lease]]:
        member = f"dead-{uuid.uuid4().hex[:12]}"
        groups = {pipeline.name: f"dead:{pipeline.name}" for pipeline in self.pipelines}
        try:
            yield {name: self.log.seize(group, name, member) for name, group in groups.items()}
        except Fenced as error:
            raise Refused(
                "another command has begun to act on the dead letters; what was done until then is done: look, and go on by the same command"
            ) from error
        finally:
            for group in groups.values():
                self.log.leave(group, member)

    def _judge(self, pairs: Sequence[tuple[Found, bytes | None]], *, plans: int = 0) -> list[Outlook]:
        dry = DryRun(self.pipelines, self.folder, self.log, self.clock)
        return dry.judge([each for each, _ in pairs], [value for _, value in pairs], plans=plans)

    # -- writing

    def _keep(self, lease: Lease, pairs: Sequence[tuple[Found, bytes]], why: str) -> None:
        with self.log.transaction(lease) as transaction:
            for each, value in pairs:
                self._put(transaction, each, self._after(each, "repaired", why, value))

    def _send(self, lease: Lease, pairs: Sequence[tuple[Found, bytes | None]], why: str) -> list[Left]:
        """Send the letters; those that were refused nevertheless."""
        left: list[Left] = []
        by_party: dict[tuple[str, str], list[tuple[Found, bytes | None]]] = {}
        for each, value in pairs:
            by_party.setdefault((each.letter.stage, each.letter.party), []).append((each, value))
        for (stage, party), some in by_party.items():
            if stage == "sink":
                self._order(lease, some, why)
            else:
                left += self._readmit(lease, party, some, why)
        return left

    def _order(self, lease: Lease, pairs: Sequence[tuple[Found, bytes | None]], why: str) -> None:
        with self.log.transaction(lease) as transaction:
            for each, value in pairs:
                kept = each.record.value
                letter = self._after(each, "redelivering", why, kept)
                self._put(transaction, each, letter)
                self._tell(transaction, each, "deliver", letter, value)

    def _tell(
        self, transaction: Transaction, found: Found, act: str, letter: Letter, value: bytes | None
    ) -> None:
        """Leave the sink an order."""
        refused = found.letter
        assert refused.offset is not None and refused.partition is not None
        order = Order(
            "deliver" if act == "deliver" else "drop",
            refused.uid,
            refused.incarnation,
            refused.offset,
            letter,
            refused.timestamp,
            refused.key,
            value,
            refused.headers,
        )
        place = cut_key(refused.pipeline, refused.party, refused.topic, refused.partition)
        transaction.put(ORDERS, order_key(place, refused.offset), msgspec.json.encode(order))

    def _readmit(
        self, lease: Lease, party: str, pairs: Sequence[tuple[Found, bytes | None]], why: str
    ) -> list[Left]:
        letters = [each for each, _ in pairs]
        pipeline = self._pipeline(letters[0])
        spec = next(source for source in pipeline.sources if source.name == party)
        received, receipts = readmission(spec, letters, [value for _, value in pairs])

        def note(transaction: Transaction, outcome: Outcome) -> None:
            sent = [row for row in range(len(letters)) if row not in outcome.refused]
            for row in sent:
                known = " (an event of its id had come meanwhile)" if outcome.duplicate[row] else ""
                self._put(transaction, letters[row], self._after(letters[row], "redelivered", why + known))
            self._count(transaction, Stage.REDELIVERED, [letters[row] for row in sent])

        ingest = Ingest(pipeline, spec, source_class(spec.connector).capabilities, self.log, self.clock)
        outcome = ingest.readmit(received, receipts, lease, note)
        return [Left(letters[row].id, fault.message) for row, fault in sorted(outcome.refused.items())]

    def _drop(self, lease: Lease, letters: Sequence[Found], why: str) -> None:
        with self.log.transaction(lease) as transaction:
            for each in letters:
                letter = self._after(each, "dropped", why)
                self._put(transaction, each, letter)
                if each.letter.stage == "sink":
                    self._tell(transaction, each, "drop", letter, None)
            self._count(transaction, Stage.DROPPED, letters)

    def _after(self, found: Found, state: State, why: str, value: bytes | None = None) -> Letter:
        step = Step(state, self.by, self.clock.now(), why)
        return found.record.after(step, value)

    def _put(self, transaction: Transaction, found: Found, letter: Letter) -> None:
        key = letter_key(found.letter.pipeline, found.letter.uid)
        transaction.put(LETTERS, key, dump_letter(letter))

    def _count(self, transaction: Transaction, stage: Stage, letters: Sequence[Found]) -> None:
        places: dict[tuple[str, str, int, str], list[int]] = {}
        for each in letters:
            letter = each.letter
            place = (letter.pipeline, letter.topic, letter.partition or 0, letter.party)
            places.setdefault(place, []).append(letter.timestamp)
        for (pipeline, topic, partition, party), stamps in places.items():
            column = pa.array(stamps, pa.int64())
            transaction.count(accounting.entries(pipeline, topic, partition, stage, party, column))

    def _pipeline(self, found: Found) -> PipelineSpec:
        return next(each for each in self.pipelines if each.name == found.letter.pipeline)


def _user() -> str:
    """Who runs this process; in a container nothing may have a name."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return f"uid {os.getuid()}"


def _sent(found: Found) -> bytes | None:
    """The body that is sent."""
    return found.record.value if found.state == "repaired" else found.letter.value


def _problems(outlooks: Sequence[Outlook]) -> list[Left]:
    return [Left(each.id, each.problem) for each in outlooks if each.problem is not None]
