"""What a run trains or takes: emulator, labels of synthetic spectra, transfer."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stargap.errors import ModelError
from stargap.files import replacing
from stargap.measurement.models import AnyTransfer, load_transfer
from stargap.pipeline.anchor_tables import usable_anchors
from stargap.pipeline.anchors import scores_of, write_cross_validation
from stargap.pipeline.folder import Made, Run
from stargap.pipeline.settings import SurveySettings
from stargap.pipeline.spectra import prepared_spectra
from stargap.pipeline.survey_anchors import SurveyAnchors, survey_anchors, tabled_spectra
from stargap.pipeline.train import residual_transfer, train_starnet
from stargap.pixels import grid_for
from stargap.rows import IntColumn
from stargap.spectra.prepared import PreparedSpectra
from stargap.starnet.training_settings import TrainingSettings
from stargap.tables.parquet import read_columns
from stargap.theory.emulator import Emulator, shipped_emulator
from stargap.theory.label_prior import draw_training_labels
from stargap.theory.train_emulator import Training, fit_emulator
from stargap.transfer.anchored.anchors import AnchorStars
from stargap.transfer.anchored.model import lamost_transfer
from stargap.transfer.anchored.settings import AnchorSettings
from stargap.transfer.anchored.train import train_anchored
from stargap.transfer.residual.matched import match_anchors
from stargap.transfer.residual.model import shipped_transfer
from stargap.transfer.residual.settings import ResidualSettings
from stargap.transfer.residual.train import train_residual

__all__ = ["make_emulator", "make_labels", "make_transfer"]


def make_emulator(run: Run, unit: int | None) -> Made:
    """Train The Payne on a grid, or copy the chosen one."""
    from stargap.theory.grids import read_grid, read_hdf5_grid

    chosen, grid = run.settings.emulator, run.settings.emulator.grid
    path = run.folder / "emulator" / "emulator.safetensors"
    path.parent.mkdir(parents=True, exist_ok=True)
    if grid is None:
        emulator = _trained_emulator(run.settings)
    else:
        spectra = read_hdf5_grid(grid) if grid.is_file() else read_grid(grid, resolution=4 * chosen.resolution)
        emulator, _ = fit_emulator(spectra, Training(resolution=chosen.resolution, seed=chosen.seed))
    emulator.save(path)
    return Made([path, path.with_suffix(".json")], 0)


def _trained_emulator(settings: SurveySettings) -> Emulator:
    """The chosen emulator, else that of the chosen transfer, else the one in the package."""
    if settings.emulator.model is not None:
        return Emulator.load(settings.emulator.model / "emulator.safetensors")
    transfer = _trained_transfer(settings)
    return shipped_emulator() if transfer is None else transfer.emulator


def _trained_transfer(settings: SurveySettings) -> AnyTransfer | None:
    chosen = settings.transfer
    if chosen.model is not None:
        return load_transfer(chosen.model)
    if chosen.use == "lamost":
        return lamost_transfer()
    return shipped_transfer() if chosen.use == "simulated" else None


def make_transfer(run: Run, unit: int | None) -> Made:
    """Train the transfer on the survey, or copy the chosen one; nothing where labels are the emulator's.

    Raises:
        ModelError: it was trained with another emulator, or on spectra that another preset prepared.
    """
    chosen = run.settings.transfer
    folder = run.folder / "transfer"
    path = folder / "transfer.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    if chosen.use == "none":
        return Made([], 0)
    if chosen.use != "train":
        transfer = _trained_transfer(run.settings)
        assert transfer is not None
        if transfer.emulator.card.sha256 != run.emulator().card.sha256:
            message = (
                "the transfer was trained with another emulator than that of the run: leave emulator.model and "
                "emulator.grid empty, and the transfer brings its own; or set transfer.use to none or train"
            )
            raise ModelError(message)
        if transfer.grid != grid_for(run.settings.measure.preset):
            message = (
                f"the transfer was trained on spectra prepared by the {transfer.grid.name} preset: set measure.preset "
                f'to "{transfer.grid.name}", or transfer.use to none or train'
            )
            raise ModelError(message)
        transfer.save_again(path)
        return Made([path, path.with_suffix(".json")], 0)
    return _train(run, path)


def _train(run: Run, path: Path) -> Made:
    """Train on spectra of the survey, and write the transfer.

    Raises:
        KeyboardInterrupt: a signal stopped the training.
    """
    chosen = run.settings.transfer
    spectra, ids = _training_spectra(run, path.parent / "spectra")
    prior = np.load(run.folder / "labels" / "labels.npy", allow_pickle=False)
    makers = {"default": _train_default, "anchored": _train_anchored}
    trained = makers.get(chosen.architecture, _train_network)(run, spectra, prior, survey_anchors(run, ids, spectra))
    if trained is None:
        raise KeyboardInterrupt
    transfer, settings, scores = trained
    transfer.save(
        path,
        training_data=f"{len(spectra)} spectra of the survey",
        settings=settings.model_dump(mode="json"),
        scores=scores,
        simulated=run.settings.input.simulated,
        seed=chosen.seed if isinstance(settings, AnchorSettings) else settings.seed,
    )
    shutil.rmtree(path.parent / "spectra")
    return Made([path, path.with_suffix(".json")], len(spectra))


def _train_default(
    run: Run, spectra: PreparedSpectra, prior: NDArray[np.float64], anchors: SurveyAnchors | None
) -> tuple[AnyTransfer, ResidualSettings, dict[str, float]] | None:
    settings, folder = run.settings.transfer.training, run.folder / "transfer" / "training"
    transfer, parameters = residual_transfer(run.emulator(), settings, run.settings.transfer.prior.alpha)
    result = train_residual(transfer, spectra, prior, parameters, settings, folder, progress=False)
    if result.stopped == "signal":
        return None
    if anchors is not None:
        report = match_anchors(transfer, spectra, anchors.rows, anchors.labels, prior, parameters, settings)
        result.reports["anchors match"] = report
    return transfer, settings, result.scores()


def _train_anchored(
    run: Run, spectra: PreparedSpectra, prior: NDArray[np.float64], anchors: SurveyAnchors | None
) -> tuple[AnyTransfer, AnchorSettings, dict[str, float]] | None:
    assert anchors is not None
    settings, emulator = run.settings.transfer.anchored, run.emulator()
    rows = np.flatnonzero(usable_anchors(anchors.labels, emulator.lower[:3].numpy(), emulator.upper[:3].numpy()))
    known, names = anchors.labels[rows], [anchors.stars[row] for row in rows]
    prepared = spectra.prepared(anchors.rows[rows])
    stars = AnchorStars(prepared, known.labels, names, known.errors, known.p_single, known.sources)
    transfer, found = train_anchored(stars, emulator, settings)
    write_cross_validation(run.folder / "transfer" / "cross-validation.csv", stars, found)
    return transfer, settings, scores_of(stars, found)


def _train_network(
    run: Run, spectra: PreparedSpectra, prior: NDArray[np.float64], anchors: SurveyAnchors | None
) -> tuple[AnyTransfer, TrainingSettings, dict[str, float]] | None:
    chosen = run.settings.transfer
    settings = chosen.starnet if chosen.architecture == "starnet" else chosen.reference
    folder = run.folder / "transfer" / f"training-{chosen.architecture}"
    about = chosen.model_dump(mode="json", include={"prior", "spectra", "seed"})
    known = None if anchors is None else (anchors.rows, anchors.labels)
    made = train_starnet(
        run.emulator(), spectra, prior, settings, folder, about=about, alpha=chosen.prior.alpha, anchors=known
    )
    return None if made is None else (made[0], settings, made[1])


def _training_spectra(run: Run, folder: Path) -> tuple[PreparedSpectra, list[tuple[int, IntColumn]]]:
    """Draw clean spectra of the sample at random, add those of anchor stars, and copy them into arrays on disk.

    Returns:
        the spectra in the order of the store, and for each shard the ``spectrum_id`` of its own.
    """
    counts, ids = [], []
    for unit in range(run.shards()):
        clean = read_columns(run.part("clean", unit), ["spectrum_id", "rejected"])
        counts.append(np.flatnonzero(~clean["rejected"]))
        ids.append(clean["spectrum_id"][counts[-1]])
    total = sum(map(len, counts))
    order = np.random.default_rng([run.settings.transfer.seed, 6]).permutation(total)
    drawn = order[: min(run.settings.transfer.spectra, total)]
    picked = np.union1d(drawn, np.flatnonzero(tabled_spectra(run, ids)))
    shutil.rmtree(folder, ignore_errors=True)
    arrays = PreparedSpectra.create(folder, len(picked), grid_for(run.settings.measure.preset))
    chosen: list[tuple[int, IntColumn]] = []
    first = done = 0
    for unit, rows in enumerate(counts):
        here = picked[(picked >= first) & (picked < first + len(rows))] - first
        if len(here):
            arrays.put(done, prepared_spectra(run, unit, rows[here]))
            chosen.append((unit, ids[unit][here]))
        first, done = first + len(rows), done + len(here)
    return PreparedSpectra.load(folder), chosen


def make_labels(run: Run, unit: int | None) -> Made:
    """Draw labels of synthetic spectra (paper section 3.3.2)."""
    prior = run.settings.transfer.prior
    labels = draw_training_labels(prior.draws, preset=prior.preset, alpha=prior.alpha, seed=prior.seed)
    path = run.folder / "labels" / "labels.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as file:
        np.save(file, labels)
    return Made([path], len(labels))
