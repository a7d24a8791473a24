"""Typed columns to JSON: one compact text a row, the same bytes whichever engine writes it.

It stands below codecs and connectors, so that events and the documents of sinks are written by the same code: in plain Python, or by
the compiled package `milkrun-native` where this process uses it (`milkrun.compiled`).
"""

from milkrun.encoding.encoder import encode
from milkrun.encoding.writing import Writing

__all__ = ["Writing", "encode"]
