"""Files and folders that are complete under their final name, and folders that are known to be ours."""

from __future__ import annotations

import codecs
import fcntl
import json
import os
import secrets
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from stargap import __version__
from stargap.errors import UsageError

__all__ = ["claim_folder", "clean_folder", "files_of", "part_folder", "read_text", "replacing",
           "replacing_folder", "sweep_parts"]  # fmt: skip

MARK = ".stargap"
"""Name of the file that marks a folder as ours: JSON with its kind and, where known, the files written to it."""

_swept: set[str] = set()


def read_text(path: str | Path) -> str:
    """Return the text of a file that a person or another program wrote, without a byte-order mark.

    It is UTF-8, or UTF-16 with its mark; what is neither is taken as Latin-1, as in old comments.

    Raises:
        OSError: the file cannot be read.

    Example:
        >>> file = getfixture("tmp_path") / "list.txt"
        >>> _ = file.write_bytes("été".encode("utf-16"))
        >>> read_text(file)
        'été'
    """
    content = Path(path).read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", "replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a hidden file in the folder of `path`, and rename it to `path` once it is complete and on the disk.

    On any error nothing is left behind and a file of that name stays as it was. Hidden files of processes that were
    killed are removed when the next process writes to the same folder (`sweep_parts`).

    Example:
        >>> target = getfixture("tmp_path") / "a.txt"
        >>> with replacing(target) as file:
        ...     _ = file.write(b"done")
        >>> target.read_bytes(), len(list(target.parent.iterdir()))
        (b'done', 1)
    """
    path = Path(path)
    _sweep_once(path.parent)
    temporary, file = _locked_part(path.parent)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            temporary.replace(path)  # while it is locked: a sweep never sees it unlocked under its hidden name
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def claim_folder(path: str | Path, kind: str, *, known: Collection[str] = ()) -> Path:
    """Make a folder ours, or refuse it: from then on stargap may write and overwrite files in it.

    A folder that is missing or empty is made and marked; one with our mark of the same kind is taken as it is.

    Args:
        path: the folder.
        kind: what it holds, such as ``"run"``; it completes the sentence "the folder of a ...".
        known: names that are known to be ours although there is no mark yet.

    Returns:
        the folder.

    Raises:
        UsageError: it holds files and no mark, or the mark of another kind; it is a file; it cannot be made.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> claim_folder(folder / "out", "run") == claim_folder(folder / "out", "run")
        True
        >>> _ = (folder / "thesis.tex").write_text("")
        >>> claim_folder(folder, "run")
        Traceback (most recent call last):
        stargap.errors.UsageError: ...: holds files that are not stargap's, such as 'out'; name a new or empty folder
        >>> claim_folder(folder / "out", "report")
        Traceback (most recent call last):
        stargap.errors.UsageError: .../out: is the folder of a run, not of a report; name another folder
    """
    path = Path(path)
    _open_folder(path)
    if _recorded(path, kind) is None:
        foreign = _first_foreign(path, set(known))
        if foreign is not None:
            raise _holds(path, foreign)
        _write_mark(path, kind)
    return path


def clean_folder(path: str | Path, kind: str) -> Path:
    """Claim a folder of intermediate files and remove all that is in it, but only where our own mark is.

    What people look at or add to, such as a report, is written with `replacing_folder`.

    Raises:
        UsageError: see `claim_folder`.

    Example:
        >>> folder = clean_folder(getfixture("tmp_path") / "scratch", "simulation")
        >>> _ = (folder / "old").write_text("")
        >>> sorted(path.name for path in clean_folder(folder, "simulation").iterdir())
        ['.stargap']
    """
    path = claim_folder(path, kind)
    for entry in path.iterdir():
        if entry.name != MARK:
            _remove(entry)
    return path


@contextmanager
def replacing_folder(path: str | Path, kind: str) -> Iterator[Path]:
    """Give an empty hidden folder, whose files become those of `path` once all of them are written.

    The files of the last time are removed then, and only these: the mark lists them. Until then, and on any error,
    they stay as they were. Files that somebody added stay, and one that would be overwritten is refused by name.

    Raises:
        UsageError: see `claim_folder`; or a file to be written is there and is not ours.

    Example:
        >>> folder = getfixture("tmp_path") / "report"
        >>> for name in ("old.html", "new.html"):
        ...     with replacing_folder(folder, "report") as part:
        ...         _ = (part / name).write_text("done")
        >>> sorted(path.name for path in folder.iterdir())
        ['.stargap', 'new.html']
    """
    path = Path(path)
    created = not path.exists()
    claim_folder(path, kind)
    _sweep_once(path)
    before = _recorded(path, kind) or set()
    try:
        with part_folder(path) as part:
            yield part
            made = sorted(str(file.relative_to(part)) for file in part.rglob("*") if not file.is_dir())
            _refuse_foreign(path, made, before)
            _write_mark(path, kind, before.union(made))
            for name in made:
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (part / name).replace(path / name)
            for name in before.difference(made):
                (path / name).unlink(missing_ok=True)
            _write_mark(path, kind, set(made))
            _remove_empty_folders(path, before)
    finally:
        if created and not _recorded(path, kind):
            (path / MARK).unlink(missing_ok=True)
            with suppress(OSError):  # somebody else wrote to it meanwhile
                path.rmdir()


def files_of(path: str | Path, kind: str) -> list[Path]:
    """Return the files that `replacing_folder` wrote to a folder the last time; none where it has not.

    Raises:
        UsageError: the folder has the mark of another kind.
    """
    return [Path(path) / name for name in sorted(_recorded(Path(path), kind) or ())]


@contextmanager
def part_folder(parent: Path) -> Iterator[Path]:
    """Give an empty hidden folder in `parent` that no sweep removes before the block ends; what is left goes then.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> with part_folder(folder) as part:
        ...     _ = (part / "a.txt").write_text("done")
        ...     sweep_parts(folder), (part / "a.txt").exists()
        (0, True)
        >>> list(folder.iterdir())
        []
    """
    part = parent / _part_name()
    part.mkdir()
    lock = os.open(part, os.O_RDONLY)
    try:
        with suppress(OSError):  # a file system without locks, where sweeps remove nothing
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield part
    finally:
        shutil.rmtree(part, ignore_errors=True)
        os.close(lock)


def sweep_parts(folder: str | Path) -> int:
    """Remove hidden files and folders of writers that were killed, and return how many; those being written stay.

    Example:
        >>> folder = getfixture("tmp_path")
        >>> _ = (folder / ".stargap-0123456789abcdef.part").write_bytes(b"half of a ta")
        >>> with replacing(folder / "a.txt"):
        ...     sweep_parts(folder)  # the first was swept when the writer started, and its own is in use
        0
        >>> [path.name for path in folder.iterdir()]
        ['a.txt']
    """
    try:
        with os.scandir(folder) as entries:
            names = [entry.name for entry in entries if entry.name.startswith(f"{MARK}-")]
    except OSError:
        return 0
    return sum(_sweep(Path(folder) / name) for name in names if name.endswith(".part"))


def _sweep(part: Path) -> bool:
    """Remove a hidden file or folder unless its writer lives, which holds a lock on it."""
    try:
        lock = os.open(part, os.O_RDONLY | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _remove(part)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True


def _sweep_once(folder: Path) -> None:
    """Sweep a folder when this process first writes to it."""
    name = str(folder.absolute())
    if name not in _swept:
        _swept.add(name)
        sweep_parts(folder)


def _part_name() -> str:
    return f"{MARK}-{secrets.token_hex(8)}.part"


def _locked_part(folder: Path) -> tuple[Path, BinaryIO]:
    """Return a new hidden file, open and locked, so that no sweep of another process takes it for a stray."""
    while True:
        path = folder / _part_name()
        file = path.open("xb")
        try:
            fcntl.flock(file, fcntl.LOCK_EX)
            if path.exists():  # else a sweep came between its making and its lock
                return path, file
        except OSError:  # a file system without locks, where sweeps remove nothing
            return path, file
        file.close()


def _open_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        message = f"{path}: is a file; name a folder"
        raise UsageError(message) from None
    except OSError as error:
        message = f"{path}: the folder cannot be made ({error.strerror})"
        raise UsageError(message) from None


def _recorded(path: Path, kind: str) -> set[str] | None:
    """Return the files that the mark lists, or None where there is no mark."""
    try:
        mark = json.loads((path / MARK).read_bytes())
        found, files = str(mark["kind"]), {str(name) for name in mark["files"]}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError, KeyError) as error:
        message = f"{path / MARK}: is not stargap's mark of a folder ({error}); name another folder"
        raise UsageError(message) from None
    if found != kind:
        message = f"{path}: is the folder of a {found}, not of a {kind}; name another folder"
        raise UsageError(message)
    return files


def _write_mark(path: Path, kind: str, files: set[str] | None = None) -> None:
    mark = {"stargap": __version__, "kind": kind, "files": sorted(files or ())}
    with replacing(path / MARK) as file:
        file.write(f"{json.dumps(mark, indent=1)}\n".encode())


def _first_foreign(path: Path, ours: set[str]) -> str | None:
    names = sorted(entry.name for entry in path.iterdir())
    return next((name for name in names if name not in ours and not _is_part(name)), None)


def _is_part(name: str) -> bool:
    return name.startswith(f"{MARK}-") and name.endswith(".part")


def _refuse_foreign(path: Path, made: list[str], ours: set[str]) -> None:
    for name in made:
        if name not in ours and os.path.lexists(path / name):
            raise _holds(path, name)


def _holds(path: Path, foreign: str) -> UsageError:
    return UsageError(f"{path}: holds files that are not stargap's, such as {foreign!r}; name a new or empty folder")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _remove_empty_folders(path: Path, files: set[str]) -> None:
    """Remove the folders of files that are gone, where nothing is left in them."""
    folders = {parent for name in files for parent in Path(name).parents if parent != Path()}
    for folder in sorted(folders, key=lambda one: -len(one.parts)):
        if (path / folder).is_dir() and not any((path / folder).iterdir()):
            (path / folder).rmdir()
