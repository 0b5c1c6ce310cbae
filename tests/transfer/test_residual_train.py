"""Training of the default transfer: a planted error is found, and a stopped run ends as if it had not been stopped."""

from __future__ import annotations

import copy
import json
import os
import signal
import time
from dataclasses import fields

import numpy as np
import pytest
import torch
from helpers.stars import prepared_stars
from pydantic import ValidationError

from stargap.errors import ModelError, UsageError
from stargap.fit.domains import fit_domains
from stargap.fit.forward import EmulatorModel
from stargap.fit.labels import fit_labels
from stargap.fit.parameters import Parameters
from stargap.mock.nature import nature_labels, shipped_nature
from stargap.pixels import STARGAP
from stargap.spectra.prepared import PreparedSpectra, split_rows
from stargap.theory.emulator import shipped_emulator
from stargap.theory.label_prior import draw_training_labels
from stargap.transfer.residual import train as rounds
from stargap.transfer.residual.matching import main_sequence
from stargap.transfer.residual.model import MAPPED, ResidualTransfer
from stargap.transfer.residual.settings import ResidualSettings
from stargap.transfer.residual.train import train_residual

STARS, TEST = 768, 128
PLANTED = (6750.0, 7050.0)
SMALL = ResidualSettings(
    stars=300, match_stars=200, gauge_stars=120, validation_stars=60, gauge_rounds=2, rounds=2, map_degree=1
)
QUICK = SMALL.model_copy(update={"stars": 60, "match_stars": 60, "gauge_stars": 60, "gauge_rounds": 1, "rounds": 1})
STAGES = 4
"""Of QUICK: gauge, begin, correct, match."""


@pytest.fixture(scope="module")
def survey():
    """Training spectra, and chunks of test stars with their noiseless spectra."""
    labels, active = nature_labels(STARS + TEST, seed=1, mix="matched")
    parts = list(prepared_stars(labels[:STARS], active[:STARS], shipped_nature(), seed=5))
    spectra, first = PreparedSpectra.empty(STARS), 0
    for truth, prepared, _ in parts:
        spectra.put(first, PreparedSpectra.from_prepared(prepared, truth.rv_used))
        first += len(truth.rv)
    ((truth, prepared, clean),) = prepared_stars(labels[STARS:], active[STARS:], shipped_nature(), seed=6)
    return spectra, (truth, prepared, clean)


@pytest.fixture(scope="module")
def prior():
    return draw_training_labels(3000, alpha=0.0, seed=1000, draws=100_000)


def faulty_emulator():
    """The shipped emulator with spectra 10 % too faint in a band."""
    emulator = copy.deepcopy(shipped_emulator())
    band = (PLANTED[0] < STARGAP.support) & (PLANTED[1] > STARGAP.support)
    emulator.mean += torch.as_tensor(np.where(band, np.log(0.9), 0.0)).float()
    return emulator


def parameters():
    card = shipped_emulator().card
    return Parameters(card.lower, card.upper, {"a_m": 0.0})


def untrained(settings, emulator=None, **options):
    emulator = faulty_emulator() if emulator is None else emulator
    return ResidualTransfer(emulator, degree=settings.degree, map_degree=settings.map_degree, alpha=0.0, **options)


def trained(spectra, prior, settings, folder, **options):
    transfer = untrained(settings)
    told = train_residual(transfer, spectra, prior, parameters(), settings, folder, progress=False, **options)
    return transfer, told


def same(one, other):
    return all(torch.equal(one.state_dict()[name], other.state_dict()[name]) for name in one.state_dict())


@pytest.fixture(scope="module")
def good(survey, prior, tmp_path_factory):
    """A whole training with enough stars to learn something."""
    folder = tmp_path_factory.mktemp("good")
    return *trained(survey[0], prior, SMALL, folder), folder


@pytest.fixture(scope="module")
def quick(survey, prior, tmp_path_factory):
    """A whole training as short as can be, never stopped."""
    return trained(survey[0], prior, QUICK, tmp_path_factory.mktemp("quick"))[0]


