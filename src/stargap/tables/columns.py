"""The one place where an output column has its name, dtype, unit, UCD, description, null and valid range."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from stargap.tables.column import INT_NULL, Column, with_error
from stargap.tables.photometric_columns import JOINT, PHOTOMETRIC, PHOTOMETRY
from stargap.tables.spectral import SPECTRAL

__all__ = ["CATALOGUE", "DOMAINS", "INT_NULL", "JOINED", "JOINT", "MEASURED", "PAPER", "PHOTOMETRIC", "PHOTOMETRY",
           "STACKED", "STARS", "SURVEY", "Column", "columns_table"]  # fmt: skip

_INF = float("inf")


def _systematic(error: Column) -> Column:
    text = f"Systematic error of {error.name.removeprefix('e_')}, which repeats cannot see"
    return replace(error, name=f"{error.name}_sys", description=text)


def _label(*given: Any) -> tuple[Column, ...]:
    value, error = with_error(*given)
    return value, error, _systematic(error)


def _marks(name: str, what: str) -> tuple[Column, Column]:
    use = f"1 if {what} is usable: known and no flag calls it wrong; else 0"
    care = f"1 if {what} is usable but with care: flags say why; else 0"
    return (
        Column(f"use_{name}", "int32", "", "meta.code.qual", use, (0, 1)),
        Column(f"care_{name}", "int32", "", "meta.code.qual", care, (0, 1)),
    )


def _rho(one: str, other: str, ucds: str) -> Column:
    about = f"Correlation of the random errors of {one} and {other}"
    return Column(f"rho_{one}_{other}", "float32", "", f"stat.correlation;{ucds}", about, (-1, 1))


def _limit(name: str, unit: str, ucd: str) -> Column:
    about = f"Cramer-Rao bound of {name} for this noise, without a prior"
    return Column(f"limit_{name}", "float32", unit, f"stat.error;{ucd}", about, (0, _INF))


_UCDS = {"teff": "phys.temperature.effective", "logg": "phys.gravity", "m_h": "phys.abund.Z"}
INFORMATION: tuple[Column, ...] = (
    _rho("teff", "logg", f"{_UCDS['teff']};{_UCDS['logg']}"),
    _rho("teff", "m_h", f"{_UCDS['teff']};{_UCDS['m_h']}"),
    _rho("logg", "m_h", f"{_UCDS['logg']};{_UCDS['m_h']}"),
    _limit("rv", "km/s", "spect.dopplerVeloc.opt"),
    _limit("teff", "K", _UCDS["teff"]),
    _limit("logg", "", _UCDS["logg"]),
    _limit("m_h", "", _UCDS["m_h"]),
)
"""How errors of labels are correlated, and how small errors of any method can be (`stargap.measurement.limits`)."""

SECOND: tuple[Column, ...] = (
    Column(
        "second_dv", "float32", "km/s", "spect.dopplerVeloc.opt", "RV of the best second star less rv", (-2000, 2000)
    ),
    Column(
        "second_ratio", "float32", "", "spect.line.strength;arith.ratio", "Its lines' strength over those of the star"
    ),
    Column("second_snr", "float32", "", "stat.snr", "Its strength over the error of it; noise alone gives up to 4"),
)
"""The most significant second star of any spectrum (`stargap.measurement.second`)."""

MARKS: tuple[Column, ...] = (
    *_marks("rv", "RV"),
    *_marks("teff", "Teff"),
    *_marks("logg", "log g"),
    *_marks("m_h", "[M/H]"),
    *_marks("activity", "H-alpha"),
)
"""The marks of `stargap.marks`, which follow from the flags."""

MEASURED: tuple[Column, ...] = (
    Column("spectrum_id", "int64", "", "meta.id;meta.main", "Row number given at ingest; joins all tables"),
    Column("path", "str", "", "meta.id;meta.file", "File that the spectrum was read from"),
    Column("obsid", "int64", "", "meta.id;obs", "Observation identifier of the survey; can repeat", None, "obsid"),
    Column("designation", "str", "", "meta.id;src", "Designation of the target in the header", None, "ID"),
    Column("ra", "float64", "deg", "pos.eq.ra;meta.main", "Right ascension, ICRS", (0, 360), "RA", 7),
    Column("dec", "float64", "deg", "pos.eq.dec;meta.main", "Declination, ICRS", (-90, 90), "Dec", 7),
    Column("snr_r", "float32", "", "stat.snr;em.opt.R", "Median S/N per pixel in r", (-100, 1e6), "SNRr", 2),
    Column("snr_i", "float32", "", "stat.snr;em.opt.I", "Median S/N per pixel in i", (-100, 1e6), "SNRi", 2),
    Column("subclass", "str", "", "src.spType", "Spectral class given by the survey's pipeline", None, "Subclass"),
    *_label("rv", "km/s", "spect.dopplerVeloc.opt", "Heliocentric radial velocity", (-2000, 2000), "RV", 2),
    Column(
        "rv_zero", "float32", "km/s", "spect.dopplerVeloc.opt", "Zero point that is subtracted from rv", None, "", 2
    ),
    *_label("teff", "K", "phys.temperature.effective", "Effective temperature", (2000, 7000), "Teff", 1),
    *_label("logg", "", "phys.gravity", "Surface gravity log g in dex, [log(cm s-2)]", (2, 7), "Logg"),
    *_label("m_h", "", "phys.abund.Z", "Metallicity [M/H] in dex", (-5, 2), "[M/H]"),
    *with_error("a_m", "", "phys.abund", "Alpha enhancement [a/M] in dex", (-1, 2)),
    Column("chi2", "float64", "", "stat.fit.chi2", "Reduced chi-square of the label fit", (0, _INF)),
    *INFORMATION,
    *SECOND,
    *SPECTRAL,
    Column("snr_source", "str", "", "meta.code", "Where the S/N comes from: header or ivar"),
    Column("layout", "str", "", "meta.code", "Structure of the file, such as lamost-image"),
    Column("release", "str", "", "meta.version;meta.dataset", "Data release named by the file"),
    Column("resolution", "float32", "", "spect.resolution", "Resolving power that models were broadened to", (0, _INF)),
    Column("target_id", "int64", "", "meta.id;src", "Identifier of the star in its survey (SDSS-V, DESI)"),
    Column("plan_id", "str", "", "meta.id;obs.field", "Observing plan or plate"),
    Column("lmjd", "int64", "d", "time.epoch;obs", "Local modified Julian day of the night", (40000, 100000)),
    Column("spectrograph", "int32", "", "meta.id;instr", "Spectrograph number", (1, 16)),
    Column("fiber", "int32", "", "meta.id;instr", "Fibre number", (0, 5000)),
    Column("date_obs", "str", "", "time.start;obs.exposure", "Start of the observation, as in the header"),
    Column("exposure", "float32", "s", "time.duration;obs.exposure", "Total exposure time", (0, 1e6)),
    Column("bad_fraction", "float32", "", "stat.value;instr.pixel", "Fraction of bad fitted pixels", (0, 1)),
    *MARKS,
    Column("flags", "int64", "", "meta.code.qual", "Bit mask of quality flags; flag_text spells them out"),
    Column("flag_text", "str", "", "meta.note", "The flags that are set, in words, the worst first"),
    Column("failure", "str", "", "meta.note", "Why the file could not be read; empty if it could"),
)
"""The columns that ``stargap measure`` writes, in order."""


def _synthetic(name: str) -> Column:
    value = next(column for column in MEASURED if column.name == name)
    return replace(value, name=f"{name}_syn", description=f"{name} of the fit in the synthetic domain", paper_name="")


DOMAINS: tuple[Column, ...] = (*map(_synthetic, ("teff", "logg", "m_h", "chi2")),)
"""What a survey run measures beside ``MEASURED``: null where labels are the emulator's alone."""


