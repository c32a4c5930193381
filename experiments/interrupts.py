"""Ctrl-C that stops between two training steps, never within one."""

import contextlib
import signal
import sys
import threading
from collections.abc import Iterator


class Stop:
    """Whether, and by which signal, the user asked to stop."""

    received: signal.Signals | None = None


class Interrupted(Exception):  # noqa: N818 - no error, like KeyboardInterrupt
    """Training stopped at the user's request, after writing a checkpoint."""

    def __init__(self, received: signal.Signals):
        """Name the signal and the exit status that a shell expects of it."""
        super().__init__(received.name)
        self.exit_code = 128 + received


@contextlib.contextmanager
def deferred() -> Iterator[Stop]:
    """Note SIGINT and SIGTERM instead of dying of them; a second one acts at once.

    Donated buffers are gone while a step runs, so a checkpoint can only be taken between steps.

    Yields:
        What to look at between steps.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop  # only the main thread may set handlers
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    earlier = {number: signal.getsignal(number) for number in signals}

    def note(number: int, frame: object) -> None:
        del frame
        stop.received = signal.Signals(number)
        print("\nstopping after this step; once more to stop at once", file=sys.stderr)
        for each in signals:
            signal.signal(each, earlier[each])

    try:
        for each in signals:
            signal.signal(each, note)
        yield stop
    finally:
        for each in signals:
            signal.signal(each, earlier[each])
