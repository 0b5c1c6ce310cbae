"""Simulated stars written as files of other surveys, and measured from them: velocities, labels, one row each."""

from __future__ import annotations

import numpy as np
import pytest
from helpers.collections import BOSS_LOGLAM, rest, write_desi, write_mwm

import stargap
from stargap.flags import Flag

LABELS = [[3400.0, 4.85, 0.0, 0.0], [3700.0, 4.7, -0.3, 0.12]]
RV = np.array([61.1, -35.0])


@pytest.fixture(scope="module")
def stars(simulate):
    return simulate(2, seed=4, snr=60.0, labels=LABELS, rv=RV, bad_pixels=False)


def check(table, order=(0, 1)):
    for row, star in enumerate(order):
        assert abs(table["rv"][row] - RV[star]) < 4 * table["e_rv"][row] + 2.0
        assert abs(table["teff"][row] - LABELS[star][0]) < 4 * table["e_teff"][row] + 15.0
        assert abs(table["m_h"][row] - LABELS[star][2]) < 4 * table["e_m_h"][row] + 0.04
        assert (table["use_rv"][row], table["use_teff"][row]) == (1, 1)


def test_mwm_visits_give_heliocentric_velocities(stars, tmp_path):
    wave = 10**BOSS_LOGLAM
    flux, ivar = np.zeros((2, wave.size)), np.zeros((2, wave.size))
    for row in range(2):
        moved = rest(stars.wavelength, RV[row])
        flux[row] = np.interp(wave, moved, stars.flux[row], left=0, right=0)
        ivar[row] = np.interp(wave, moved, stars.ivar[row], left=0, right=0)
    columns = {
        "sdss_id": np.array([5, 5], "i8"), "telescope": np.array([b"apo25m"] * 2), "mjd": np.array([59500, 1], "i4"),
        "xcsao_v_rad": RV.astype("f4"), "in_stack": np.array([True, True]), "flux": flux.astype("f4"),
        "ivar": ivar.astype("f4"), "pixel_flags": np.zeros(flux.shape, "i8"), "snr": np.array([60.0, 60.0], "f4"),
    }  # fmt: skip
    path = write_mwm(tmp_path / "mwmVisit-0.6.0-5.fits", {"BOSS/APO": columns}, header={"SDSS_ID": 5})
    table = stargap.measure(path, model="emulator", progress=False).arrays()
    assert table["path"].tolist() == [f"{path}#0", f"{path}#1"]
    assert table["target_id"].tolist() == [5, 5]
    check(table)


def test_desi_targets_have_a_row_each_with_their_own_resolution(stars, tmp_path):
    def spectrum(arm, wave):
        both = [
            np.stack([np.interp(wave, stars.wavelength, values[row], left=0, right=0) for row in (1, 0)])
            for values in (stars.flux, stars.ivar / 2)
        ]
        return both[0], both[1]

    path = write_desi(tmp_path / "coadd-main-dark-1.fits", [11, 12], spectrum, sigma=2.2)
    table = stargap.measure(path, model="emulator", progress=False).arrays()
    assert table["target_id"].tolist() == [11, 12]
    np.testing.assert_allclose(table["resolution"], 5900 / (2.355 * 2.2 * 0.8), rtol=0.06)
    check(table, (1, 0))


def test_a_part_of_the_range_has_larger_systematic_errors(stars):
    wave = np.array(stars.wavelength)
    ivar = np.where(wave < 7450.0, stars.ivar, 0.0)
    options = {"wavelength": wave, "progress": False}
    whole = stargap.measure(stars.flux, ivar=stars.ivar, **options).arrays()
    part = stargap.measure(stars.flux, ivar=ivar, **options).arrays()
    assert ((part["flags"] & int(Flag.PARTIAL_COVERAGE)) > 0).all()
    assert not (whole["flags"] & int(Flag.PARTIAL_COVERAGE)).any()
    for name, floor in (("teff", 11.0), ("logg", 0.008), ("m_h", 0.022)):
        added = np.sqrt(0.5) * np.hypot(1.3 * part[f"e_{name}"], floor)
        assert (part[f"e_{name}_sys"] > 0.95 * added).all()
        assert (part[f"e_{name}_sys"] > whole[f"e_{name}_sys"]).all()
        assert (np.abs(part[name] - whole[name]) < 4 * np.hypot(part[f"e_{name}"], part[f"e_{name}_sys"])).all()