# ---- what is learned


def band_residual(model, clean, good, band):
    """Mean over pixels of a band of the mean difference to the noiseless truth, in absolute terms."""
    apart = torch.where(good, model - clean, 0.0).sum(dim=0) / good.sum(dim=0).clamp_min(1)
    return float(apart[band].abs().mean())


def test_a_planted_error_of_the_emulator_is_found(survey, good):
    truth, prepared, clean = survey[1]
    transfer = good[0]
    bright = torch.as_tensor(truth.snr_r > 15)
    seen = prepared.good & bright[:, None]
    # the pseudo-continuum hides the middle of a wide band, and shows its edges
    band = torch.as_tensor((PLANTED[0] - 40 < STARGAP.wavelength) & (PLANTED[1] + 40 > STARGAP.wavelength))
    plain = EmulatorModel(faulty_emulator(), prepared)
    before = fit_labels(prepared, plain, faulty_emulator(), parameters(), error_floor=0.015, starts=1).model
    after = fit_domains(prepared, transfer, parameters(), starts=1).observed.model
    left = [band_residual(model, clean, seen, band) for model in (before, after)]
    assert left[0] > 0.01
    assert left[1] < 0.25 * left[0]
    assert left[1] < 0.003
    outside = ~band
    assert band_residual(after, clean, seen, outside) < band_residual(before, clean, seen, outside)


def test_the_floor_rises_where_the_emulator_is_wrong(good):
    wave = torch.as_tensor(STARGAP.wavelength)
    edges = ((wave - PLANTED[0]).abs() < 20) | ((wave - PLANTED[1]).abs() < 20)
    assert good[0].floor[edges].median() > 2 * good[0].floor[~edges].median()
    assert good[0].floor.min() >= SMALL.floor


def test_what_a_training_reports(good):
    transfer, told, folder = good
    assert told.stopped == "finished"
    assert list(told.reports) == ["0 gauge", "1 gauge", "2 begin", "3 correct", "4 correct", "5 match"]
    assert told.reports["3 correct"]["score"] < told.reports["0 gauge"]["median_chi2"]
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [line["stage"] for line in lines] == list(told.reports)
    assert sorted(path.name for path in folder.iterdir()) == [
        "metrics.jsonl", "stage-06.json", "stage-06.safetensors",
    ]  # fmt: skip
    assert (transfer.label_map.low < transfer.label_map.high).all()
    assert all(torch.isfinite(tensor).all() for tensor in transfer.state_dict().values())


def test_the_main_sequence_of_mapped_labels_is_found():
    transfer = untrained(SMALL)
    rng = np.random.default_rng(7)
    x = np.column_stack([rng.normal(0, 0.8, 1500), np.zeros(1500), rng.normal(0, 0.8, 1500)])
    wanted = np.array([4.8, -0.15, 0.05, -0.06, 0.06])
    labels = x * transfer.label_map.scale.numpy() + transfer.label_map.centre.numpy()
    labels[:, 1] = wanted[0] + wanted[1] * x[:, 0] + wanted[2] * x[:, 0] ** 2 + wanted[3] * x[:, 2]
    labels[:, 1] += rng.normal(0, wanted[4], 1500)
    size = rng.uniform(0.02, 0.3, 1500)
    noise = rng.normal(0, 1, (1500, MAPPED)) * size[:, None] * [20.0, 1.0, 0.2]
    covariance = np.zeros((1500, MAPPED, MAPPED))
    covariance[:, range(MAPPED), range(MAPPED)] = (size[:, None] * [20.0, 1.0, 0.2]) ** 2
    labels = labels + noise
    labels[:15, 1] -= 1.5
    found = main_sequence(transfer.label_map, torch.as_tensor(labels), torch.as_tensor(covariance)).numpy()
    np.testing.assert_allclose(found[:4], wanted[:4], atol=0.015)
    assert found[4] == pytest.approx(wanted[4], rel=0.15)


# ---- stopped, killed, resumed (cases 31, 35, 37, 40)


