"""A real browser without a window: Chromium, spoken to through a pipe (DevTools protocol)."""

import base64
import contextlib
import fcntl
import json
import os
import select
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
PATIENCE = 60  # seconds; a start on a busy machine takes a few


def executable():
    """Path of the browser: that of the environment variable CHROMIUM, or one that is installed."""
    named = os.environ.get("CHROMIUM")
    return shutil.which(named) if named else next(filter(None, map(shutil.which, NAMES)), None)


needs_browser = [
    pytest.mark.browser,
    pytest.mark.skipif(
        executable() is None, reason="no Chromium: install it, or name it in CHROMIUM"
    ),
]


class Browser:
    """One tab.

    Attributes:
        complaints: what the page wrote to the console, and what it threw.
        requests: addresses that it asked for.
    """

    def __init__(self, process, to_browser, from_browser):
        self._process, self._to, self._from = process, to_browser, from_browser
        self._buffer, self._count, self._session = b"", 0, None
        self._has_loaded = False
        self.complaints, self.requests = [], []
        target = self._call("Target.createTarget", url="about:blank")["targetId"]
        attached = self._call("Target.attachToTarget", targetId=target, flatten=True)
        self._session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self._call(f"{domain}.enable")

    def open(self, path, *, width=1280, height=900, is_dark=False):
        """Shows a file in a window of that size."""
        self.complaints.clear()
        self.requests.clear()
        self._call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 500,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if is_dark else "light"}
        self._call("Emulation.setEmulatedMedia", features=[scheme])
        self._has_loaded = False
        address = Path(path).resolve().as_uri()
        self._call("Page.navigate", url=address)
        while not self._has_loaded:
            self._receive()
        # Two frames later it is laid out, and what it was going to do it has done.
        self.evaluate("new Promise(r => requestAnimationFrame(() => requestAnimationFrame(r)))")
        self.requests = [found for found in self.requests if found != address]

    def evaluate(self, expression):
        """The value of a JavaScript expression in the page."""
        answer = self._call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def screenshot(self, *, whole=True):
        """The page, to its end, as PNG."""
        answer = self._call("Page.captureScreenshot", captureBeyondViewport=whole, format="png")
        return base64.b64decode(answer["data"])

    def _call(self, method, **parameters):
        self._count += 1
        message = {"id": self._count, "method": method, "params": parameters}
        if self._session is not None:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self._count:
                assert "error" not in answer, (method, answer["error"])
                return answer["result"]

    def _receive(self):
        until = time.monotonic() + PATIENCE
        while b"\0" not in self._buffer:
            ready, _, _ = select.select([self._from], [], [], max(0, until - time.monotonic()))
            assert ready, f"the browser said nothing for {PATIENCE} s"
            chunk = os.read(self._from, 1 << 20)
            assert chunk, f"the browser stopped with code {self._process.poll()}"
            self._buffer += chunk
        head, _, self._buffer = self._buffer.partition(b"\0")
        message = json.loads(head)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, method, parameters):
        if method == "Page.loadEventFired":
            self._has_loaded = True
        elif method == "Runtime.exceptionThrown":
            self.complaints.append(parameters["exceptionDetails"])
        elif method == "Runtime.consoleAPICalled":
            self.complaints.append(parameters["args"])
        elif method == "Log.entryAdded":
            self.complaints.append(parameters["entry"]["text"])
        elif method == "Network.requestWillBeSent":
            self.requests.append(parameters["request"]["url"])


def _moved_up(descriptor):
    """The same pipe, under a number that is not among the first ten."""
    copy = fcntl.fcntl(descriptor, fcntl.F_DUPFD, 10)
    os.close(descriptor)
    return copy


@contextlib.contextmanager
def browser():
    """Starts a browser and ends it."""
    (to_read, to_write), (from_read, from_write) = os.pipe(), os.pipe()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        # It reads commands from descriptor 3 and answers on descriptor 4; ours must be others.
        to_read, from_write = map(_moved_up, (to_read, from_write))
        wiring = f'exec "$0" "$@" 3<&{to_read} 4>&{from_write}'
        options = (
            "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --no-first-run "
            f"--disable-background-networking --remote-debugging-pipe --user-data-dir={home}"
        )
        process = subprocess.Popen(
            ["bash", "-c", wiring, executable(), *options.split(), "about:blank"],
            pass_fds=(to_read, from_write),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        os.close(to_read)
        os.close(from_write)
        try:
            yield Browser(process, to_write, from_read)
        finally:
            process.terminate()
            process.wait(PATIENCE)
            os.close(to_write)
            os.close(from_read)
