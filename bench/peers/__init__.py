"""Other programs over the same events: what a user would write for them, beside Milkrun's own path to the same target.

Peers read the events from a file, check nothing that they don't have to, and know no offsets. Nothing of Milkrun is imported here; what a
peer needs that may not be installed is named in `bench.catalog`.
"""