def stop_after(monkeypatch, stage):
    """Send SIGTERM to this process once a checkpoint is written."""
    save = rounds._save

    def save_and_stop(folder, transfer, state, fingerprint, number, *rest):
        save(folder, transfer, state, fingerprint, number, *rest)
        if number == stage:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(rounds, "_save", save_and_stop)


def test_a_run_stopped_after_every_stage_ends_with_the_same_bits(survey, prior, quick, tmp_path, monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    for stage in range(1, STAGES):
        with monkeypatch.context() as patch:
            stop_after(patch, stage)
            _, told = trained(survey[0], prior, QUICK, tmp_path)
        assert signal.getsignal(signal.SIGTERM) is before
        assert told.stopped == "signal"
        assert len(told.reports) == stage
    transfer, told = trained(survey[0], prior, QUICK, tmp_path)
    assert told.stopped == "finished"
    assert same(transfer, quick)
    assert len((tmp_path / "metrics.jsonl").read_text().splitlines()) == STAGES
    assert not list(tmp_path.glob(".stargap-*"))
    monkeypatch.setattr(rounds, "fit_spectra", None)  # a finished run is only read
    transfer, told = trained(survey[0], prior, QUICK, tmp_path)
    assert told.stopped == "finished"
    assert same(transfer, quick)


def train_alone(folder):
    torch.set_num_threads(1)
    spectra = PreparedSpectra.load(folder / "spectra")
    told = trained(spectra, np.load(folder / "prior.npy"), QUICK, folder / "run")[1]
    (folder / "stopped").write_text(told.stopped)


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_with_the_same_bits(survey, prior, quick, tmp_path, processes):
    survey[0].save(tmp_path / "spectra")
    np.save(tmp_path / "prior.npy", prior)
    for number, (signum, delay) in enumerate([(signal.SIGKILL, 0.0), (signal.SIGTERM, 0.1)], 1):
        process = processes.Process(target=train_alone, args=(tmp_path,))
        process.start()
        while not list((tmp_path / "run").glob(f"stage-0{number}.safetensors")):
            assert process.is_alive()
            time.sleep(0.005)
        time.sleep(delay)
        os.kill(process.pid, signum)
        process.join()
        assert process.exitcode in (-signum, 0)
        assert (tmp_path / "stopped").exists() == (signum == signal.SIGTERM)
    assert (tmp_path / "stopped").read_text() in ("signal", "finished")
    (tmp_path / "run" / "stage-09.json").write_text("{}")  # half a checkpoint, as a kill between two renames leaves it
    transfer, told = trained(PreparedSpectra.load(tmp_path / "spectra"), prior, QUICK, tmp_path / "run")
    assert told.stopped == "finished"
    assert same(transfer, quick)


def changed_spectra(spectra, **arrays):
    return PreparedSpectra(**{f.name: arrays.get(f.name, getattr(spectra, f.name)) for f in fields(spectra)})


def test_a_run_does_not_go_on_with_anything_changed(survey, prior, tmp_path, monkeypatch):
    spectra = survey[0]
    stop_after(monkeypatch, 1)
    trained(spectra, prior, QUICK, tmp_path)
    saved = {path.name: path.read_bytes() for path in tmp_path.glob("stage-*")}
    everything = {
        "settings": (untrained(QUICK), spectra, prior, parameters(), QUICK.model_copy(update={"ridge": 0.04})),
        "emulator": (untrained(QUICK, shipped_emulator()), spectra, prior, parameters(), QUICK),
        "prior": (untrained(QUICK), spectra, prior[::-1], parameters(), QUICK),
        "velocities": (untrained(QUICK), changed_spectra(spectra, rv=spectra.rv + 1), prior, parameters(), QUICK),
        "fluxes": (untrained(QUICK), changed_spectra(spectra, flux=spectra.flux * 1.1), prior, parameters(), QUICK),
        "number": (untrained(QUICK), spectra[:700], prior, parameters(), QUICK),
        "bounds": (untrained(QUICK), spectra, prior, Parameters((2800.0,) * 4, (4400.0,) * 4, {"a_m": 0.0}), QUICK),
    }
    for transfer, *others in everything.values():
        with pytest.raises(UsageError, match="other settings, data, emulator or version"):
            train_residual(transfer, *others, tmp_path, progress=False)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("stage-*")} == saved


