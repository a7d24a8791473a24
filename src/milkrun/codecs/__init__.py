"""Between a producer's bytes and typed columns, one module a format.

Imports only `milkrun.model` and `milkrun.plugin`, and never the log or a connector.
"""
