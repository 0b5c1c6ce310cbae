import csv
import hashlib
import time
from dataclasses import replace

import astropy.units as u
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from astropy.coordinates import SkyCoord
from astropy.time import Time

from stargap.errors import UsageError
from stargap.measurement.subtype import measure_indices
from stargap.mock.instrument import CHUNK
from stargap.mock.junk import FAULTS, JUNK, make_junk
from stargap.mock.spectrographs import mock_wavelength
from stargap.mock.survey import LATE, METAL_POOR, simulate_survey
from stargap.mock.write import write_survey
from stargap.pixels import LOG_LAMBDA
from stargap.spectra.log_lambda import to_log_lambda
from stargap.spectra.readers.read import read_spectrum

STARS = 20
"""Of the survey on disk."""


@pytest.fixture(scope="module")
def chunks():
    return list(simulate_survey(2 * CHUNK, seed=11, junk=0.3, repeats=0.2))


@pytest.fixture(scope="module")
def truth(chunks):
    return {name: np.concatenate([chunk.truth[name] for chunk in chunks]) for name in chunks[0].truth}


@pytest.fixture(scope="module")
def gaia(chunks):
    return {name: np.concatenate([chunk.gaia[name] for chunk in chunks]) for name in chunks[0].gaia}


@pytest.fixture(scope="module")
def survey(tmp_path_factory):
    return write_survey(tmp_path_factory.mktemp("survey"), STARS, seed=5, repeats=0.3, junk=0.2)


