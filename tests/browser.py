"""A headless Chromium, driven through chromedriver's WebDriver interface (w3.org/TR/webdriver2).

Nothing but the standard library: the protocol is JSON over HTTP.
"""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

CHROMIUM = next((p for n in ("chromium", "google-chrome") if (p := shutil.which(n))), None)
DRIVER = shutil.which("chromedriver")
MISSING = "needs Chromium and chromedriver (apt-get install chromium chromium-driver)"
KEYS = {
    "Tab": "\ue004",
    "Enter": "\ue007",
    "Escape": "\ue00c",
    "End": "\ue010",
    "Home": "\ue011",
    "Left": "\ue012",
    "Up": "\ue013",
    "Right": "\ue014",
    "Down": "\ue015",
}


class Browser:
    """One window."""

    def __init__(self, address: str, session: str):
        self.address = address
        self.session = session

    def send(self, method: str, path: str, data: Any = None) -> Any:
        return _send(self.address, method, f"/session/{self.session}{path}", data)

    def open(self, file: Path, fragment: str = "") -> None:
        self.send("POST", "/url", {"url": file.absolute().as_uri() + fragment})

    def run(self, script: str, *arguments: Any) -> Any:
        """What a script returns; one that returns a promise is waited for."""
        data = {"script": script, "args": list(arguments)}
        return self.send("POST", "/execute/sync", data)

    def wait(self, condition: str, seconds: float = 20) -> None:
        """Until an expression is true."""
        end = time.monotonic() + seconds
        while not self.run(f"return Boolean({condition})"):
            assert time.monotonic() < end, f"this never came true: {condition}"
            time.sleep(0.05)

    def press(self, *keys: str) -> None:
        """Keys on what has the focus: names of KEYS, or characters."""
        actions = [{"type": kind, "value": KEYS.get(key, key)} for key in keys for kind in _DOWN_UP]
        self.send("POST", "/actions", {"actions": [{"type": "key", "id": "k", "actions": actions}]})

    def logs(self, kind: str) -> list[dict[str, Any]]:
        """New entries of the log `browser` (the console) or `performance` (the network)."""
        return self.send("POST", "/se/log", {"type": kind})

    def prefer(self, scheme: str) -> None:
        """Make the system's scheme "light" or "dark"."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        data = {"cmd": "Emulation.setEmulatedMedia", "params": {"features": features}}
        self.send("POST", "/goog/cdp/execute", data)

    def picture(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.send("GET", "/screenshot")))


_DOWN_UP = ("keyDown", "keyUp")


def _send(address: str, method: str, path: str, data: Any) -> Any:
    body = None if data is None and method == "GET" else json.dumps(data or {}).encode()
    request = urllib.request.Request(address + path, body, method=method)
    request.add_header("Content-Type", "application/json")
    try:
        with urllib.request.urlopen(request, timeout=120) as answer:
            return json.load(answer)["value"]
    except urllib.error.HTTPError as error:
        raise AssertionError(error.read().decode()) from None


@contextmanager
def browser(width: int = 1400, height: int = 1000) -> Iterator[Browser]:
    """A new browser that is gone afterwards."""
    assert CHROMIUM and DRIVER
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    driver = subprocess.Popen(
        [DRIVER, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    address = f"http://127.0.0.1:{port}"
    try:
        _wait_for(port)
        arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"]
        wanted = {
            "goog:chromeOptions": {
                "binary": CHROMIUM,
                "args": [*arguments, f"--window-size={width},{height}"],
            },
            "goog:loggingPrefs": {"browser": "ALL", "performance": "ALL"},
        }
        data = {"capabilities": {"alwaysMatch": wanted}}
        session = _send(address, "POST", "/session", data)["sessionId"]
        made = Browser(address, session)
        try:
            yield made
        finally:
            _send(address, "DELETE", f"/session/{session}", None)
    finally:
        driver.terminate()
        driver.wait(10)


def _wait_for(port: int) -> None:
    end = time.monotonic() + 20
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            assert time.monotonic() < end, "chromedriver does not start"
            time.sleep(0.05)
