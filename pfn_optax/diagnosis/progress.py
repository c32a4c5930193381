"""What is being looked at, told on stderr."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Progress:
    """A bar of the library `tqdm`, or without it a line for each step."""

    def __init__(self, bar: Any | None, *, is_shown: bool):
        """Begins before the first step."""
        self._bar, self._is_shown, self._count = bar, is_shown, 0

    def begin(self, name: str) -> None:
        """Says what comes next."""
        if self._bar is not None:
            self._bar.update(min(self._count, 1))
            self._bar.set_description(name)
        elif self._is_shown:
            print(name, file=sys.stderr, flush=True)
        self._count += 1


@contextmanager
def progress_of(total: int, *, is_shown: bool) -> Iterator[Progress]:
    """Shows how many of the steps are done, until the context is left."""
    if not is_shown:
        yield Progress(None, is_shown=False)
        return
    try:
        from tqdm import tqdm
    except ModuleNotFoundError:
        yield Progress(None, is_shown=True)
        return
    with tqdm(total=total, unit="check", leave=False, dynamic_ncols=True) as bar:
        yield Progress(bar, is_shown=True)
