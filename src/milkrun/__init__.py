"""Milkrun brings events into a durable log and delivers them exactly once to a warehouse and a lake.

The packages below import one way only, from `cli` down to `model`; import-linter holds that in CI.
"""

from importlib.metadata import version

__version__ = version("milkrun")