SURVEY: tuple[Column, ...] = (
    *MEASURED,
    *DOMAINS,
    Column("in_sample", "bool", "", "meta.code", "Whether the spectrum passes the cuts of the sample"),
    Column("sample_flags", "int64", "", "meta.code.qual", "Bit mask of the cuts of the sample"),
    Column("gaia_source_id", "int64", "", "meta.id;src", "Gaia DR3 source identifier"),
    Column("gaia_separation", "float32", "arcsec", "pos.angDistance", "Distance to the Gaia source", (0, _INF)),
    Column("parallax", "float64", "mas", "pos.parallax.trig", "Gaia parallax", None, "Plx", 4),
    Column(
        "e_parallax",
        "float32",
        "mas",
        "stat.error;pos.parallax.trig",
        "1-sigma error of parallax",
        (0, _INF),
        "e_Plx",
        4,
    ),
    Column("ruwe", "float32", "", "stat.error", "Gaia renormalised unit weight error", (0, _INF), "RUWE"),
    Column("g_mag", "float32", "mag", "phot.mag;em.opt", "Gaia G magnitude", (-5, 30), "Gmag", 4),
    Column("bp_mag", "float32", "mag", "phot.mag;em.opt.B", "Gaia BP magnitude", (-5, 30), "BPmag", 4),
    Column("rp_mag", "float32", "mag", "phot.mag;em.opt.R", "Gaia RP magnitude", (-5, 30), "RPmag", 4),
    Column("bp_rp", "float32", "mag", "phot.color;em.opt.B;em.opt.R", "Gaia colour BP - RP", (-10, 20)),
    *with_error("ks_mag", "mag", "phot.mag;em.IR.K", "2MASS Ks magnitude of quality A to C", (-5, 30)),
    Column("m_g", "float32", "mag", "phot.mag;phys.magAbs", "Absolute G magnitude from the parallax", (-20, 30)),
    Column("pmra", "float64", "mas/yr", "pos.pm;pos.eq.ra", "Gaia proper motion in right ascension times cos(dec)"),
    Column("e_pmra", "float32", "mas/yr", "stat.error;pos.pm;pos.eq.ra", "1-sigma error of pmra", (0, _INF)),
    Column("pmdec", "float64", "mas/yr", "pos.pm;pos.eq.dec", "Gaia proper motion in declination"),
    Column("e_pmdec", "float32", "mas/yr", "stat.error;pos.pm;pos.eq.dec", "1-sigma error of pmdec", (0, _INF)),
    Column("gaia_rv", "float32", "km/s", "spect.dopplerVeloc.opt", "Gaia radial velocity", (-2000, 2000), "", 2),
    Column(
        "e_gaia_rv",
        "float32",
        "km/s",
        "stat.error;spect.dopplerVeloc.opt",
        "1-sigma error of gaia_rv",
        (0, _INF),
        "",
        2,
    ),
    *PHOTOMETRIC,
    *JOINT,
    Column("cluster", "int64", "", "meta.id", "Cluster of the cleaning that the spectrum belongs to"),
    Column("clean_flags", "int64", "", "meta.code.qual", "Bit mask of the cleaning: why it rejects the spectrum"),
)
"""The columns of a survey run's table, one row per spectrum, in order."""


