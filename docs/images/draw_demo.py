"""Draws docs/images/demo.svg: runs the demo in a temporary folder and keeps what it shows. `python docs/images/draw_demo.py`."""

import io
import os
import re
import tempfile
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.terminal_theme import MONOKAI

from milkrun.cli.demo import command
from milkrun.cli.output import Format, Output

WIDTH = 118

console = Console(record=True, width=WIDTH, file=io.StringIO(), highlight=False, soft_wrap=False)


class Recorder(Output):
    """Keeps what is shown, with its colours."""

    def __init__(self, format: Format = "text") -> None:
        super().__init__(format)
        self.console = console

    def line(self, text: str = "", *, style: str | None = None) -> None:
        """A line, in colour though this is no terminal."""
        self.console.print(escape(text), style=style)


def draw(target: Path) -> None:
    """Run the demo and write the picture."""
    command.Output = Recorder  # type: ignore[attr-defined]
    what_next = command._what_next
    command._what_next = lambda *arguments: None
    os.environ["MILKRUN_DEMO_AMQP"] = ""
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        command.demo(Path("milkrun-demo"))
        svg = console.export_svg(title="make demo", theme=MONOKAI)
    command._what_next = what_next
    # No font from elsewhere: a viewer's own will do.
    target.write_text(re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL), encoding="utf-8")


if __name__ == "__main__":
    draw(Path(__file__).with_name("demo.svg").absolute())