def digests(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_shorter_survey_is_the_beginning_of_a_longer_one(chunks):
    short = list(simulate_survey(CHUNK + 7, seed=11, junk=0.3, repeats=0.2))
    for one, two in zip(short, chunks, strict=True):
        n = len(one.spectra)
        assert n > 0
        for name, values in one.truth.items():
            np.testing.assert_array_equal(values, two.truth[name][:n])
        for name, values in one.gaia.items():
            np.testing.assert_array_equal(values, two.gaia[name][: len(values)])
        for a, b in zip(one.spectra, two.spectra, strict=False):
            assert a.facts == b.facts
            np.testing.assert_array_equal(a.flux, b.flux)
            np.testing.assert_array_equal(a.ivar, b.ivar)
    assert len(short[1].gaia["source_id"]) == 7


def test_seeds_and_mixes_differ(chunks):
    for other in ({"seed": 12}, {"seed": 11, "mix": "matched"}):
        (chunk,) = simulate_survey(5, junk=0.3, repeats=0.2, **other)
        assert not np.array_equal(chunk.spectra[0].flux, chunks[0].spectra[0].flux)


def test_every_spectrum_has_its_own_identity(chunks, truth):
    count = sum(len(chunk.spectra) for chunk in chunks)
    np.testing.assert_array_equal(truth["spectrum_id"], np.arange(count))
    assert len(set(truth["obsid"].tolist())) == len(set(truth["path"].tolist())) == count
    facts = [spectrum.facts for chunk in chunks for spectrum in chunk.spectra]
    places = {(fact.lmjd, fact.plan_id, fact.spectrograph, fact.fiber) for fact in facts}
    assert len(places) == count
    assert [fact.obsid for fact in facts] == truth["obsid"].tolist()
    assert [fact.path for fact in facts] == truth["path"].tolist()
    assert all(1 <= fact.spectrograph <= 16 and 1 <= fact.fiber <= 250 for fact in facts)


def test_repeats_share_the_star_and_differ_in_the_observation(chunks, truth):
    stars, counts = np.unique(truth["star"], return_counts=True)
    np.testing.assert_array_equal(stars, np.arange(2 * CHUNK))
    dwarfs = truth["kind"][np.searchsorted(truth["star"], stars)] == "dwarf"
    assert 0.12 < (counts[dwarfs] > 1).mean() < 0.28
    assert (counts > 3).any()
    assert (counts[~dwarfs] == 1).all()
    for star in stars[counts > 1]:
        rows = np.flatnonzero(truth["star"] == star)
        for name in ("teff", "logg", "m_h", "rv", "active", "source_id", "uid"):
            assert len(set(truth[name][rows].tolist())) == 1
        for name in ("snr_r", "obsid"):
            assert len(set(truth[name][rows].tolist())) == len(rows)
        assert truth["exposure"][rows].tolist() == list(range(len(rows)))


def test_truth_marks_what_must_be_protected(truth):
    dwarf = truth["kind"] == "dwarf"
    np.testing.assert_array_equal(truth["metal_poor"][dwarf], truth["m_h"][dwarf] < METAL_POOR)
    np.testing.assert_array_equal(truth["late"][dwarf], truth["teff"][dwarf] < LATE)
    other = ~np.isin(truth["kind"], ("dwarf", *FAULTS))
    assert np.isnan(truth["teff"][other]).all()
    assert not (truth["active"] | truth["late"] | truth["metal_poor"])[other].any()
    assert np.isfinite(truth["teff"][~other]).all()
    assert set(truth["kind"]) == {"dwarf", *JUNK}
    assert (truth["snr_r"][truth["exposure"] == 0] >= 5).all()
    assert (truth["snr_i"][truth["exposure"] == 0] >= 5).all()


def test_snr_of_dwarfs_is_what_the_truth_says(chunks, truth):
    told = np.array([spectrum.facts.snr_r for chunk in chunks for spectrum in chunk.spectra], dtype=float)
    dwarf = truth["kind"] == "dwarf"
    assert np.median(np.abs(told[dwarf] / truth["snr_r"][dwarf] - 1)) < 0.05


@pytest.mark.parametrize("kind", JUNK)
def test_junk_is_as_noisy_as_a_dwarf_and_no_dwarf(chunks, kind):
    """The junk's pixel-to-pixel scatter agrees with its inverse variance, and its shape is another."""
    rng = np.random.default_rng(3)
    wave = LOG_LAMBDA.wavelength
    clean = (1 + 0.1 * np.sin(wave / 40)).astype(np.float32)
    sigma = 0.02
    flux = (clean + sigma * rng.standard_normal(wave.size)).astype(np.float32)
    ivar = np.full(wave.size, sigma**-2, dtype=np.float32)
    shapes = []
    for seed in (1, 2):
        noisy, weight = make_junk(kind, wave, flux, ivar, clean, rv=20000.0, resolution=1800.0, seed=seed)
        bare, _ = make_junk(kind, wave, clean, ivar, clean, rv=20000.0, resolution=1800.0, seed=seed)
        pull = (noisy - bare) * np.sqrt(weight)
        assert 0.9 < pull[weight > 0].std() < 1.1 if (weight > 0).any() else kind == "missing_arm"
        assert np.isfinite(noisy).all()
        assert (weight >= 0).all()
        shapes.append(bare)
        assert np.abs(bare / np.median(bare) - clean).max() > 0.1 if np.median(bare) > 0 else kind == "missing_arm"
    assert not np.allclose(*shapes)


def test_late_dwarfs_have_deeper_bands(chunks):
    for chunk in chunks:
        good = (chunk.truth["kind"] == "dwarf") & (chunk.truth["snr_i"] > 30)
        native = to_log_lambda([s for s, use in zip(chunk.spectra, good, strict=True) if use])
        tio5 = measure_indices(native, torch.as_tensor(chunk.truth["rv"][good])).tio5.numpy()
        known = np.isfinite(tio5)
        assert known.mean() > 0.9
        assert np.corrcoef(tio5[known], chunk.truth["teff"][good][known])[0, 1] > 0.8


def test_gaia_is_consistent_with_the_labels(truth, gaia):
    assert gaia["source_id"].dtype == np.int64
    assert (np.diff(gaia["source_id"]) > 0).all()
    row = np.searchsorted(gaia["source_id"], truth["source_id"])
    np.testing.assert_array_equal(gaia["source_id"][row], truth["source_id"])
    colour = gaia["phot_bp_mean_mag"] - gaia["phot_rp_mean_mag"]
    with np.errstate(invalid="ignore", divide="ignore"):
        absolute = gaia["phot_g_mean_mag"] + 5 * np.log10(gaia["parallax"].clip(1e-3)) - 10
    dwarf = truth["kind"] == "dwarf"
    assert np.corrcoef(colour[row][dwarf], truth["teff"][dwarf])[0, 1] < -0.9
    sharp = (gaia["parallax"] > 20 * gaia["parallax_error"])[row]
    assert ((absolute[row] > 4) & (absolute[row] < 15))[dwarf & sharp].mean() > 0.99
    galaxy = row[truth["kind"] == "galaxy"]
    assert (np.abs(gaia["parallax"][galaxy]) < 6 * gaia["parallax_error"][galaxy]).mean() > 0.9
    assert (absolute[row[(truth["kind"] == "k_giant") & sharp]] < 4).all()
    for name, low, high in (("ruwe", 0.003, 0.06), ("parallax", 0.0, 0.04)):
        assert low <= np.isnan(gaia[name]).mean() < high
    assert 0.02 < (gaia["ruwe"] > 1.4).mean() < 0.12


def test_positions_move_from_gaia_to_the_observation(chunks):
    chunk = chunks[0]
    star = np.searchsorted(chunk.gaia["source_id"], chunk.truth["source_id"])
    facts = [spectrum.facts for spectrum in chunk.spectra]
    at = Time([fact.lmjd for fact in facts], format="mjd")
    gaia = chunk.gaia
    moved = SkyCoord(
        gaia["ra"][star] * u.deg,
        gaia["dec"][star] * u.deg,
        distance=100 * u.pc,
        pm_ra_cosdec=gaia["pmra"][star] * u.mas / u.yr,
        pm_dec=gaia["pmdec"][star] * u.mas / u.yr,
        obstime=Time(2016.0, format="jyear"),
    ).apply_space_motion(at)
    seen = SkyCoord([fact.ra for fact in facts], [fact.dec for fact in facts], unit="deg")
    assert seen.separation(moved).arcsec.max() < 0.6
    assert np.median(seen.separation(SkyCoord(gaia["ra"][star], gaia["dec"][star], unit="deg")).arcsec) > 0.1


def test_files_hold_the_chunk(survey):
    truth = pq.read_table(survey / "truth.parquet").to_pylist()
    with (survey / "lamost.csv").open(encoding="utf-8") as file:
        catalogue = list(csv.DictReader(file, delimiter="|"))
    assert [int(line["obsid"]) for line in catalogue] == [row["obsid"] for row in truth]
    gaia = {row["source_id"]: row for row in pq.read_table(survey / "gaia.parquet").to_pylist()}
    assert len(gaia) == STARS
    assert {row["source_id"] for row in truth} == set(gaia)
    layouts = set()
    for row, line in list(zip(truth, catalogue, strict=True))[::2]:
        spectrum = read_spectrum(survey / "spectra" / row["path"])
        facts = spectrum.facts
        layouts.add(facts.layout)
        assert facts.obsid == row["obsid"]
        name = f"{line['obsdate'].replace('-', '')}/{line['planid']}/spec-{line['lmjd']}-{line['planid']}"
        assert row["path"] == f"{name}_sp{int(line['spid']):02d}-{int(line['fiberid']):03d}.fits.gz"
        for band in "gri":
            told = getattr(facts, f"snr_{band}")
            assert float(line[f"snr{band}"]) == (-9999 if told is None else told)
        assert (facts.designation, facts.subclass) == (line["designation"], line["subclass"])
        assert (facts.ra, facts.dec) == (float(line["ra"]), float(line["dec"]))
        assert line["gaia_source_id"] in ("-9999", str(row["source_id"]))
    assert layouts == {"lamost-image", "lamost-table"}


def test_a_file_holds_what_simulate_survey_gives(survey):
    (chunk,) = simulate_survey(STARS, seed=5, repeats=0.3, junk=0.2, wavelength=mock_wavelength())
    for spectrum in chunk.spectra[:3]:
        read = read_spectrum(survey / "spectra" / spectrum.facts.path)
        assert replace(read.facts, path="") == replace(spectrum.facts, path="")
        good = read.ivar > 0
        np.testing.assert_array_equal(good, spectrum.ivar > 0)
        np.testing.assert_allclose(read.flux[good], spectrum.flux[good], rtol=1e-6)


def test_a_finished_survey_is_left_alone_and_another_refused(survey):
    before = {path: path.stat().st_mtime_ns for path in survey.rglob("*")}
    write_survey(survey, STARS, seed=5, repeats=0.3, junk=0.2)
    assert {path: path.stat().st_mtime_ns for path in survey.rglob("*")} == before
    with pytest.raises(UsageError, match="holds the survey"):
        write_survey(survey, STARS, seed=6, repeats=0.3, junk=0.2)
    for bad in ({"stars": 0}, {"stars": 3, "junk": 1.5}):
        with pytest.raises(UsageError):
            write_survey(survey / "other", **{"stars": 1, "seed": 1, **bad})


def test_a_stopped_survey_goes_on_and_ends_the_same(survey, tmp_path):
    class StopError(Exception):
        pass

    def stop(done, total):
        raise StopError

    with pytest.raises(StopError):
        write_survey(tmp_path, STARS, seed=5, repeats=0.3, junk=0.2, progress=stop)
    assert not (tmp_path / "truth.parquet").exists()
    assert not [path for path in tmp_path.rglob(".stargap-*")]
    some = sorted((tmp_path / "spectra").rglob("*.gz"))
    some[0].unlink()
    stamp = some[1].stat().st_mtime_ns
    write_survey(tmp_path, STARS, seed=5, repeats=0.3, junk=0.2)
    assert some[1].stat().st_mtime_ns == stamp
    assert digests(tmp_path) == digests(survey)


@pytest.mark.slow
def test_a_killed_survey_goes_on_and_ends_the_same(survey, tmp_path, processes):
    options = {"seed": 5, "repeats": 0.3, "junk": 0.2}
    process = processes.Process(target=write_survey, args=(tmp_path, STARS), kwargs=options)
    process.start()
    while len(list(tmp_path.rglob("*.gz"))) < 10:
        assert process.is_alive()
        time.sleep(0.02)
    process.kill()
    process.join()
    assert not (tmp_path / "truth.parquet").exists()
    write_survey(tmp_path, STARS, seed=5, repeats=0.3, junk=0.2)
    left = {name: value for name, value in digests(tmp_path).items() if ".stargap-" not in name}
    assert left == digests(survey)


def test_no_stars_and_no_junk():
    assert list(simulate_survey(0, seed=1)) == []
    (chunk,) = simulate_survey(1, seed=1, junk=0.0, repeats=0.0)
    assert chunk.truth["kind"].tolist() == ["dwarf"]
    assert len(chunk.spectra) == 1
    (chunk,) = simulate_survey(2, seed=1, junk=1.0)
    assert "dwarf" not in chunk.truth["kind"]


def test_any_seed_serves():
    (chunk,) = simulate_survey(1, seed=2**40)
    assert len(chunk.spectra) == 1
