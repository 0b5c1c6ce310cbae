"""What a run's spectra and Gaia's table are now: a change makes what was made of them stale."""

from __future__ import annotations

import os

from stargap.pipeline.folder import Run, content_digest, stamp
from stargap.pipeline.receipts import digest
from stargap.spectra.address import split_address
from stargap.spectra.store.plan import plan_part

__all__ = ["file_states", "gaia_digest"]


def file_states(run: Run, unit: int | None) -> dict[str, str]:
    """Return a digest of the files of a shard: one that changed makes its shard stale."""
    assert unit is not None
    if not (run.store / "plan.parquet").exists():
        return {}
    plan = plan_part(run.store, unit)
    paths = [os.fsdecode(path) for path in plan["path"].to_pylist()]
    content = {
        "names": [path.rpartition(os.sep)[2] for path in paths],  # a folder that moved holds the same
        "state": [stamp(split_address(path)[0]) for path in paths],
        "columns": {  # most are of LAMOST's catalogue alone, null in other runs
            name: plan[name].to_pylist()
            for name in plan.column_names
            if name != "path" and plan[name].null_count < len(paths)
        },
    }
    return {"files": digest(content)}


def gaia_digest(run: Run, unit: int | None) -> dict[str, str]:
    """Return the checksum of Gaia's table."""
    path = run.settings.input.gaia
    return {} if path is None else {"gaia": content_digest(path)}
