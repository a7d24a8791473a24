"""The options that every command has."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from milkrun.cli.output import Format, Output
from milkrun.control.coordinator import Project

When = Annotated[str | None, Parameter(allow_leading_hyphen=True)]
Count = Annotated[int, Parameter(validator=Number(gte=1))]


@Parameter(name="*")
@dataclass(frozen=True)
class Common:
    """Options of every command."""

    project: Annotated[
        Path, Parameter(name=["--project", "-p"], env_var="MILKRUN_PROJECT", help="The project's folder.")
    ] = Path()
    output: Annotated[Format, Parameter(name=["--output", "-o"], help="How results are shown.")] = "text"
    debug: Annotated[bool, Parameter(negative="", help="Show where an unexpected error happened.")] = False

    @property
    def out(self) -> Output:
        """Where results go."""
        return Output(self.output)

    @contextmanager
    def opened(self, *, bare: bool = False) -> Iterator[tuple[Project, Output]]:
        """The project, closed in the end; `bare` without its pipelines."""
        with Project(self.project, bare=bare) as project:
            yield project, self.out


DEFAULT = Common()
