"""The tasks that move batches from source to log and from log to sink, and the commit that makes a move true.

Stands on the log and the codecs; connectors are reached through entry points alone.
"""
