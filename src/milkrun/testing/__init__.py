"""Contract suites and scripted fakes for the authors of logs, sources and sinks.

Only tests import it; it stands on `milkrun.runtime` and the packages below it.
"""
