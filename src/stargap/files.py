"""Files that appear under their final name only when they are complete."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

__all__ = ["replacing"]


@contextmanager
def replacing(path: str | Path) -> Iterator[BinaryIO]:
    """Open a hidden file in the folder of `path`, and rename it to `path` once it is complete and on the disk.

    On any error nothing is left behind and a file of that name stays as it was.

    Example:
        >>> target = getfixture("tmp_path") / "a.txt"
        >>> with replacing(target) as file:
        ...     _ = file.write(b"done")
        >>> target.read_bytes(), len(list(target.parent.iterdir()))
        (b'done', 1)
    """
    path = Path(path)
    temporary = path.with_name(f".stargap-{secrets.token_hex(8)}.part")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