_BY_NAME = {column.name: column for column in SURVEY}


JOINED: tuple[Column, ...] = (
    *MEASURED,
    *(_BY_NAME[name] for name in ("gaia_source_id", "gaia_separation")),
    *PHOTOMETRIC,
    *JOINT,
)
"""The columns that ``stargap measure --gaia`` writes, in order."""


def _some(*names: str) -> tuple[Column, ...]:
    return tuple(_BY_NAME[name] for name in names)


def _measured(name: str) -> tuple[Column, ...]:
    """Return a label and all its errors."""
    value, error = _some(name, f"e_{name}")
    paper = f"e_{value.paper_name}"
    return (
        value,
        replace(error, description=f"1-sigma error of {name} as repeats show it"),
        replace(error, name=f"e_{name}_fit", description=f"1-sigma error of {name} from the fit alone"),
        replace(
            error,
            name=f"e_{name}_paper",
            description=f"Error of {name} as in the paper: repeats and fit, eq. 8",
            paper_name=paper,
        ),
        _systematic(error),
    )


_GAIA = _some("g_mag", "bp_mag", "rp_mag", "bp_rp", "ks_mag", "e_ks_mag", "m_g", "parallax", "e_parallax")
_MOTION = _some("ruwe", "pmra", "e_pmra", "pmdec", "e_pmdec", "gaia_rv", "e_gaia_rv")
_DISTANCE = Column(
    "distance", "float32", "pc", "pos.distance", "1/parallax where the parallax has enough S/N", (0, _INF), "", 2
)
_AGES = (
    Column("ln_jz", "float32", "", "phys.angMomentum", "Natural logarithm of the vertical action in kpc km/s"),
    Column("e_ln_jz", "float32", "", "stat.error;phys.angMomentum", "1-sigma error of ln_jz", (0, _INF)),
    Column("age_mean", "float32", "Gyr", "time.age;stat.mean", "Mean kinematic age, red-giant calibration", (0, 20)),
    Column("age_median", "float32", "Gyr", "time.age;stat.median", "Median of the same age", (0, 20)),
    Column("age_p16", "float32", "Gyr", "time.age;stat.value", "16th percentile of the same age", (0, 20)),
    Column("age_p84", "float32", "Gyr", "time.age;stat.value", "84th percentile of the same age", (0, 20)),
    Column("age_median_msto", "float32", "Gyr", "time.age;stat.median", "Median age, turn-off calibration", (0, 20)),
    Column("age_flags", "int64", "", "meta.code.qual", "Bit mask: why the age is null, or unsure", (0, 2**32 - 1)),
)
_VB_FLAG = Column(
    "vb_flag",
    "int32",
    "",
    "meta.code.class",
    "Bits: 1 variable, 2 binary candidate, 4 ambiguous match",
    (0, 7),
    "VBFlag",
)
_CUTS = Column("cuts", "int64", "", "meta.code.qual", "Bit mask of the cuts of the final catalogue", (0, 2**32 - 1))
_IN_FINAL = Column("in_final_catalogue", "bool", "", "meta.code", "Whether no cut of the final catalogue removes it")

