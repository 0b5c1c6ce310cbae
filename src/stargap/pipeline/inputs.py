"""What a run's spectra and Gaia's table are now: a change makes what was made of them stale."""

from __future__ import annotations

import os

from stargap.pipeline.folder import Run, content_digest, stamp
from stargap.pipeline.receipts import digest
from stargap.spectra.address import split_address
from stargap.spectra.store.plan import plan_rows

__all__ = ["file_states", "gaia_digest"]


def file_states(run: Run, unit: int | None) -> dict[str, str]:
    """Return a digest of the files of a shard: one that changed makes its shard stale."""
    assert unit is not None
    if not (run.store / "plan.parquet").exists():
        return {}
    plan = [(row, os.fsdecode(row["path"])) for row in plan_rows(run.store, unit)]
    rows = [{**row, "path": path.rpartition(os.sep)[2]} for row, path in plan]  # a folder that moved holds the same
    return {"files": digest({"rows": rows, "state": [stamp(split_address(path)[0]) for _, path in plan]})}


def gaia_digest(run: Run, unit: int | None) -> dict[str, str]:
    """Return the checksum of Gaia's table."""
    path = run.settings.input.gaia
    return {} if path is None else {"gaia": content_digest(path)}
