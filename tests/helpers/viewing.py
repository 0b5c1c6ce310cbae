"""A viewer that is served by a thread, and requests to it as a browser would send them."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import uvicorn

from stargap.validation.viewer.explore import Explorer
from stargap.validation.viewer.marks import MarkedStars
from stargap.validation.viewer.server import view_application
from stargap.validation.viewer.spectra import RunSpectra
from stargap.validation.viewer.table import Catalogue

TOKEN = "a-secret-of-tests"


class Viewer:
    """Where it listens: `address` for a browser, `ask` for a test."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.host = f"127.0.0.1:{port}"
        self.address = f"http://{self.host}/{TOKEN}/"

    def request(
        self, path: str, *, method: str = "GET", body: bytes | None = None, host: str | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        """Send one request with a path as it stands, and return status, headers and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.putrequest(method, path, skip_host=True)
        given = {"host": self.host if host is None else host} | headers
        given |= {} if body is None else {"content-length": str(len(body))}
        for name, value in given.items():
            connection.putheader(name.replace("_", "-"), value)
        connection.endheaders(body)
        answer = connection.getresponse()
        found = answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read()
        connection.close()
        return found

    def ask(self, name: str, /, **query: Any) -> Any:
        """Return what the script would get."""
        status, _, body = self.request(f"/{TOKEN}/{name}?{urlencode(query)}")
        content = json.loads(body)
        assert status == (400 if isinstance(content, dict) and "error" in content else 200), body
        return content

    def mark(self, row: int, mark: str, note: str = "") -> Any:
        """Mark a row as the script would."""
        body = json.dumps({"row": row, "mark": mark, "note": note}).encode()
        given = {"content_type": "application/json", "origin": f"http://{self.host}"}
        return json.loads(self.request(f"/{TOKEN}/marks", method="POST", body=body, **given)[2])


@contextmanager
def viewing(folder: Path, marks: Path | None = None) -> Iterator[Viewer]:
    """Serve a run at a free port until the end of the block."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        marked = None if marks is None else MarkedStars(marks)
        explorer, hosts = Explorer(Catalogue(folder)), [f"127.0.0.1:{port}"]
        application = view_application(explorer, RunSpectra(folder), marked, token=TOKEN, hosts=hosts)
        config = uvicorn.Config(application, log_level="critical", lifespan="off", ws="none")
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        while not server.started:
            time.sleep(0.01)
        try:
            yield Viewer(port)
        finally:
            server.should_exit = True
            thread.join()
