"""What sinks that write to tables of a database share: from a cut to named columns and keyed rows.

Pure functions of the cut; no database is known here. It imports `milkrun.encoding`, `milkrun.plugin` and `milkrun.model` only, and the
connectors of databases stand on it, so that a user can exchange one for another and find the same tables and columns.
"""
