"""The command test: runs the tests of pipeline files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from milkrun.cli.common import DEFAULT, Common
from milkrun.control.examples import junit
from milkrun.model.errors import Refused


def register(app: App) -> None:
    """Add the command."""
    app.command(test)


def test(
    *pipeline: str,
    junit_file: Annotated[Path | None, Parameter(name="--junit")] = None,
    common: Common = DEFAULT,
) -> int:
    """Run the tests that pipelines have in their files, offline. Ends with 1 where one fails.

    Parameters
    ----------
    pipeline
        The pipelines; all unless given.
    junit_file
        A file to write the results to as JUnit XML, for CI.
    """
    with common.opened() as (project, out):
        report = project.test(pipeline)
        if junit_file is not None:
            try:
                junit_file.write_text(junit(report), encoding="utf-8")
            except OSError as error:
                raise Refused(f"{junit_file} can't be written: {error.strerror}") from error
        if out.format == "json":
            out.json(report)
            return 0 if report.ok else 1
        for result in report.results:
            verdict, style = ("passed", "green") if result.ok else ("FAILED", "red")
            out.line(f"{verdict} {result.pipeline}: {result.name}", style=style)
            for failure in result.failures:
                out.line(f"  {failure}")
        failed = sum(not result.ok for result in report.results)
        out.line(f"{len(report.results)} tests, {failed} failed")
        return 0 if report.ok else 1
