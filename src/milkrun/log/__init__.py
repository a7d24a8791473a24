"""The durable log: its protocol and its implementations.

Everything above works on the `Log` protocol alone; which implementation runs is one line of `milkrun.yaml`.
"""
