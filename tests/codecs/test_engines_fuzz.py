"""Ten million mutated rows through the compiled engine: none crashes the process, and of a sample each is judged as plain Python does.

Mutations are drawn by a seed, so that a failure can be had again. `make soak` runs this once more under AddressSanitizer.
"""

from __future__ import annotations

import os
from random import Random

import pyarrow as pa
import pytest

from bench.events import events
from milkrun.codecs.json import infer
from milkrun.codecs.json.engine import PythonEngine
from milkrun.codecs.json.native import NativeEngine
from milkrun.codecs.json.plan import plan_for
from milkrun.codecs.json.reading import Reading
from milkrun.codecs.json.text import BOM, WHITE
from tests.codecs.documents import PIECES
from tests.codecs.engines import need_native
from tests.codecs.json_cases import CASES

ROWS = int(os.environ.get("MILKRUN_FUZZ_ROWS", "10_000_000"))
STEP = 4_000
COMPARED = 40
"""Of so many steps one is compared."""
SHORT = 300


def _seeds() -> list[bytes]:
    return [*events(40), *(case.body for case in CASES if case.body and len(case.body) < SHORT)]


def mutated(rng: Random, body: bytes, seeds: list[bytes]) -> bytes:
    """The body with one to four bytes or pieces of it changed, taken out, doubled, or replaced by those of another."""
    text = bytearray(body)
    for _ in range(rng.randrange(1, 5)):
        place = rng.randrange(len(text) + 1)
        end = min(len(text), place + rng.randrange(9))
        match rng.randrange(6):
            case 0:
                text[place : place + 1] = rng.choice(PIECES)
            case 1:
                text[place:place] = rng.choice(PIECES)
            case 2:
                del text[place:end]
            case 3:
                text[place:end] = text[place:end] * 2
            case 4:
                other = rng.choice(seeds)
                start = rng.randrange(len(other))
                text[place:end] = other[start : start + rng.randrange(30)]
            case _:
                text[place : place + 1] = bytes([rng.randrange(256)])
    return bytes(text)


def _reading(rng: Random) -> Reading:
    return Reading(rest=rng.random() < 0.5, ignore_case=rng.random() < 0.3, coerce=rng.random() < 0.3)


def _cut_array(native: NativeEngine, bodies: list[bytes]) -> None:
    """An array of events that are right is cut into them."""
    events = [body.removeprefix(BOM).strip(WHITE) for body in bodies]
    cut = native.split(b"[" + b",".join(events) + b"]", lines=False, max_event_bytes=1 << 20, max_depth=128)
    assert cut.validated
    assert not cut.faults
    assert cut.values.equals(pa.array(events, pa.binary()))


@pytest.mark.soak
@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_mutated_rows(seed: int) -> None:
    native, python, rng, seeds = need_native(), PythonEngine("compared with"), Random(seed), _seeds()
    orders = plan_for(infer(pa.array(seeds[:40], pa.binary())))
    others = [plan_for(schema) for schema in {case.schema for case in CASES}]
    paths = (("type",), ("a",), ("customer", "id"), ("order", "id"))
    pool: list[bytes] = []
    for step in range(ROWS // 4 // STEP):
        # Half are mutants of mutants.
        bodies = [rng.choice(pool or seeds) for _ in range(STEP // 2)] + rng.choices(seeds, k=STEP // 2)
        pool = [mutated(rng, body, seeds)[:4_000] for body in bodies]
        values = pa.array(pool, pa.binary())
        plan, reading = rng.choice([orders, *others]), _reading(rng)
        found = native.decode(plan, values, reading)
        picked = native.pick(values, paths, 128)
        failed = set(picked.errors.column("row").to_pylist())
        assert failed <= set(found.errors.column("row").to_pylist())
        native.pick(values, paths, 128, validated=True)
        _cut_array(native, [body for row, body in enumerate(pool) if row not in failed])
        cut = native.split(b"\n".join(pool), lines=True, max_event_bytes=1 << 20, max_depth=128)
        assert len(cut.values) >= STEP // 2
        if step % COMPARED == 0:
            found.columns.validate(full=True)
            expected = python.decode(plan, values, reading)
            assert found.errors.equals(expected.errors)
            assert repr(found.columns.to_pylist()) == repr(expected.columns.to_pylist())
            assert (dict(found.unknown), found.duplicates) == (expected.unknown, expected.duplicates)
            slowly = python.pick(values, paths, 128)
            assert picked.columns == slowly.columns
            assert picked.errors.equals(slowly.errors)
