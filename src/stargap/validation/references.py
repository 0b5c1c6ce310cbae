"""Ready settings for tables that catalogues of M dwarfs are compared with (paper section 5)."""

from __future__ import annotations

import difflib
from typing import Any

from stargap.errors import UsageError
from stargap.validation.matching import CompareSettings

__all__ = ["REFERENCES", "reference_settings"]

_VIZIER = "https://vizier.cds.unistra.fr/viz-bin/VizieR?-source="
_UNCHECKED = (
    "The names of its columns are those that VizieR commonly gives and have not been checked against the file, which "
    "must be downloaded with the columns _RAJ2000 and _DEJ2000 that VizieR computes: where a name is wrong, the error "
    "tells which the file has."
)
_SIGN = "The paper's bias stands as printed; by its prose (cooler than ULySS, warmer than SLAM) it is reference - ours."

_J2000: dict[str, Any] = {"radius_arcsec": 3.0, "ra": "RA", "dec": "DEC", "epoch": 2000.0}
"""Stars joined by position, from columns RA and DEC of epoch 2000."""
_BY_VIZIER = _J2000 | {"ra": "_RAJ2000", "dec": "_DEJ2000"}
"""Stars joined by the positions that VizieR computes for the epoch 2000."""
_BY_OBSID: dict[str, Any] = {"key": "obsid", "our_key": "obsid"}
_APOGEE: dict[str, Any] = {
    "columns": {"rv": "VHELIO_AVG", "teff": "TEFF", "logg": "LOGG", "m_h": "M_H"},
    "prefer": "SNR",
    "refuse_bits": {"ASPCAPFLAG": 1 << 23},
    "least_teff": {"m_h": 3500.0},
}
"""Columns of allStar files; bit 23 of ASPCAPFLAG is STAR_BAD, and [M/H] is compared above 3500 K (section 5.2)."""

