"""JSON: typed columns from a column of texts and back, scalars at paths, inferred schemas, checks against JSON Schema, bodies split.

What is accepted and what not is the same for every engine and stands, case by case, in `tests/codecs/json_cases.py`.
"""

from milkrun.codecs.json.compatibility import incompatibilities
from milkrun.codecs.json.decoding import Decoded
from milkrun.codecs.json.documents import check_schema
from milkrun.codecs.json.engine import Engine, decode, engine, pick, split
from milkrun.codecs.json.faults import ERRORS_SCHEMA, Code
from milkrun.codecs.json.inference import grown, infer
from milkrun.codecs.json.picking import Picked
from milkrun.codecs.json.reading import MAX_DEPTH
from milkrun.codecs.json.splitting import Split
from milkrun.codecs.json.validation import Validator
from milkrun.encoding import Writing, encode

__all__ = [
    "ERRORS_SCHEMA",
    "MAX_DEPTH",
    "Code",
    "Decoded",
    "Engine",
    "Picked",
    "Split",
    "Validator",
    "Writing",
    "check_schema",
    "decode",
    "encode",
    "engine",
    "grown",
    "incompatibilities",
    "infer",
    "pick",
    "split",
]
