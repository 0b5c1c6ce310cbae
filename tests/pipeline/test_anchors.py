"""Anchors from a CSV: read and prepared, or refused in one line that says what is wrong with which."""

from __future__ import annotations

import csv

import numpy as np
import pytest
import torch
from helpers.stars import mock_stars

from stargap.errors import UsageError
from stargap.mock.files import write_lamost
from stargap.pipeline.anchors import read_anchor_stars, scores_of, write_cross_validation
from stargap.theory.emulator import shipped_emulator
from stargap.transfer.anchor_labels import ERRORS
from stargap.transfer.anchored.anchors import AnchorStars
from stargap.transfer.anchored.train import CrossValidated

COUNT = 3


@pytest.fixture(scope="module")
def simulated():
    return mock_stars(shipped_emulator(), COUNT, seed=71, snr=np.full(COUNT, 50.0), bad_pixels=False,
                      active_fraction=0.0)  # fmt: skip


@pytest.fixture(scope="module")
def folder(simulated, tmp_path_factory):
    folder = tmp_path_factory.mktemp("anchors")
    (folder / "spectra").mkdir()
    for row in range(COUNT):
        write_lamost(folder / "spectra" / f"{row}.fits", simulated.wavelength, simulated.flux[row], simulated.ivar[row])
    write_lamost(folder / "spectra" / "dark.fits", simulated.wavelength, simulated.flux[0], 0 * simulated.ivar[0])
    (folder / "spectra" / "broken.fits").write_bytes(b"<html>404</html>")
    return folder


def listed(folder, text, name="anchors.csv", encoding="utf-8"):
    (folder / name).write_text(text, encoding=encoding)
    return folder / name


def lines(head="path,teff,logg,m_h", *rest):
    return "\n".join([head, *(rest or [f"spectra/{row}.fits,{3400 + row},4.8,-0.1" for row in range(COUNT)])]) + "\n"


# ---- read


def test_spectra_are_read_from_the_folder_of_the_csv_and_prepared_at_their_velocities(folder, simulated, monkeypatch):
    monkeypatch.chdir(folder.parent)
    stars, scored = read_anchor_stars([listed(folder, lines())], shipped_emulator())
    assert len(stars) == COUNT
    assert stars.labels.tolist() == [[3400 + row, 4.8, -0.1] for row in range(COUNT)]
    assert list(stars.names) == ["0.fits", "1.fits", "2.fits"]
    assert scored.tolist() == [True] * COUNT
    labels = torch.as_tensor(simulated.labels)
    flux = shipped_emulator().flux(labels)[:, 90:-90]
    for row in range(COUNT):  # in the rest frame a star is most like its own spectrum unshifted
        seen = stars.prepared.good[row]
        shape = flux[row] / flux[row].mean()
        likeness = [
            float(np.corrcoef(stars.prepared.flux[row, seen], np.roll(shape.numpy(), shift)[seen])[0, 1])
            for shift in (-3, 0, 3)
        ]
        assert int(np.argmax(likeness)) == 1


def test_the_byte_order_mark_of_a_spreadsheet_and_other_columns_do_not_matter(folder):
    text = lines("note,path,teff,logg,m_h", *(f"a,spectra/{row}.fits,3400,4.8,0" for row in range(COUNT)))
    stars, _ = read_anchor_stars([listed(folder, text, "bom.csv", "utf-8-sig")], shipped_emulator())
    assert len(stars) == COUNT


def test_absolute_paths_names_of_stars_and_what_is_scored(folder):
    here = folder / "spectra"
    text = lines(
        "path,star,teff,logg,m_h,scored",
        f"{here / '0.fits'},GJ 1,3400,4.8,0,1",
        "spectra/1.fits,GJ 1 ,3400,4.8,0,0",
        "spectra/2.fits,,3400,4.8,0,",
    )
    stars, scored = read_anchor_stars([listed(folder, text)], shipped_emulator())
    assert list(stars.names) == ["GJ 1", "GJ 1", "2.fits"]
    assert scored.tolist() == [True, False, True]


def test_errors_sources_and_chances_are_read_and_have_usual_values(folder):
    text = lines(
        "path,teff,logg,m_h,e_teff,e_m_h,source,p_single",
        "spectra/0.fits,3400,4.8,0,44,0.08,photometry,0.7",
        "spectra/1.fits,3400,4.8,0,,, Mann ,",
        "spectra/2.fits,3400,4.8,0,50,0.1,,1",
    )
    stars, _ = read_anchor_stars([listed(folder, text)], shipped_emulator())
    assert stars.errors.tolist() == [[44, ERRORS[1], 0.08], list(ERRORS), [50, ERRORS[1], 0.1]]
    assert stars.p_single.tolist() == [0.7, 0.95, 1.0]
    assert list(stars.sources) == ["photometry", "Mann", "anchors"]
    for bad in ("0,44,0.08,a,-0.1", "0,44,0.08,a,1.1", "0,-1,0.08,a,1", "0,44,0,a,1"):
        text = lines("path,teff,logg,m_h,e_teff,e_m_h,source,p_single", f"spectra/0.fits,3400,4.8,{bad}")
        with pytest.raises(UsageError, match="line 2: errors must be positive, p_single from 0 to 1"):
            read_anchor_stars([listed(folder, text, "bad.csv")], shipped_emulator())


