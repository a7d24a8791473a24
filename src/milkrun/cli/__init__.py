"""The commands, thin over `milkrun.control`.

May start the server; nothing imports it.
"""
