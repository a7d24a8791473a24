"""Runs pipelines: source tasks, sink tasks, the commit, dead letters, the ledger's entries.

Reaches connectors through the registry of entry points alone, and a log through its protocol alone.
"""
