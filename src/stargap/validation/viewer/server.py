"""The viewer as a web application for one person on one machine: every address holds a secret, nothing else answers."""

from __future__ import annotations

import json
import math
import secrets
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from stargap.errors import UsageError
from stargap.validation.viewer.bins import View
from stargap.validation.viewer.explore import DIAGRAMS, Explorer
from stargap.validation.viewer.marks import MarkedStars
from stargap.validation.viewer.page import view_page
from stargap.validation.viewer.spectra import RunSpectra

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Guard", "view_application"]

_LONGEST_BODY = 20_000
_HEADERS = (
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"no-referrer"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
)


class Guard:
    """Lets requests through that know the secret, name this machine, and come from no page but the viewer's own.

    A page of another site can make a browser ask this machine, and can give its own name this machine's address (DNS
    rebinding): neither knows the secret, which is the first part of every path, and neither has our Host.

    Args:
        application: what answers; it sees paths without the secret.
        token: the secret.
        hosts: names with the port that a request may be addressed to.
    """

    def __init__(self, application: ASGIApp, token: str, hosts: Sequence[str]) -> None:
        self.application = application
        self.token = token.encode()
        self.hosts = frozenset(hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        from starlette.responses import PlainTextResponse, RedirectResponse

        if scope["type"] != "http":  # no websockets; uvicorn is told that there is no lifespan
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        _, _, rest = scope["path"].partition("/")
        token, slash, rest = rest.partition("/")
        origins = {f"http://{host}" for host in self.hosts}

        async def sealed(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message.get("headers", ()), *_HEADERS]
            await send(message)

        answer: Response
        if headers.get("host") not in self.hosts:
            answer = PlainTextResponse("stargap view answers to this machine's own address alone", 421)
        elif not secrets.compare_digest(token.encode("utf-8", "surrogateescape"), self.token):
            answer = PlainTextResponse("not found: open the address that stargap view prints", 404)
        elif headers.get("origin", next(iter(origins))) not in origins:
            answer = PlainTextResponse("requests of other pages are not answered", 403)
        elif not slash:  # the page asks for what is beside it
            answer = RedirectResponse(f"/{token}/")
        else:
            inner = {**scope, "path": f"/{rest}", "raw_path": f"/{rest}".encode("utf-8", "surrogateescape")}
            await self.application(inner, receive, sealed)
            return
        await answer(scope, receive, sealed)


def view_application(
    explorer: Explorer, spectra: RunSpectra, marked: MarkedStars | None, *, token: str, hosts: Sequence[str]
) -> Guard:
    """Return the application: the page, and what its script asks for.

    Args:
        explorer: answers about the catalogue.
        spectra: of the same run.
        marked: the person's list; None where no file was named, and nothing can be marked.
        token: the secret in every address.
        hosts: names with the port that a request may be addressed to.
    """
    from starlette.applications import Starlette
    from starlette.routing import Route

    answers = _Answers(explorer, spectra, marked)
    routes = [Route("/", _page(explorer, marked)), Route("/marks", answers.mark, methods=["POST"])]
    for name in (
        "start",
        "diagram",
        "pick",
        "step",
        "neighbour",
        "find",
        "star",
        "cells",
        "observed",
        "fitted",
        "marks",
    ):
        routes.append(Route(f"/{name}", _json(getattr(answers, name)), methods=["GET"]))
    application = Starlette(routes=routes, exception_handlers={UsageError: _refused, OSError: _refused})
    return Guard(application, token, hosts)


def _page(explorer: Explorer, marked: MarkedStars | None) -> Callable[[Request], Response]:
    def page(request: Request) -> Response:
        from starlette.responses import HTMLResponse

        nonce = secrets.token_urlsafe(16)
        policy = (
            f"default-src 'none'; script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'; connect-src 'self'; "
            "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
        )
        text = view_page(explorer.catalogue, None if marked is None else marked.path, nonce)
        return HTMLResponse(text, headers={"content-security-policy": policy})

    return page


def _json(answer: Callable[[Mapping[str, str]], Any]) -> Callable[[Request], Response]:
    """Return an endpoint, which works in a thread, of a function of the query."""

    def endpoint(request: Request) -> Response:
        from starlette.responses import Response

        text = json.dumps(answer(request.query_params), separators=(",", ":"), allow_nan=False)
        return Response(text, media_type="application/json")

    return endpoint


async def _refused(request: Request, error: Exception) -> Response:
    from starlette.responses import JSONResponse

    return JSONResponse({"error": str(error)}, 400)


class _Answers:
    """What the page's script asks for, by the name of the path; each takes the query."""

    def __init__(self, explorer: Explorer, spectra: RunSpectra, marked: MarkedStars | None) -> None:
        self.explorer, self.spectra, self.marked = explorer, spectra, marked

    def start(self, query: Mapping[str, str]) -> dict[str, Any]:
        return self.explorer.start() | {"marks": self.marks(query)}

    def diagram(self, query: Mapping[str, str]) -> dict[str, Any]:
        name, view = _view(query)
        return self.explorer.diagram(name, query.get("colour", ""), view, query.get("filter", ""))

    def pick(self, query: Mapping[str, str]) -> int | None:
        name, view = _view(query)
        return self.explorer.pick(name, view, (_float(query, "x"), _float(query, "y")), query.get("filter", ""))

    def step(self, query: Mapping[str, str]) -> int | None:
        name, view = _view(query)
        direction, text = query.get("direction", ""), query.get("filter", "")
        return self.explorer.step(name, view, _int(query, "row"), direction, text)

    def neighbour(self, query: Mapping[str, str]) -> int | None:
        return self.explorer.neighbour(_int(query, "row"), _int(query, "way"), query.get("filter", ""))

    def find(self, query: Mapping[str, str]) -> int:
        return self.explorer.catalogue.find(query.get("text", ""))

    def star(self, query: Mapping[str, str]) -> dict[str, Any]:
        return self.explorer.star(_int(query, "row"))

    def cells(self, query: Mapping[str, str]) -> list[str]:
        return self.explorer.cells(_int(query, "row"))

    def observed(self, query: Mapping[str, str]) -> dict[str, Any]:
        return self.spectra.observed(self._spectrum(query))

    def fitted(self, query: Mapping[str, str]) -> dict[str, Any]:
        return self.spectra.fitted(self._spectrum(query))

    def _spectrum(self, query: Mapping[str, str]) -> int:
        row = self.explorer.known(_int(query, "row"))
        return int(self.explorer.catalogue.column("spectrum_id")[row])

    def marks(self, query: Mapping[str, str]) -> list[dict[str, str]] | None:
        return None if self.marked is None else self.marked.listed()

    async def mark(self, request: Request) -> Response:
        """Mark a spectrum: JSON with row, mark and note."""
        from starlette.concurrency import run_in_threadpool
        from starlette.responses import JSONResponse

        if self.marked is None:
            message = "no file was named for marks: start stargap view with --marks FILE.csv"
            raise UsageError(message)
        if request.headers.get("content-type", "").partition(";")[0] != "application/json":
            message = "a mark is sent as application/json"
            raise UsageError(message)
        body = b""
        async for part in request.stream():
            body += part
            if len(body) > _LONGEST_BODY:
                message = f"a mark may have {_LONGEST_BODY:,} bytes"
                raise UsageError(message)
        row, mark, note = _mark_of(body)
        explorer = self.explorer
        listed = await run_in_threadpool(
            self.marked.put, mark, note, lambda: explorer.catalogue.row(explorer.known(row))
        )
        return JSONResponse(listed)


def _mark_of(body: bytes) -> tuple[int, str, str]:
    try:
        given = json.loads(body)
        row, mark, note = given["row"], given["mark"], given["note"]
    except (ValueError, KeyError, TypeError, RecursionError):
        row, mark, note = None, None, None
    if type(row) is not int or not isinstance(mark, str) or not isinstance(note, str):
        message = "a mark is a row (number), a mark and a note (texts)"
        raise UsageError(message)
    return row, mark, note


def _float(query: Mapping[str, str], name: str) -> float:
    try:
        value = float(query.get(name, ""))
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        message = f"{name} must be a number"
        raise UsageError(message)
    return value


def _int(query: Mapping[str, str], name: str) -> int:
    text = query.get(name, "")
    if not (text.removeprefix("-").isascii() and text.removeprefix("-").isdigit() and len(text) < 20):
        message = f"{name} must be a whole number"
        raise UsageError(message)
    return int(text)


def _view(query: Mapping[str, str]) -> tuple[str, View]:
    """Return which diagram is meant and what it shows."""
    name = query.get("name", "")
    if name not in DIAGRAMS:
        message = f"no diagram {name!r}; there are {', '.join(DIAGRAMS)}"
        raise UsageError(message)
    x0, x1, y0, y1 = (_float(query, end) for end in ("x0", "x1", "y0", "y1"))
    width, height = _int(query, "width"), _int(query, "height")
    if not (x0 < x1 and y0 < y1 and 0 < width <= 8000 and 0 < height <= 8000):
        message = "a diagram needs x0 < x1, y0 < y1, and 1 to 8000 pixels each way"
        raise UsageError(message)
    return name, View((x0, x1), (y0, y1), width, height, DIAGRAMS[name][2])
