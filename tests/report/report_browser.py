"""A headless Chromium, driven over the pipe of its DevTools protocol: no port, no driver, no package.

axe-core, which looks for what keeps people from reading a page, comes with a package of the dev extra.
"""

import base64
import importlib.util
import json
import os
import select
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
_PACKAGE = importlib.util.find_spec("axe_core_python")
AXE = Path(_PACKAGE.origin).with_name("axe.min.js") if _PACKAGE else None
needs_axe = pytest.mark.skipif(AXE is None, reason="axe-core is not installed (package axe-core-python)")


class Page:
    """A tab; ``events`` holds what the browser told about it so far."""

    def __init__(self, write_fd: int, read_fd: int):
        self.write_fd, self.read_fd = write_fd, read_fd
        self.buffer, self.number, self.session = b"", 0, None
        self.events: list[dict] = []
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **params) -> dict:
        self.number += 1
        message = {"id": self.number, "method": method, "params": params}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write_fd, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._receive()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer["error"]
                return answer["result"]
            self.events.append(answer)

    def open(self, path: Path, width: int, dark: bool = False, height: int = 900) -> None:
        """Load a file in a window of so many CSS pixels and wait until it is drawn."""
        self.events.clear()
        scheme = "dark" if dark else "light"
        self.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])
        phone = width < 600
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=phone)
        self.call("Page.navigate", url=path.as_uri())
        while not any(event["method"] == "Page.loadEventFired" for event in self.events):
            self.events.append(self._receive())
        drawn = "new Promise(done => requestAnimationFrame(() => setTimeout(done, 300)))"
        self.call("Runtime.evaluate", expression=drawn, awaitPromise=True)

    def value(self, expression: str):
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def screenshot(self, target: Path) -> None:
        """The whole page, not the window only."""
        image = self.call("Page.captureScreenshot", captureBeyondViewport=True)
        target.write_bytes(base64.b64decode(image["data"]))

    def pdf(self, target: Path) -> None:
        target.write_bytes(base64.b64decode(self.call("Page.printToPDF", printBackground=True)["data"]))

    def violations(self) -> list[str]:
        """What axe-core finds on the open page: rule, part of the page, why."""
        # A shade that says "there is more" is a picture to axe, which then judges no contrast.
        plain = (
            "document.head.append(Object.assign(document.createElement('style'), "
            "{textContent: '.scroll { background: var(--ground) !important; }'}))"
        )
        self.value(plain)
        self.value(AXE.read_text(encoding="utf-8"))
        run = "axe.run({resultTypes: ['violations']}).then(found => JSON.stringify(found.violations))"
        answer = self.call("Runtime.evaluate", expression=run, awaitPromise=True, returnByValue=True)
        return [
            f"{rule['id']}: {node['target']}: {node['failureSummary']}"
            for rule in json.loads(answer["result"]["value"])
            for node in rule["nodes"]
        ]

    def complaints(self) -> list[str]:
        """Errors and warnings of the console, exceptions, and requests for anything but the page itself."""
        found = []
        for event in self.events:
            method, params = event["method"], event["params"]
            if method == "Runtime.exceptionThrown":
                found.append(params["exceptionDetails"]["text"])
            elif method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert"):
                found.append(str(params["args"]))
            elif method == "Log.entryAdded":
                found.append(params["entry"]["text"])
            elif method == "Network.requestWillBeSent":
                url = params["request"]["url"]
                if params["type"] != "Document" and not url.startswith("data:"):
                    found.append(url)
        return found

    def _receive(self, seconds: float = 60) -> dict:
        deadline = time.monotonic() + seconds
        while b"\0" not in self.buffer:
            ready, _, _ = select.select([self.read_fd], [], [], max(0, deadline - time.monotonic()))
            assert ready, f"no answer from the browser within {seconds} s"
            piece = os.read(self.read_fd, 1 << 20)
            assert piece, "the browser ended"
            self.buffer += piece
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)


@contextmanager
def chromium(profile: Path):
    """A tab of a fresh browser whose profile lies in the folder ``profile``."""
    to_read, to_write = os.pipe()
    from_read, from_write = os.pipe()
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--hide-scrollbars"]
    command = [CHROMIUM, *flags, "--remote-debugging-pipe", f"--user-data-dir={profile}", "about:blank"]
    # The browser reads file descriptor 3 and writes file descriptor 4.
    shell = ["bash", "-c", f'exec "$@" 3<&{to_read} 4>&{from_write}', "bash", *command]
    process = subprocess.Popen(
        shell, pass_fds=(to_read, from_write), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    os.close(to_read)
    os.close(from_write)
    try:
        yield Page(to_write, from_read)
    finally:
        os.close(to_write)
        os.close(from_read)
        process.terminate()
        process.wait(timeout=30)
