"""Compressed fits: what they stand for, pixel by pixel, and where they end beside exact ones."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from helpers.stars import mock_labels

from stargap.fit.compressed import COMPONENTS, Compressed, compressed_emulator
from stargap.fit.forward import EmulatorModel
from stargap.fit.labels import fit_labels, pixel_weights
from stargap.flags import Flag
from stargap.measurement.fits import parameters_for
from stargap.pixels import STARGAP
from stargap.settings import MeasureSettings
from stargap.spectra.log_lambda import to_log_lambda
from stargap.spectra.prepare import prepare
from stargap.transfer.anchored.model import lamost_transfer

COUNT = 24
FLOOR = 0.015


@pytest.fixture(scope="module")
def box(emulator):
    return parameters_for(MeasureSettings(), emulator)


@pytest.fixture(scope="module")
def plain(emulator):
    return compressed_emulator(emulator, STARGAP)


@pytest.fixture(scope="module")
def transfer():
    return lamost_transfer()


@pytest.fixture(scope="module")
def corrected(transfer):
    return Compressed(transfer.emulator, transfer.correct)


@pytest.fixture(scope="module")
def prepared(simulate, spectra):
    stars = simulate(COUNT, seed=7, snr=np.geomspace(10, 100, COUNT))
    return prepare(to_log_lambda(spectra(stars)), torch.as_tensor(stars.rv))


@pytest.fixture(scope="module")
def labels():
    return torch.as_tensor(mock_labels(COUNT, np.random.default_rng(3)))


@pytest.fixture(scope="module")
def fit(emulator, box):
    def run(prepared, compressed, **options):
        model = EmulatorModel(emulator, prepared)
        return fit_labels(prepared, model, emulator, box, error_floor=FLOOR, compressed=compressed, **options)

    return run


@pytest.fixture(scope="module")
def quick(fit, prepared, plain):
    return fit(prepared, plain)


@pytest.fixture(scope="module")
def exact(fit, prepared):
    return fit(prepared, None, tolerance=1e-3)


def test_spectra_are_the_exact_ones_to_a_few_thousandths(prepared, labels, plain, corrected, transfer, emulator):
    """Stars have blurs and weights of their own, which the compressed spectra leave out."""
    still = torch.zeros(COUNT, 0, 4).double()
    rows = torch.arange(COUNT)
    for compressed, model in (
        (plain, EmulatorModel(emulator, prepared)),
        (corrected, transfer.model(prepared).corrected),
    ):
        spectra = model(labels, still, rows)[0]
        left = torch.where(prepared.good, compressed.spectra(labels) - spectra, 0.0)
        scatter = left.square().mean(dim=1).sqrt()
        assert scatter.median() < 2e-3
        assert (scatter[prepared.bad_fraction < 0.02] < 4e-3).all()


def test_derivatives_of_coefficients_are_differences(plain, corrected, labels):
    steps = torch.diag(torch.tensor([20.0, 0.05, 0.05, 0.05])).double()
    directions = steps.expand(COUNT, 4, 4)
    inner = labels.clone()
    inner[:, 3] = 0.2
    for compressed in (plain, corrected):
        _, change = compressed.coefficients(inner, directions)
        for k in range(4):
            ahead, behind = (compressed.coefficients(inner + sign * steps[k], directions)[0] for sign in (0.5, -0.5))
            torch.testing.assert_close(change[:, k], ahead - behind, rtol=0.02, atol=0.02 * float(change[:, k].std()))


def test_reduced_chi_square_is_that_of_the_spectra(prepared, labels, plain):
    weight = pixel_weights(prepared, FLOOR)
    b, _ = plain.coefficients(labels, torch.zeros(COUNT, 0, 4).double())
    reduced = plain.reduce(prepared.flux, weight, torch.arange(COUNT))
    form = (b[:, None] @ reduced.gram @ b[:, :, None])[:, 0, 0]
    chi2 = reduced.constant - 2 * (reduced.cross * b).sum(dim=1) + form
    left = torch.where(prepared.good, prepared.flux - plain.spectra(labels), 0.0)
    torch.testing.assert_close(chi2, (weight * left.square()).sum(dim=1).double(), rtol=1e-4, atol=0.05)


def test_what_is_a_stars_own_is_at_its_best(prepared, labels, corrected, transfer):
    """The form is chi-square after linear least squares, by a solver that knows nothing of it."""
    rows = torch.arange(COUNT)
    weight = pixel_weights(prepared, transfer.floor)
    spectra, model = corrected.spectra(labels), transfer.model(prepared)
    reduced = corrected.reduce(prepared.flux, weight, rows, lambda part: model.own_terms(spectra[part], part))
    b, _ = corrected.coefficients(labels, torch.zeros(COUNT, 0, 4).double())
    form = (b[:, None] @ reduced.gram @ b[:, :, None])[:, 0, 0]
    chi2 = reduced.constant - 2 * (reduced.cross * b).sum(dim=1) + form
    columns = model.own_terms(spectra, rows).combine(torch.eye(len(transfer.scatter)).expand(COUNT, -1, -1)).double()
    root = weight.double().sqrt()
    for star in range(0, COUNT, 6):
        left = torch.where(prepared.good[star], prepared.flux[star] - spectra[star], 0.0).double() * root[star]
        design = torch.cat([(columns[star] * root[star]).T, torch.diag(1 / transfer.scatter.double())])
        target = torch.nn.functional.pad(left, (0, len(transfer.scatter)))
        best = np.linalg.lstsq(design.numpy(), target.numpy(), rcond=None)[1]
        assert chi2[star].item() == pytest.approx(best.item(), rel=1e-4, abs=0.05)


def test_labels_are_those_of_exact_fits(quick, exact):
    known = torch.isfinite(exact.labels).all(dim=1)
    assert torch.equal(known, torch.isfinite(quick.labels).all(dim=1))
    distance = ((quick.labels - exact.labels).abs() / exact.errors)[known][:, :3]
    assert distance.median() < 0.01
    assert distance.max() < 0.2
    torch.testing.assert_close(quick.errors[known][:, :3], exact.errors[known][:, :3], rtol=0.05, atol=1e-4)
    assert torch.equal(quick.flags, exact.flags)


def test_labels_of_few_numbers_alone_are_near_those_of_exact_fits(fit, prepared, plain, exact):
    alone = fit(prepared, plain, near=math.inf)
    known = torch.isfinite(exact.labels).all(dim=1)
    distance = ((alone.labels - exact.labels).abs() / exact.errors)[known][:, :3]
    assert 0.01 < distance.median() < 0.2
    assert distance.max() < 2.0


def test_the_objective_is_not_higher(quick, exact, fit, prepared):
    def objective(labels):
        return fit(prepared, None, start=labels, max_iterations=1, errors=False).chi2 * prepared.good.sum(dim=1)

    assert (objective(quick.labels) - objective(exact.labels)).nan_to_num(0.0).max() < 0.1


@pytest.mark.parametrize("rows", [[5], [3, 4, 0], [*range(COUNT - 1, -1, -1)]])
def test_order_and_size_of_a_batch_do_not_matter(rows, fit, prepared, plain, quick):
    rows = torch.tensor(rows)
    part = fit(prepared[rows], plain)
    for name in ("labels", "errors", "chi2", "flags", "model", "iterations"):
        one, other = getattr(part, name), getattr(quick, name)[rows]
        assert ((one == other) | ((one != one) & (other != other))).all(), name


def test_a_star_without_half_of_its_pixels_is_fitted_exactly(simulate, spectra, fit, plain):
    stars = simulate(2, seed=9, snr=50.0)
    stars.ivar[0, ::2] = 0.0  # resampled pixels need two good neighbours
    blue = stars.wavelength < 7700
    stars.ivar[1, blue] = 0.0
    prepared = prepare(to_log_lambda(spectra(stars)), torch.as_tensor(stars.rv))
    one, other = fit(prepared, plain), fit(prepared, None, slots=8)
    assert torch.equal(one.iterations, other.iterations)
    assert torch.equal(one.labels.nan_to_num(), other.labels.nan_to_num())
    assert one.flags[0] & int(Flag.TOO_FEW_PIXELS)


def test_a_star_of_another_resolution_is_fitted_exactly(simulate, spectra, fit, plain):
    stars = simulate(3, seed=11, snr=50.0)
    native = to_log_lambda(spectra(stars))
    native = replace(native, resolution=torch.tensor([1800.0, 1000.0, 1800.0]).double())
    prepared = prepare(native, torch.as_tensor(stars.rv))
    one, other = fit(prepared, plain), fit(prepared, None, slots=8)
    assert (one.iterations == other.iterations).tolist()[1]
    assert torch.equal(one.labels[1], other.labels[1])


def test_components_are_orthonormal(plain):
    torch.testing.assert_close(plain.components @ plain.components.T, torch.eye(COMPONENTS), rtol=0, atol=1e-4)
