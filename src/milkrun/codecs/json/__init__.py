"""JSON: typed columns from a column of texts, scalars at paths, inferred schemas, checks against JSON Schema, bodies split.

What is accepted and what not is the same for every engine and stands, case by case, in `tests/codecs/json_cases.py`.
"""

from milkrun.codecs.json.decoding import MAX_DEPTH, Decoded, decode
from milkrun.codecs.json.faults import ERRORS_SCHEMA, Code

__all__ = ["ERRORS_SCHEMA", "MAX_DEPTH", "Code", "Decoded", "decode"]
