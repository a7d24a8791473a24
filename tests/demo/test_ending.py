"""When the demo says that all is even: only where the ids, the ledger and the targets all say so."""

from dataclasses import replace

import pytest

from milkrun.cli.demo.asking import Answer
from milkrun.cli.demo.proof import Proof
from milkrun.cli.demo.story import Ending
from milkrun.control.ledgers import LedgerReport, LedgerRow, SinkCount
from milkrun.control.verifying import PartitionCheck, Verification

EVEN = Proof(2, 2, 2, lost=0, doubled=0, strange=0, dead=2, dead_expected=2)
NOTHING = Answer((), ())


def ledger(even: bool | None) -> LedgerReport:
    row = LedgerRow("shop", "shop.viewed", None, 2, sinks=(SinkCount("lake", 2, 0, 0, 0, even),))
    return LedgerReport((row,), (row,))


def verification(missing: int) -> Verification:
    check = PartitionCheck(
        "shop",
        "lake",
        "shop.viewed",
        0,
        committed=2,
        expected=2,
        found=2 - missing,
        missing=missing,
        doubled=0,
        unexpected=0,
        unchecked=0,
        under_way=0,
    )
    return Verification((check,))


GOOD = Ending(EVEN, ledger(True), verification(0), (), NOTHING, NOTHING, kills=1, answered_twice=0)


def test_all_accounts_agree() -> None:
    assert GOOD.even


@pytest.mark.parametrize(
    "bad",
    [
        replace(GOOD, proof=replace(EVEN, lost=1)),
        replace(GOOD, proof=replace(EVEN, dead=1)),
        replace(GOOD, ledger=ledger(False)),
        # An account that can't be told proves nothing.
        replace(GOOD, ledger=ledger(None)),
        replace(GOOD, verification=verification(1)),
    ],
)
def test_one_that_does_not_is_enough(bad: Ending) -> None:
    assert not bad.even
