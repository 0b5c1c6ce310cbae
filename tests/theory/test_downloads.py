"""Model spectra as servers give them out, in files built from the servers' documents."""

from __future__ import annotations

import gzip

import h5py
import numpy as np
import pytest

from stargap.errors import UsageError
from stargap.theory.downloads import MARCS_WAVE, read_marcs, read_newera, read_sphinx, read_svo
from stargap.theory.grids import covered_box, read_grid

WAVE = np.exp(np.linspace(np.log(5700.0), np.log(9200.0), 30_000))
FLUX = 1e5 * (2 + np.sin(WAVE / 30))
HEAD = """# {title}
# teff = 3500 K (value for the effective temperature for the model. Temperatures are given in K)
# logg = 5 log(cm/s2) (value for Log(G) for the model.)
# meta = -0.5  (value for the Metallicity for the model.)
# alpha = 0.2  (Alpha)
#
# column 1: WAVELENGTH (ANGSTROM), Wavelength in Angstrom
# column 2: FLUX (ERG/CM2/S/A), Flux in erg/cm2/s/A
"""


def rows(*columns):
    return "\n".join(" ".join(f"{value:.9g}" for value in row) for row in zip(*columns, strict=True)) + "\n"


def svo(path, title="BT-Settl (CIFIST)", head=HEAD):
    path.write_text(head.format(title=title) + rows(WAVE, FLUX))
    return path


def same(found, labels):
    np.testing.assert_allclose(found[0], labels, rtol=1e-6)
    np.testing.assert_allclose(found[1], WAVE, rtol=1e-7)
    np.testing.assert_allclose(found[2], FLUX, rtol=1e-7)


def test_svo_text(tmp_path):
    same(read_svo(svo(tmp_path / "lte035-5.0-0.5a+0.2.BT-Settl.7.dat.txt")), [3500.0, 5.0, -0.5, 0.2])
    with pytest.raises(UsageError, match="nothing says whether wavelengths of 'Kurucz ODFNEW /NOVER' are in air"):
        read_svo(svo(tmp_path / "a.dat.txt", "Kurucz ODFNEW /NOVER"))
    with pytest.raises(UsageError, match="states no logg"):
        read_svo(svo(tmp_path / "b.dat.txt", head=HEAD.replace("# logg", "# gravity")))
    (tmp_path / "c.dat.txt").write_text(HEAD.format(title="BT-Settl") + "6000 one\n")
    with pytest.raises(UsageError, match="a line does not begin with 2 numbers"):
        read_svo(tmp_path / "c.dat.txt")


def test_svo_votable(tmp_path):
    given = {"teff": 3500, "logg": 5, "meta": -0.5, "alpha": 0.2}
    params = "".join(f'<PARAM name="{name}" datatype="float" value="{value}"/>' for name, value in given.items())
    units = {"WAVELENGTH": "ANGSTROM", "FLUX": "ERG/CM2/S/A"}
    fields = "".join(f'<FIELD name="{name}" datatype="double" unit="{unit}"/>' for name, unit in units.items())
    lines = "".join(f"<TR><TD>{w:.9g}</TD><TD>{f:.9g}</TD></TR>" for w, f in zip(WAVE, FLUX, strict=True))
    path = tmp_path / "a.dat.xml"
    path.write_text(
        f'<?xml version="1.0"?><VOTABLE version="1.1" xmlns="http://www.ivoa.net/xml/VOTable/v1.1"><RESOURCE>'
        f'<DESCRIPTION>BT-Settl (CIFIST)</DESCRIPTION><INFO name="QUERY_STATUS" value="OK"/><TABLE>{params}{fields}'
        f"<DATA><TABLEDATA>{lines}</TABLEDATA></DATA></TABLE></RESOURCE></VOTABLE>"
    )
    same(read_svo(path), [3500.0, 5.0, -0.5, 0.2])
    path.write_text("<VOTABLE><oops></VOTABLE>")
    with pytest.raises(UsageError, match="is not a readable VOTable"):
        read_svo(path)


