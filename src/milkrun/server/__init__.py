"""What Milkrun serves over HTTP beside the collector: status and metrics.

Thin over `milkrun.control`, and the only asynchronous package.
"""
