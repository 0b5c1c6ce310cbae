"""Sums over training stars against least squares, and pixels that few stars show."""

from dataclasses import fields, replace

import numpy as np
import torch
from helpers.stars import prepared_stars

from stargap.fit.forward import EmulatorModel
from stargap.fit.polynomial import monomials
from stargap.mock.nature import nature_labels, shipped_nature
from stargap.theory.emulator import shipped_emulator
from stargap.transfer.residual.model import INTERPOLATION, ResidualTransfer
from stargap.transfer.residual.sums import CorrectionSum, FloorSum

PIXEL = 2104


def stars(count=40):
    labels, active = nature_labels(count, seed=6)
    truth, star, _ = next(prepared_stars(labels, active, shipped_nature(), seed=6))
    star.good[:, PIXEL] = False
    return torch.as_tensor(truth.labels), star


def test_the_correction_is_the_weighted_least_squares_solution():
    transfer = ResidualTransfer(shipped_emulator(), degree=1)
    labels, star = stars()
    sums = CorrectionSum(transfer)
    sums.add(labels[:25], star_part(star, slice(0, 25)))
    sums.add(labels[25:], star_part(star, slice(25, None)))
    synthetic, _ = EmulatorModel(transfer.emulator, star)(labels, torch.zeros(40, 1, 4).double(), torch.arange(40))
    pixel, ridge = 500, 0.05
    used = star.good[:, pixel] & ~transfer.outside(labels)
    x = monomials(transfer.label_map.scaled(labels), transfer.exponents)[used]
    model = synthetic[used, pixel].double()
    root = 1 / ((star.sigma[used, pixel] / model).square() + INTERPOLATION**2).sqrt()
    ratio = star.flux[used, pixel] / model - 1
    rows = torch.cat([x * root[:, None], torch.eye(x.shape[1]).double() / ridge])
    wanted = torch.linalg.lstsq(rows, torch.cat([ratio * root, torch.zeros(x.shape[1]).double()])[:, None]).solution
    torch.testing.assert_close(sums.solve(ridge)[:, pixel].double(), wanted[:, 0], rtol=1e-4, atol=1e-6)


def test_pixels_that_few_stars_show_are_not_corrected():
    transfer = ResidualTransfer(shipped_emulator())
    labels, star = stars()
    for shown, corrected in ((3, False), (4, True)):
        star.good[:, PIXEL] = torch.arange(40) < shown
        sums = CorrectionSum(transfer)
        sums.add(labels, star)
        assert sums.solve(0.05)[:, PIXEL].any() == corrected
        assert sums.solve(0.05)[:, 500].any()


def test_the_floor_is_what_noise_does_not_explain():
    _, star = stars()
    model = star.flux.clone()
    model[:, 400:800] += (star.sigma[:, 400:800].square() + 0.03**2).sqrt()
    model[3] = torch.nan
    sums = FloorSum(model.shape[1])
    sums.add(star, model)
    floor = sums.value(0.003).numpy()
    shown = ((star.sigma < 0.05) & star.good)[:, 410:790].any(dim=0).numpy()
    assert np.allclose(floor[410:790][shown].max(), 0.03, atol=1e-3)
    assert np.allclose(floor[1000:2000], 0.003, atol=1e-6)


def star_part(star, rows):
    names = [field.name for field in fields(star) if field.name not in ("grid", "native")]
    return replace(star, native=star.native[rows], **{name: getattr(star, name)[rows] for name in names})