CATALOGUE: tuple[Column, ...] = (
    *_some("spectrum_id", "obsid", "designation", "gaia_source_id", "ra", "dec", "lmjd"),
    *_some("snr_r", "snr_i", "subclass", "spt", "e_spt"),
    *_GAIA,
    _DISTANCE,
    *_MOTION,
    *_some("gaia_separation"),
    *_measured("rv"),
    *_some("rv_zero"),
    *_measured("teff"),
    *_measured("logg"),
    *_measured("m_h"),
    Column("precision_flags", "int64", "", "meta.code.qual", "Bit mask: errors to be used with care", (0, 2**32 - 1)),
    *PHOTOMETRIC,
    *JOINT,
    *_some("a_m", "e_a_m", "chi2"),
    *INFORMATION,
    *SECOND,
    *map(_synthetic, ("teff", "logg", "m_h", "chi2")),
    *SPECTRAL[2:],
    *_AGES,
    _VB_FLAG,
    *_some("bad_fraction"),
    *MARKS,
    *_some("flags", "sample_flags", "cluster", "clean_flags"),
    _CUTS,
    _IN_FINAL,
    *_some("release"),
    Column("version", "str", "", "meta.version", "Versions of stargap and of the model that gave the labels"),
)
"""The columns of the catalogue, one row per spectrum, in order."""


def _of_star(name: str) -> tuple[Column, ...]:
    value, error = _some(name, f"e_{name}")
    scatter = f"Standard deviation of {name} between spectra; null for one"
    return (
        value,
        replace(error, description=f"1-sigma error of {name} as repeats show it"),
        _systematic(error),
        replace(error, name=f"scatter_{name}", ucd=f"stat.stdev;{value.ucd}", description=scatter),
    )


def _of_stack(name: str) -> tuple[Column, ...]:
    value, error = _some(name, f"e_{name}")
    about = f"{value.description.removesuffix(', [log(cm s-2)]')}, fit to the star's stacked spectra"
    return (
        replace(value, name=f"{name}_stack", description=about, paper_name=""),
        replace(error, name=f"e_{name}_stack", description=f"1-sigma error of {name}_stack, calibrated as e_{name} is"),
    )


STACKED: tuple[Column, ...] = (
    Column("n_stack", "int32", "", "meta.number;obs", "Number of spectra in the stack; null for stars with one"),
    replace(_BY_NAME["snr_r"], name="snr_r_stack", description="Median S/N per pixel in r of the stack", paper_name=""),
    *_of_stack("teff"),
    *_of_stack("logg"),
    *_of_stack("m_h"),
    replace(_BY_NAME["chi2"], name="chi2_stack", description="Reduced chi-square of the label fit to the stack"),
    Column("use_stack", "int32", "", "meta.code.qual", "1 if labels of the stack are usable; else 0", (0, 1)),
)
"""Labels fitted to the spectra of a star together, of stars with several (`stargap.pipeline.stacks`)."""

