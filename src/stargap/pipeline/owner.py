"""Who works in a run's folder: processes of the same settings together, those of other settings never at once."""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from stargap.errors import UsageError
from stargap.files import replacing

__all__ = ["owned"]

LOG = logging.getLogger(__name__)


@contextmanager
def owned(folder: Path, settings: str) -> Iterator[None]:
    """Write down that this process works in the folder of a run, and refuse where one with other settings does.

    Each process has a file in ``owners/`` with its host, number and start. Several parts of a run, which have the same
    settings, may work at once. The file of a process that has ended on this host is removed, with a warning in the log.

    Args:
        folder: of the run.
        settings: their digest.

    Raises:
        UsageError: a process with other settings works in the folder, or may do so on another host.
    """
    owners = folder / "owners"
    owners.mkdir(exist_ok=True)
    mine = owners / f"{secrets.token_hex(8)}.json"
    me = {
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "process_start": _process_start(os.getpid()),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "settings": settings,
    }
    with replacing(mine) as file:
        file.write(f"{json.dumps(me, indent=1)}\n".encode())
    try:
        for path in sorted(owners.glob("*.json")):
            if path != mine:
                _check(path, me)
        yield
    finally:
        mine.unlink(missing_ok=True)


def _check(path: Path, me: dict[str, Any]) -> None:
    """Refuse the owner recorded in a file, unless it has the same settings or has ended."""
    try:
        other = json.loads(path.read_bytes())
        who = f"process {other['pid']} on {other['host']}, started {other['started']}"
        host, start, settings = other["host"], other["process_start"], other["settings"]
    except FileNotFoundError:  # it ended just now
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        message = f"{path}: cannot be read ({error}); if no other stargap works on this run, delete it"
        raise UsageError(message) from None
    if host == me["host"] and not _runs(int(other["pid"]), start):
        LOG.warning("%s: %s, was killed; this run resumes its work", path.parent.parent, who)
        path.unlink(missing_ok=True)
    elif settings != me["settings"]:
        advice = "" if host == me["host"] else f"; if it has ended, delete {path}"
        message = f"{path.parent.parent}: {who}, works on this run with other settings: wait until it is done{advice}"
        raise UsageError(message)


def _runs(pid: int, start: str | None) -> bool:
    if start is not None:
        return _process_start(pid) == start
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _process_start(pid: int) -> str | None:
    """Return when a process started, in ticks since the start of the machine, or None where that is unknown."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except OSError:
        return None
    return None if fields[0] == "Z" else fields[19]
