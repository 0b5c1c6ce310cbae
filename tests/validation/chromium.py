"""A headless Chromium driven through its debugging pipe, without any other package."""

import json
import os
import select
import shutil
import subprocess
import sys
import time

import pytest

NAMES = ("chromium", "chromium-browser", "chromium-headless-shell", "google-chrome")
FLAGS = ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
         "--disable-background-networking", "--disable-extensions", "--remote-debugging-pipe")  # fmt: skip

LAUNCH = """
import fcntl, os, sys
ends = [fcntl.fcntl(int(end), fcntl.F_DUPFD, 100) for end in sys.argv[1:3]]
for end, place in zip(ends, (3, 4)):
    os.dup2(end, place)
os.execv(sys.argv[3], sys.argv[3:])
"""
"""Starts the browser with its pipe's ends where it wants them."""


class Page:
    """One page: `open` an address, `run` an expression, `click` a place; `problems` are errors that it met."""

    def __init__(self, profile):
        binary = next(filter(None, map(shutil.which, NAMES)), None)
        if binary is None:
            pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
        to_browser, self.write = os.pipe()
        self.read, from_browser = os.pipe()
        ends = to_browser, from_browser
        command = [sys.executable, "-c", LAUNCH, *map(str, ends), binary, *FLAGS, f"--user-data-dir={profile}"]
        quiet = {name: subprocess.DEVNULL for name in ("stdin", "stdout", "stderr")}
        self.process = subprocess.Popen([*command, "about:blank"], pass_fds=ends, **quiet)
        for end in ends:
            os.close(end)
        self.number, self.rest, self.problems, self.session, self.own = 0, b"", [], None, "file:"
        target = next(one for one in self.send("Target.getTargets")["targetInfos"] if one["type"] == "page")
        attached = self.send("Target.attachToTarget", targetId=target["targetId"], flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.send(f"{domain}.enable")

    def send(self, method, **parameters):
        self.number += 1
        message = {"id": self.number, "method": method, "params": parameters}
        if self.session:
            message["sessionId"] = self.session
        os.write(self.write, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self.number:
                assert "error" not in answer, answer
                return answer["result"]

    def _next(self, timeout=60.0):
        while b"\0" not in self.rest:
            ready, _, _ = select.select([self.read], [], [], timeout)
            assert ready, "the browser does not answer"
            part = os.read(self.read, 1 << 20)
            assert part, "the browser ended"
            self.rest += part
        line, self.rest = self.rest.split(b"\0", 1)
        told = json.loads(line)
        self._note(told.get("method"), told.get("params", {}))
        return told

    def _note(self, method, told):
        if method == "Runtime.exceptionThrown":
            self.problems.append(told["exceptionDetails"].get("exception", told["exceptionDetails"]))
        elif (method == "Log.entryAdded" and told["entry"]["level"] == "error") or (
            method == "Runtime.consoleAPICalled" and told["type"] in ("error", "warning")
        ):
            self.problems.append(told)
        elif method == "Network.requestWillBeSent" and not told["request"]["url"].startswith(
            (self.own, "data:", "blob:")
        ):
            self.problems.append(told["request"]["url"])

    def size(self, width, height):
        self.send("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=False)

    def open(self, place):
        """Open a file, or an address, beyond whose folder the page must not ask for anything."""
        address = place if isinstance(place, str) else place.as_uri()
        self.own = address if isinstance(place, str) else "file:"
        self.send("Page.navigate", url=address)
        self.until("document.readyState === 'complete'")

    def run(self, expression):
        result = self.send("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def until(self, expression, seconds=30.0):
        end = time.monotonic() + seconds
        while not self.run(expression):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.02)

    def click(self, x, y):
        for kind in ("mousePressed", "mouseReleased"):
            self.send("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def key(self, name):
        for kind in ("keyDown", "keyUp"):
            self.send("Input.dispatchKeyEvent", type=kind, key=name, code=name)

    def close(self):
        self.process.kill()
        self.process.wait()
        os.close(self.write)
        os.close(self.read)