STARS: tuple[Column, ...] = (
    replace(_BY_NAME["spectrum_id"], description="The star's best spectrum, which gives what is not combined"),
    *_some("gaia_source_id", "designation", "ra", "dec"),
    Column("n_spectra", "int32", "", "meta.number;obs", "Number of spectra of the star", (1, _INF)),
    Column("n_epochs", "int32", "", "meta.number;obs", "Number of spectra that are combined", (0, _INF)),
    replace(_BY_NAME["snr_r"], description="S/N per pixel in r of the combined spectra together"),
    replace(_BY_NAME["snr_i"], description="S/N per pixel in i of the combined spectra together"),
    *_some("subclass", "spt", "e_spt"),
    *_GAIA,
    _DISTANCE,
    *_MOTION,
    *_of_star("rv"),
    Column("rv_chi2", "float32", "", "stat.fit.chi2", "Reduced chi-square of constant RV, of usable ones", (0, _INF)),
    Column(
        "p_constant_rv", "float64", "", "stat.probability", "Probability of a larger chi-square of constant RV", (0, 1)
    ),
    Column("rv_variable", "int32", "", "meta.code;src.var", "1 if RV varies: p_constant_rv below 1e-4; else 0", (0, 1)),
    *_of_star("teff"),
    *_of_star("logg"),
    *_of_star("m_h"),
    *STACKED,
    *PHOTOMETRIC,
    *JOINT,
    *_some("a_m", "e_a_m"),
    replace(_BY_NAME["chi2"], description="Reduced chi-square of the best spectrum's label fit"),
    *_some("halpha_ew", "e_halpha_ew", "activity", "activity_3sigma", "p_active", "lhalpha_lbol", "e_lhalpha_lbol"),
    *_AGES,
    _VB_FLAG,
    *MARKS,
    replace(_BY_NAME["flags"], description="Bit mask of quality flags of any of the combined spectra"),
    replace(_CUTS, description="Bit mask of cuts, of any of the combined spectra"),
    _IN_FINAL,
    CATALOGUE[-1],
)
"""The columns of the catalogue of stars, one row per star, in order."""


_TABLE_1 = """ID obsid RA Dec SNRr SNRi Subclass SpT Gmag BPmag RPmag Plx e_Plx RUWE
RV e_RV Teff e_Teff Logg e_Logg [M/H] e_[M/H] Activity VBFlag"""


def _paper() -> tuple[Column, ...]:
    ours = {column.paper_name: column for column in CATALOGUE}
    ours["VBFlag"] = replace(ours["VBFlag"], description="1 variable, 2 binary candidate, else 0")
    return tuple(replace(ours[name], name=name, valid_range=None) for name in _TABLE_1.split())


PAPER: tuple[Column, ...] = _paper()
"""The columns of the paper's Table 1, in its order; null numbers are -9999 in floats too."""


def columns_table(schema: Sequence[Column] = MEASURED) -> str:
    """Return the schema as a Markdown table, one line per column; the documentation is made from it.

    Example:
        >>> print(columns_table([Column("snr_r", "float32", "", "stat.snr;em.opt.R", "S/N in r", (0, 1e6), "SNRr")]))
        | name | type | unit | UCD | description | null | valid range | in Table 1 |
        |---|---|---|---|---|---|---|---|
        | `snr_r` | float32 |  | `stat.snr;em.opt.R` | S/N in r | NaN | 0 to 1e+06 | SNRr |
    """
    lines = ["| name | type | unit | UCD | description | null | valid range | in Table 1 |", "|---" * 8 + "|"]
    for column in schema:
        null = {"": "empty", "nan": "NaN", "None": ""}.get(str(column.null), str(column.null))
        low, high = column.valid_range or (-_INF, _INF)
        bounds = "" if column.valid_range is None else f"{low:g} to {high:g}" if high < _INF else f"{low:g} or more"
        about = column.description.replace("|", r"\|")
        name, ucd = f"`{column.name}`", f"`{column.ucd}`"
        cells = (name, column.dtype, column.unit, ucd, about, null, bounds, column.paper_name)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)
