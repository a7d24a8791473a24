"""The built-in sources and sinks, one module each, reached through entry points like anyone else's.

A module here imports only `milkrun.model`, `milkrun.plugin` and its own vendor's library, never a sibling.
"""
