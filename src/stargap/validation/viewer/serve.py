"""Starting the viewer: the port, the secret, the browser, and the end by Ctrl-C."""

from __future__ import annotations

import errno
import os
import secrets
import socket
import sys
import tempfile
import webbrowser
from contextlib import suppress
from pathlib import Path

from stargap.errors import UsageError
from stargap.survey.cleaning.marked import read_marked, refuse_other_run
from stargap.validation.viewer.explore import Explorer
from stargap.validation.viewer.marks import MarkedStars
from stargap.validation.viewer.server import view_application
from stargap.validation.viewer.spectra import RunSpectra
from stargap.validation.viewer.table import Catalogue

__all__ = ["LOOPBACK", "serve"]

LOOPBACK = "127.0.0.1"
_REDIRECT = '<!doctype html><meta charset="utf-8"><meta http-equiv="refresh" content="0;url={address}">'


def serve(
    folder: str | Path,
    *,
    marks: str | Path | None = None,
    port: int = 0,
    open_browser: bool = True,
) -> None:
    """Show a run in a browser of this machine until Ctrl-C.

    Only this machine can connect, and only who knows the address, which holds a secret of 256 bits that is drawn anew
    at every start. Nothing is written but the CSV of marks.

    Args:
        folder: of a run that has a catalogue, wherever it was moved.
        marks: CSV of marked stars, made with the first mark; without it nothing can be marked.
        port: 0 for any free one.
        open_browser: open the address, where there is a display.

    Raises:
        UsageError: starlette and uvicorn are not installed; there is no catalogue; the port is taken; or the CSV is
            another file, or of another run.
    """
    try:
        import starlette  # noqa: F401
        import uvicorn
    except ImportError:
        message = "stargap view needs starlette and uvicorn: pip install 'stargap[view]'"
        raise UsageError(message) from None
    catalogue = Catalogue(folder)
    marked = None if marks is None else _marked(marks, catalogue)
    with _listening(port) as listener:
        port = listener.getsockname()[1]
        token = secrets.token_urlsafe(32)
        hosts = [name if port == 80 else f"{name}:{port}" for name in (LOOPBACK, "localhost")]  # as browsers say it
        application = view_application(Explorer(catalogue), RunSpectra(folder), marked, token=token, hosts=hosts)
        address = f"http://{LOOPBACK}:{port}/{token}/"
        config = uvicorn.Config(application, log_level="warning", access_log=False, lifespan="off", ws="none")
        with suppress(KeyboardInterrupt), tempfile.TemporaryDirectory(prefix="stargap-view-") as private:
            where = f"marks go to {marks}" if marks else "with --marks FILE.csv stars can be marked"
            print(f"{catalogue.rows:,} spectra of {catalogue.folder}; {where}")
            print(f"open {address}")
            print("only this machine can, and who knows this address; Ctrl-C ends it", flush=True)
            if open_browser and _has_display():
                _open(address, Path(private))
            uvicorn.Server(config).run(sockets=[listener])  # which raises the interrupt again once it has ended
        print("ended")


def _marked(path: str | Path, catalogue: Catalogue) -> MarkedStars:
    """Return the list, unless a run would refuse it: its spectra are those of another one."""
    marked = MarkedStars(path)
    if marked.listed():
        refuse_other_run(read_marked(path), catalogue.column("spectrum_id"), catalogue.column("obsid"), path)
    return marked


def _listening(port: int) -> socket.socket:
    """Return a socket that listens on this machine alone."""
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        if not 0 <= port < 65536:
            message = f"--port is {port}; it must be 0 (any free one) to 65535"
            raise UsageError(message)
        listener.bind((LOOPBACK, port))
        listener.listen()
    except BaseException as error:
        listener.close()
        if isinstance(error, OSError) and error.errno in (errno.EADDRINUSE, errno.EACCES):
            why = "is taken by another program" if error.errno == errno.EADDRINUSE else "is not open to you"
            message = f"port {port} {why}: give another --port, or none for any free one"
            raise UsageError(message) from None
        raise
    return listener


def _has_display() -> bool:
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _open(address: str, private: Path) -> None:
    """Open the address through a file that only this person can read: others see the words of every command."""
    page = private / "open.html"
    page.write_text(_REDIRECT.format(address=address), encoding="utf-8")
    webbrowser.open(page.as_uri())