REFERENCES: dict[str, CompareSettings] = {
    "paper": CompareSettings(
        name="the paper's catalogue",
        citation="the catalogue of the paper, Table 1",
        where="published with the paper",
        note="Columns as in the paper's Table 1, one row per spectrum; not checked against a published file.",
        columns={"rv": "RV", "teff": "Teff", "logg": "Logg", "m_h": "[M/H]"},
        **_BY_OBSID,
    ),
    "apogee-dr17": CompareSettings(
        name="APOGEE DR17",
        citation="Abdurro'uf et al. 2022, ApJS 259, 35",
        where="https://data.sdss.org/sas/dr17/apogee/spectro/aspcap/dr17/synspec_rev1/allStar-dr17-synspec_rev1.fits",
        note="ASPCAP's calibrated labels; rows with STAR_BAD are left out. Less Mann et al. 2015 an earlier release "
        "gives +54 K, -0.11 dex (14 stars).",
        **_APOGEE,
        key="GAIAEDR3_SOURCE_ID",
        paper_bias={"teff": 0.0, "logg": 0.13, "m_h": 0.04},
        paper_scatter={"teff": 67.0, "logg": 0.09, "m_h": 0.17},
    ),
    "apogee-dr16": CompareSettings(
        name="APOGEE DR16",
        citation="Jonsson et al. 2020, AJ 160, 120",
        where="https://data.sdss.org/sas/dr16/apogee/spectro/aspcap/r12/l33/allStar-r12-l33.fits",
        note="Its GAIA_SOURCE_ID is of Gaia DR2, so stars are joined by position; rows with STAR_BAD are left out.",
        **_APOGEE,
        **_J2000,
    ),
    "gaia-rvs": CompareSettings(
        name="Gaia DR3 RVS",
        citation="Katz et al. 2023, A&A 674, A5",
        where="https://gea.esac.esa.int/archive (gaiadr3.gaia_source)",
        note="Median velocities of several transits; of stars as faint as these their errors are often above 1 km/s.",
        columns={"rv": "radial_velocity"},
        key="source_id",
        paper_bias={"rv": 3.0},
        paper_scatter={"rv": 9.0},
    ),
    "el-badry2021": CompareSettings(
        name="El-Badry 2021",
        citation="El-Badry, Rix & Heintz 2021, MNRAS 506, 2269",
        where="https://zenodo.org/record/4435257 (all_columns_catalog.fits)",
        note="Gaia DR2 velocities of the secondaries of wide binaries that are no chance alignments; for the [M/H] of "
        "FGK+M pairs see stargap.validation.binaries.",
        columns={"rv": "dr2_radial_velocity2"},
        key="source_id2",
        keep={"R_chance_align": (0.0, 0.01)},
    ),
    "birky2020": CompareSettings(
        name="Birky 2020",
        citation="Birky et al. 2020, ApJ 892, 31",
        where=f"{_VIZIER}J/ApJ/892/31, or the authors' table of safe labels, whose columns these are",
        note="The Cannon on APOGEE spectra, [Fe/H]; its Gaia DR2 identifiers are rounded, so stars are joined by "
        "position. Less Mann et al. 2015: -28 K, +0.02 dex (14 stars).",
        columns={"rv": "RV_APOGEE", "teff": "TEFF", "m_h": "FE_H"},
        **_J2000,
        prefer="SNR",
    ),
    "mann2015": CompareSettings(
        name="Mann 2015",
        citation="Mann et al. 2015, ApJ 804, 64",
        where=f"{_VIZIER}J/ApJ/804/64",
        note="Bolometric Teff and [Fe/H] calibrated on FGK primaries, the scale that other offsets refer to. Columns "
        "of its CSV; in VizieR's FITS the last is __Fe_H_.",
        columns={"teff": "Teff", "m_h": "[Fe/H]"},
        **_J2000 | {"ra": "RAJ2000", "dec": "DEJ2000"},
    ),
    "carmenes": CompareSettings(
        name="CARMENES IX",
        citation="Cifuentes et al. 2025, A&A 693, A228",
        where="the authors' full table, 2,634 stars and 132 columns",
        note="The CARMENES input catalogue: photometric Teff and log g, [Fe/H] and velocities collected from many "
        "sources. Less Mann et al. 2015: +51 K, -0.09 dex (159 stars).",
        columns={"rv": "rv", "teff": "Teff_K", "logg": "logg", "m_h": "Fe_H"},
        key="GaiaDR3_id",
    ),
    "laspm": CompareSettings(
        name="LASPM",
        citation="Du et al. 2021, RAA 21, 202; Du et al. 2024, arXiv:2410.16730",
        where="http://www.lamost.org/dr11 (LRS catalogue of gM, dM and sdM stars, LRS_mstellar)",
        note="LAMOST's own labels of M stars, one row per spectrum. Columns as listed for DR10 v2.0; giants are among "
        "its rows.",
        columns={"teff": "teff", "logg": "logg", "m_h": "m_h"},
        **_BY_OBSID,
        paper_bias={"teff": 8.97, "m_h": 0.04},
        paper_scatter={"logg": 0.13},
    ),
    "sarmento2021": CompareSettings(
        name="Sarmento 2021",
        citation="Sarmento et al. 2021, A&A 649, A147",
        where=f"{_VIZIER}J/A+A/649/A147",
        note=f"Synthetic spectra against APOGEE DR16, 313 M dwarfs. {_UNCHECKED}",
        columns={"teff": "Teff", "logg": "logg", "m_h": "__M_H_"},
        **_BY_VIZIER,
    ),
    "hejazi2020": CompareSettings(
        name="Hejazi 2020",
        citation="Hejazi et al. 2020, AJ 159, 30",
        where=f"{_VIZIER}J/AJ/159/30",
        note=f"Low-resolution spectra of 1,544 nearby dwarfs and subdwarfs of high proper motion. {_UNCHECKED}",
        columns={"teff": "Teff", "logg": "logg", "m_h": "__M_H_"},
        **_BY_VIZIER,
    ),
    "slam": CompareSettings(
        name="SLAM",
        citation="Li et al. 2021, ApJS 253, 45",
        where=f"{_VIZIER}J/ApJS/253/45",
        note=f"Trained on APOGEE DR16: Teff and [M/H] of about 300,000 M dwarfs of LAMOST DR6. {_SIGN} {_UNCHECKED}",
        columns={"teff": "Teff", "m_h": "__M_H_"},
        **_BY_VIZIER,
        paper_bias={"teff": -169.06, "m_h": 0.18},
    ),
    "ulyss": CompareSettings(
        name="ULySS",
        citation="Ding et al. 2022, ApJS 260, 45",
        where=f"{_VIZIER}J/ApJS/260/45",
        note="MILES templates, 763,136 spectra of LAMOST DR8; 176 K below ASPCAP for M dwarfs, as its authors say. "
        f"{_SIGN} {_UNCHECKED}",
        columns={"teff": "Teff", "logg": "logg", "m_h": "__Fe_H_"},
        **_BY_VIZIER,
        paper_bias={"teff": 68.43, "m_h": 0.22},
        paper_scatter={"logg": 0.10},
    ),
    "truth": CompareSettings(
        name="the truth of a simulated survey",
        citation="simulated by stargap mock",
        where="truth.parquet in the folder of the simulated survey",
        columns={"rv": "rv", "teff": "teff", "logg": "logg", "m_h": "m_h"},
        **_BY_OBSID,
        simulated=True,
    ),
}
"""By the name that ``stargap compare --reference`` takes."""


def reference_settings(name: str) -> CompareSettings:
    """Return ready settings.

    Raises:
        UsageError: there are none of that name; the nearest is named.

    Example:
        >>> reference_settings("mann2015").columns["teff"]
        'Teff'
        >>> reference_settings("man2015")
        Traceback (most recent call last):
        stargap.errors.UsageError: no reference 'man2015'; did you mean 'mann2015'? There are apogee-dr16, ...
    """
    if name in REFERENCES:
        return REFERENCES[name]
    near = difflib.get_close_matches(name, REFERENCES, n=1, cutoff=0.0)[0]
    message = f"no reference {name!r}; did you mean {near!r}? There are {', '.join(sorted(REFERENCES))}"
    raise UsageError(message)
