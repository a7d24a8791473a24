"""From the files of a project to running pipelines: plan, apply, preview, replay, repair, status.

Stands on the runtime; the command line and the server call it and have no logic of their own.
"""
