"""Benchmarks of Milkrun beside the ceiling of the bare library or client, measured in the same run: `python -m bench`.

`catalog` says what is measured, `running` measures it in fresh processes, `cases` has what runs there, `load` what sends to it.
"""
