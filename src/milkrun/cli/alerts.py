"""The command that writes what Prometheus and Grafana need: alerts."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from milkrun.cli.common import DEFAULT, Common
from milkrun.control.coordinator import alert_files


def register(app: App) -> None:
    """Add the command."""
    app.command(alerts)


def alerts(*, output_dir: Path | None = None, job: str = "milkrun", common: Common = DEFAULT) -> None:
    """Write alerting rules for Prometheus and a dashboard for Grafana; they suit every project.

    Parameters
    ----------
    output_dir
        The folder to write `milkrun-rules.yml` and `milkrun-dashboard.json` into; without it the rules are shown.
    job
        What Prometheus' scrape configuration calls the job that scrapes Milkrun.
    """
    written = alert_files(job, output_dir)
    out = common.out
    if out.format == "json":
        out.json(written)
    elif output_dir is None:
        out.raw(written.rules.encode())
    else:
        for path in written.files:
            out.line(path)
