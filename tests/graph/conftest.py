"""Models of many kinds, each run once or twice: compilation is most of the time."""

import pytest


@pytest.fixture(scope="module", autouse=True)
def unoptimized(unoptimized):
    """For every module here."""
