"""Values that have a type which is written but no text themselves, such as a timestamp in the year 10000."""

from __future__ import annotations

YEARS = "is not within the years 1 to 9999"
DAY = "is no time of a day"


class Unfit(Exception):
    """A column holds such a value. Raised and caught within this package; an engine that knows the row says so."""

    def __init__(self, path: str, what: str, row: int | None = None) -> None:
        super().__init__(what)
        self.path = path
        self.what = what
        self.row = row

    def text(self) -> str:
        """What is wrong and where."""
        return f"row {self.row}: the value{self.path and ' of '}{self.path} {self.what}, so JSON has no text for it"