def test_a_damaged_checkpoint_is_refused(survey, prior, tmp_path, monkeypatch):
    stop_after(monkeypatch, 1)
    trained(survey[0], prior, QUICK, tmp_path)
    path = tmp_path / "stage-01.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ModelError, match="does not match its card"):
        trained(survey[0], prior, QUICK, tmp_path)


# ---- bad stars (cases 24, 25, 27)


def test_spectra_that_are_not_trained_on_do_not_matter(survey, prior, quick, tmp_path):
    spectra = changed_spectra(survey[0], flux=survey[0].flux.copy(), good=survey[0].good.copy())
    test = split_rows(STARS, QUICK.seed)["test"]
    spectra.flux[test], spectra.good[test] = np.nan, False
    assert same(trained(spectra, prior, QUICK, tmp_path)[0], quick)


def test_stars_without_a_good_pixel_poison_nothing(survey, prior, tmp_path):
    spectra = changed_spectra(survey[0], flux=survey[0].flux.copy(), good=survey[0].good.copy())
    spectra.good[::10] = False
    transfer, told = trained(spectra, prior, QUICK, tmp_path)
    assert all(torch.isfinite(tensor).all() for tensor in transfer.state_dict().values())
    assert told.reports["2 correct"]["score"] < 2.0


def test_fits_do_not_depend_on_their_neighbours(survey):
    transfer = untrained(QUICK)
    rows = np.random.default_rng(8).permutation(STARS)[:100]

    def fits(chosen):
        found = rounds.fit_spectra(survey[0], chosen, transfer, parameters(), floor=0.015, corrected=True)
        return found.labels, found.covariance, found.chi2

    together, backwards = fits(rows), fits(rows[::-1].copy())
    for one, other in zip(together, backwards, strict=True):
        torch.testing.assert_close(one, other.flip(0), rtol=0, atol=0, equal_nan=True)


def test_when_most_fits_fail_the_run_says_so_and_keeps_what_it_has(survey, prior, tmp_path):
    blind = changed_spectra(survey[0], good=np.zeros_like(survey[0].good))
    with pytest.raises(UsageError, match=r"100% of 60 fits in stage 0 gauge failed.*normalised spectra"):
        trained(blind, prior, QUICK, tmp_path)
    assert not list(tmp_path.glob("stage-*"))


# ---- requests


def test_labels_that_must_be_free(survey, prior, tmp_path):
    card = shipped_emulator().card
    held = Parameters(card.lower, card.upper, {"a_m": 0.0, "logg": 4.8})
    with pytest.raises(UsageError, match="logg and m_h must be free"):
        train_residual(untrained(QUICK), survey[0], prior, held, QUICK, tmp_path, progress=False)


def test_too_few_spectra(survey, prior, tmp_path):
    with pytest.raises(UsageError, match="cannot be split"):
        trained(survey[0][:5], prior, QUICK, tmp_path)


@pytest.mark.parametrize("change", [{"stars": 0}, {"ridge": 0.0}, {"degree": 5}, {"rounds": -1}, {"star": 100}])
def test_settings_that_make_no_sense(change):
    with pytest.raises(ValidationError):
        ResidualSettings(**change)


def test_without_rounds_map_and_sequence_nothing_is_changed_but_the_floor(survey, prior, tmp_path):
    settings = QUICK.model_copy(update={"rounds": 0, "match": False, "sequence": False})
    transfer, _ = trained(survey[0], prior, settings, tmp_path)
    assert not transfer.coefficients.any()
    assert not transfer.label_map.weight.any()
    assert not transfer.sequence.any()
    assert (transfer.floor != untrained(settings).floor).any()
