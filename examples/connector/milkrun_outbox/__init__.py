"""Two connectors that live outside Milkrun: a source of an outbox table in SQLite, a sink to a folder of Arrow files.

They import `milkrun.plugin` and `milkrun.model` alone, and are found through the entry points of this package.
"""