# ---- refused


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "bad.csv: is empty"),
        ("path,teff,logg,m_h\n", "no line below the names of its columns"),
        ("path,teff,logg\nspectra/0.fits,3400,4.8\n", "no column 'm_h'; needed are path, teff, logg, m_h"),
        ("teff,logg,m_h\n3400,4.8,0\n", "no column 'path'; needed are path, teff, logg, m_h"),
        (
            lines("path,teff,logg,m_h", "spectra/0.fits,hot,4.8,0"),
            "'hot' is not a number",
        ),
        (lines("path,teff,logg,m_h", "a.fits,3400,4.8,"), "line 2: m_h is missing or not a finite number"),
        (lines("path,teff,logg,m_h", "a.fits,3400,4.8,0", "b.fits,3400,nan,0"), "line 3: logg is missing"),
        (lines("path,teff,logg,m_h", "a.fits,inf,4.8,0"), "line 2: teff is missing or not a finite number"),
        (
            lines("path,teff,logg,m_h,scored", "a.fits,3400,4.8,0,2"),
            "line 2: scored must be 1, or 0 for a spectrum that only trains",
        ),
        (lines("path,teff,logg,m_h", "spectra/0.fits,3400,4.8,0", "gone.fits,3400,4.8,0"), "gone.fits: the file does"),
        (lines("path,teff,logg,m_h", "spectra/broken.fits,3400,4.8,0"), "broken.fits: not a FITS file"),
        (lines("path,teff,logg,m_h", "spectra,3400,4.8,0"), "spectra: "),
        (lines("path,teff,logg,m_h", "spectra/0.fits,3400,4.8,0", "spectra/dark.fits,3400,4.8,0"), "dark.fits: "),
    ],
)
def test_a_list_that_cannot_be_used_is_one_line(folder, text, says):
    path = listed(folder, text, "bad.csv")
    with pytest.raises(UsageError) as caught:
        read_anchor_stars([path], shipped_emulator())
    message = str(caught.value)
    assert says in message
    assert len(message.splitlines()) == 1
    assert "bad.csv" in message or "dark.fits" in message


def test_a_list_that_is_not_there_or_not_text(folder):
    for path in (folder / "nowhere.csv", folder / "spectra", folder / "spectra" / "0.fits"):
        with pytest.raises(UsageError, match=r"does not exist|cannot be read|no column|no binary table"):
            read_anchor_stars([path], shipped_emulator())


# ---- what is said of a training


def made(ours, known, names=None):
    labels = np.full((len(ours), 4), np.nan)
    labels[:, :3] = ours
    labels[:, 3] = np.where(np.isfinite(labels[:, 0]), 0.0, np.nan)
    found = CrossValidated(labels, 0 * labels + 0.1, np.ones(len(ours)), torch.zeros(len(ours), 1),
                           labels, np.zeros(len(ours), dtype=int), np.full((1, len(ours), 4), np.nan))  # fmt: skip
    return AnchorStars(None, np.array(known, dtype=float), names or [f"S{k}" for k in range(len(ours))]), found


def test_scores_are_of_the_stars_left_out_ours_minus_literature():
    known = np.array([[3200.0, 5.0, -0.2], [3400.0, 4.9, 0.0], [3600.0, 4.8, 0.2], [9999.0, 9.0, 9.0]])
    ours = known * [0.5, 1.0, 1.0] + [1750.0, 0.1, -0.05]
    ours[3] = np.nan
    scores = scores_of(*made(ours, known, ["A", "A", "B", "C"]))
    assert (scores["anchors"], scores["left_out"]) == (3.0, 3.0)
    assert scores["teff_median"] == pytest.approx(50.0)
    assert scores["teff_std"] == pytest.approx(np.std([150.0, 50.0, -50.0]))
    assert scores["teff_slope"] == pytest.approx(0.5)
    assert (scores["logg_median"], scores["logg_std"]) == pytest.approx((0.1, 0.0))
    assert scores["m_h_slope"] == pytest.approx(1.0)


def test_no_slope_is_given_where_literature_does_not_vary():
    scores = scores_of(*made(np.array([[3400.0, 4.8, 0.0], [3500.0, 4.9, 0.1]]), [[3400.0, 4.8, 0.0]] * 2))
    assert not [name for name in scores if name.endswith("slope")]
    assert all(np.isfinite(value) for value in scores.values())


def test_cross_validation_is_written_a_line_a_spectrum_left_out(tmp_path):
    ours = np.array([[3412.34, 4.81, -0.1], [np.nan] * 3, [3500.0, 4.9, 0.1]])
    write_cross_validation(tmp_path / "cv.csv", *made(ours, [[3400.0, 4.8, 0.0]] * 3, ["GJ 1", "x", 'a "b", c']))
    rows = list(csv.DictReader((tmp_path / "cv.csv").read_text().splitlines()))
    assert [row["star"] for row in rows] == ["GJ 1", 'a "b", c']
    assert rows[0] == {
        "star": "GJ 1", "teff": "3400", "logg": "4.8", "m_h": "0", "teff_left_out": "3412.3", "logg_left_out": "4.81",
        "m_h_left_out": "-0.1", "e_teff": "0.1", "e_logg": "0.1", "e_m_h": "0.1", "chi2": "1",
    }  # fmt: skip
