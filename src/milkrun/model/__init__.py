"""The words of Milkrun as values: batches, specs, schemas, errors, clocks.

This package imports nothing else of Milkrun; everything else may import it.
"""
