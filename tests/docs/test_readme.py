"""What the README says of connectors is what they declare."""

import re

from milkrun.control.catalog import connectors
from tests.docs.blocks import README

_ROW = re.compile(r"^\| (source|sink) `(\w+)` \| ([\w ]+) \|", re.M)


def test_the_table_of_promises_is_the_connectors_own() -> None:
    told = {(kind, name): promise for kind, name, promise in _ROW.findall(README.read_text(encoding="utf-8"))}
    declared = {(each.kind, each.name): each.delivery for each in connectors(None) if each.name != "outbox"}
    assert told == declared
