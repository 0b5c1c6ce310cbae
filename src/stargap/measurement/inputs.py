"""Zero points of velocities from a CSV."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

from stargap.errors import UsageError
from stargap.files import read_text

__all__ = ["read_zero_points"]


def read_zero_points(path: str | Path) -> dict[tuple[str, int], float]:
    """Read velocities of plates and spectrographs from a CSV with the columns plan_id, spectrograph and rv (km/s).

    Raises:
        UsageError: the file cannot be read, a column is missing, or a line holds no number.

    Example:
        >>> table = getfixture("tmp_path") / "zero.csv"
        >>> _ = table.write_text("plan_id,spectrograph,rv\\nGAC126S04V2,7,-4.5\\n")
        >>> read_zero_points(table)
        {('GAC126S04V2', 7): -4.5}
    """
    found: dict[tuple[str, int], float] = {}
    try:
        reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
        reader.fieldnames = [name.strip() for name in reader.fieldnames or ()]
        for row in reader:
            key, value = (row["plan_id"].strip(), int(row["spectrograph"])), float(row["rv"])
            if key in found or not math.isfinite(value):
                reason = "is repeated" if key in found else "is not finite"
                message = f"{path}: line {reader.line_num}: {key} {reason}"
                raise UsageError(message)
            found[key] = value
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror})"
    except KeyError as error:
        message = f"{path}: no column {error}; needed are plan_id, spectrograph, rv"
    except (ValueError, TypeError, AttributeError, csv.Error) as error:
        message = f"{path}: {error}"
    else:
        return found
    raise UsageError(message)
