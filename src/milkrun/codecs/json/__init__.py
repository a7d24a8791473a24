"""JSON to columns: decode by a schema, pick a few paths, split bodies, infer and check schemas; in plain Python.

A row that can't be decoded is null in the columns and one entry in the errors, and no other row moves. Which documents are accepted
is RFC 8259 to the letter; `tests/codecs/cases.py` has each decision as a case that any further engine must pass too.
"""

from milkrun.codecs.json.checking import Validator, check_schema, incompatibilities
from milkrun.codecs.json.decoding import Decoded, decode
from milkrun.codecs.json.errors import ERROR_SCHEMA
from milkrun.codecs.json.growing import grown, infer
from milkrun.codecs.json.picking import Picked, pick
from milkrun.codecs.json.splitting import Split, split_array, split_lines

__all__ = [
    "ERROR_SCHEMA",
    "Decoded",
    "Picked",
    "Split",
    "Validator",
    "check_schema",
    "decode",
    "grown",
    "incompatibilities",
    "infer",
    "pick",
    "split_array",
    "split_lines",
]
