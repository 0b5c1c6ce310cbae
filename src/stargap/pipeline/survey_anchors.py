"""Stars of a survey whose labels are known, from its photometry or from tables, among the spectra of a training."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stargap.errors import UsageError
from stargap.pipeline.anchor_tables import photometric_anchors, read_anchor_tables
from stargap.pipeline.folder import Columns, Run, joined_rows
from stargap.rows import IntColumn
from stargap.spectra.prepared import PreparedSpectra
from stargap.tables.parquet import read_columns
from stargap.transfer.anchor_labels import AnchorLabels
from stargap.transfer.residual.fits import brightest

__all__ = ["SurveyAnchors", "survey_anchors", "tabled_spectra"]


@dataclass(frozen=True)
class SurveyAnchors:
    """Anchors among training spectra: ``rows (anchor,)`` of these, ``stars``, their names, and known ``labels``."""

    rows: IntColumn
    stars: list[str]
    labels: AnchorLabels


def tabled_spectra(run: Run, ids: Sequence[IntColumn]) -> NDArray[np.bool_]:
    """Return which of some spectra are of stars in the tables of anchors, ``(spectrum,)``.

    Args:
        run: of the survey.
        ids: ``spectrum_id`` of the spectra of each shard.
    """
    tables = run.settings.transfer.anchors
    if not tables:
        return np.zeros(sum(map(len, ids)), dtype=bool)
    known = [int(star) for star in read_anchor_tables(tables, "gaia_source_id").spectra]
    stars = [_of_stage(run, "sample", unit, some)["gaia_source_id"] for unit, some in enumerate(ids)]
    return np.isin(np.concatenate(stars), known)


def survey_anchors(run: Run, chosen: Sequence[tuple[int, IntColumn]], spectra: PreparedSpectra) -> SurveyAnchors | None:
    """Return the anchors among training spectra, None where the settings ask for none.

    Args:
        run: of the survey.
        chosen: shards, and the ``spectrum_id`` of the training spectra of each, in the order of ``spectra``.
        spectra: of the training. Of the stars with sound photometric labels the brightest are taken.

    Raises:
        UsageError: no training spectrum is of a star with known labels.
    """
    settings = run.settings.transfer
    if not (settings.photometric_anchors or settings.anchors):
        return None
    stars = np.concatenate([_of_stage(run, "sample", unit, ids)["gaia_source_id"] for unit, ids in chosen])
    rows: list[NDArray[np.int64]] = []
    labels: list[AnchorLabels] = []
    if settings.photometric_anchors:
        parts = [_of_stage(run, "photometry", unit, ids) for unit, ids in chosen]
        sound, known = photometric_anchors({name: np.concatenate([part[name] for part in parts]) for name in parts[0]})
        best = brightest(spectra, sound, settings.photometric_anchors)
        rows.append(best)
        labels.append(known[np.searchsorted(sound, best)])
    if settings.anchors:
        table = read_anchor_tables(settings.anchors, "gaia_source_id")
        found = np.array([int(star) for star in table.spectra])[:, None] == stars
        lines, places = np.nonzero(found)
        rows.append(places)
        labels.append(table.labels[lines])
    every = np.concatenate(rows)
    if not len(every):
        message = "no training spectrum is of a star with known labels: see transfer.photometric_anchors and anchors"
        raise UsageError(message)
    return SurveyAnchors(every, [str(star) for star in stars[every]], AnchorLabels.joined(labels))


def _of_stage(run: Run, stage: str, unit: int, ids: IntColumn) -> Columns:
    """Return the columns of a stage for some spectra of a shard."""
    path = run.part(stage, unit)
    table = read_columns(path)
    rows = joined_rows(ids, table["spectrum_id"], path)
    return {name: values[rows] for name, values in table.items()}
