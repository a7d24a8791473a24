"""Each JSON engine in turn, for the tests of a module that ask for it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from milkrun.compiled import VARIABLE
from tests.codecs.engines import ENGINES, forget_engine, need_native


@pytest.fixture(params=ENGINES, scope="module")
def each_engine(request: pytest.FixtureRequest) -> Iterator[None]:
    """What this process reads JSON by."""
    if request.param == "native":
        need_native()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(VARIABLE, request.param)
        forget_engine()
        yield
    forget_engine()