@pytest.mark.parametrize(
    ("name", "labels"),
    [
        ("lte03500-5.00-0.5.PHOENIX-NewEra-ACES-COND-2023.HSR.h5", [3500.0, 5.0, -0.5, 0.0]),
        ("lte03500-5.00-0.5.alpha=0.2.PHOENIX-NewEra-ACES-COND-2023.HSR.h5", [3500.0, 5.0, -0.5, 0.2]),
    ],
)
def test_newera(name, labels, tmp_path):
    with h5py.File(tmp_path / name, "w") as file:
        file["PHOENIX_SPECTRUM/wl"], file["PHOENIX_SPECTRUM/flux"] = WAVE[::-1], np.log10(FLUX[::-1]) + 8
        file["PHOENIX_SPECTRUM_LSR/wl"] = WAVE[:10]
    same(read_newera(tmp_path / name), labels)
    with h5py.File(tmp_path / name, "w") as file:
        file["other"] = 1
    with pytest.raises(UsageError, match="is not a readable spectrum of PHOENIX NewEra"):
        read_newera(tmp_path / name)


def test_sphinx(tmp_path):
    path = tmp_path / "Teff_3500.0_logg_5.0_logZ_-0.5_CtoO_0.5.txt"
    path.write_text("# Wavelength [um]       F [W/m2/m]\n" + rows(WAVE / 1e4, FLUX * 1e7))
    same(read_sphinx(path), [3500.0, 5.0, -0.5, 0.0])
    with pytest.raises(UsageError, match="the name does not state labels"):
        read_sphinx(path.rename(tmp_path / "a.txt"))


@pytest.mark.parametrize("packed", [False, True])
def test_marcs(packed, tmp_path):
    path = tmp_path / "p3500_g+5.0_m0.0_t01_ap_z-0.50_a+0.20_c+0.00_n+0.00_o+0.20_r+0.00_s+0.00.flx"
    path.write_text(rows(FLUX))
    with pytest.raises(UsageError, match=r"flx_wavelengths.vac is missing"):
        read_marcs(path)
    (tmp_path / MARCS_WAVE).write_text(rows(WAVE))
    if packed:
        for file in (path, tmp_path / MARCS_WAVE):
            file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()
        path = path.with_name(f"{path.name}.gz")
    same(read_marcs(path), [3500.0, 5.0, -0.5, 0.2])


def test_a_folder_of_all_kinds_is_one_grid(tmp_path):
    svo(tmp_path / "lte035-5.0-0.5a+0.2.BT-Settl.spec.7.dat.txt")
    with h5py.File(tmp_path / "lte03400-5.00-0.5.PHOENIX-NewEra-ACES-COND-2023.HSR.h5", "w") as file:
        file["PHOENIX_SPECTRUM/wl"], file["PHOENIX_SPECTRUM/flux"] = WAVE, np.log10(FLUX) + 8
    sphinx = tmp_path / "Teff_3300.0_logg_5.0_logZ_-0.5_CtoO_0.5.txt"
    sphinx.write_text("# Wavelength [um]       F [W/m2/m]\n" + rows(WAVE / 1e4, FLUX * 1e7))
    (tmp_path / MARCS_WAVE).write_text(rows(WAVE))
    (tmp_path / "p3200_g+5.0_m0.0_t01_st_z-0.50_a+0.20_c+0.00_n+0.00_o+0.20_r+0.00_s+0.00.flx").write_text(rows(FLUX))
    grid = read_grid(tmp_path, resolution=2000)
    assert sorted(grid.labels[:, 0].tolist()) == [3200.0, 3300.0, 3400.0, 3500.0]
    np.testing.assert_allclose(grid.flux, grid.flux[:1].repeat(4, axis=0), rtol=1e-4)
    assert all(name in grid.citation for name in ("SVO", "NewEra", "SPHINX", "MARCS"))


def test_spectra_that_are_too_coarse_say_so(tmp_path):
    wave = np.exp(np.arange(np.log(5700), np.log(9200), 1 / 500))
    path = tmp_path / "Teff_3300.0_logg_5.0_logZ_-0.5_CtoO_0.5.txt"
    path.write_text(rows(wave / 1e4, np.ones(wave.size)))
    with pytest.raises(UsageError, match="too coarse for R = 2000"):
        read_grid(path, resolution=2000)


def test_the_covered_box_says_what_is_missing():
    labels = np.array([[t, g, m, 0.0] for t in (3000.0, 3100, 3200) for g in (4.5, 5.0) for m in (-0.5, 0.0)])
    assert covered_box(labels).splitlines()[-1] == "12 of the 12 nodes of this box have a model"
    text = covered_box(labels[:-1])
    assert text.endswith("11 of the 12 nodes of this box have a model; at (3200, 5, 0, 0) and the like there is none")
    assert "Teff   3000 to 3200 K, 3 values" in text
