"""`milkrun demo`: a simulated grocery shop whose events go through a real project, with a crash in the middle and the sums proved.

Everything it does, a user can do with the same commands; nothing of Milkrun knows that it is a demo.
"""

from milkrun.cli.demo.command import demo

__all__ = ["demo"]
