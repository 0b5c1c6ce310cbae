"""The sample of a survey: the paper's cuts on class, S/N, RUWE, magnitude and colour, as bits and never deletions."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, field_validator

from stargap.errors import UsageError
from stargap.flags import Cut
from stargap.paper import CLEAN_SPECTRA, LEFT_AFTER_CUT
from stargap.settings import Settings
from stargap.survey.gaia.join import join_gaia
from stargap.tables.columns import INT_NULL
from stargap.tables.nulls import equal_columns, numbers, whole_ids

if TYPE_CHECKING:
    from rich.console import Console

__all__ = ["CutCount", "Sample", "SampleSettings", "counts_json", "counts_table", "is_m_dwarf",
           "print_counts", "read_counts", "select"]  # fmt: skip

_Bools = NDArray[np.bool_]
_Floats = NDArray[np.float64]


class SampleSettings(Settings):
    """The cuts 1 to 3 of the paper's section 2.1, and how spectra are joined with Gaia.

    Example:
        >>> SampleSettings(largest_ruwe=1.2).largest_ruwe
        1.2
    """

    subclasses: tuple[str, ...] = ("dM", "M", "sdM", "esdM", "usdM")
    """Beginnings of the spectral subclasses that are M dwarfs, before their digit. The paper took the M dwarfs (dM) of
    LAMOST DR10; older releases write M, and the metal-poor ones are sdM (section 2.1)."""
    least_snr: Annotated[float, Field(ge=0)] = 5.0
    """Least S/N per pixel, in r and in i (section 2.1, cut 1)."""
    fiber_mask: Annotated[int, Field(ge=0)] = 0b1111
    """Bits of LAMOST's fibermask that reject a spectrum: fibre not plugged, bad trace, bad flat, bad arc. The others
    are warnings (many bad columns or rejected pixels, large shift, bad sky fibre) and set a bit only: 36 of 65 real
    spectra of cool stars have one, most of them good, and none of the first four. Not in the paper."""
    largest_ruwe: Annotated[float, Field(gt=0)] = 1.4
    """Largest Gaia RUWE (section 2.1, cut 2)."""
    m_g: tuple[float, float] = (4.0, 15.0)
    """Range of the absolute magnitude G + 5 log10(parallax / mas) - 10, ends excluded (mag; section 2.1, cut 3)."""
    bp_rp: tuple[float, float] = (1.0, 5.0)
    """Range of the colour BP - RP, ends excluded (mag; section 2.1, cut 3)."""
    least_parallax_snr: Annotated[float, Field(ge=0)] = 5.0
    """Parallax over its error that the absolute magnitude needs to be known; not in the paper."""
    radius_arcsec: Annotated[float, Field(gt=0, le=60)] = 3.0
    """Largest separation from the Gaia source of a spectrum that is joined by position (arcsec)."""
    earliest_epoch: float = 2000.0
    """Positions of spectra are of an epoch from this one to that of their observation (Julian year): LAMOST's are those
    of its input catalogues, mostly of 2000."""
    keep_unknown: bool = True
    """Whether a spectrum stays that fails no cut but is unknown to one, such as without a parallax."""

    @field_validator("m_g", "bp_rp")
    @classmethod
    def _ordered(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not value[0] < value[1]:
            message = f"{value[0]:g} is not below {value[1]:g}"
            raise ValueError(message)
        return value

    @field_validator("subclasses")
    @classmethod
    def _some(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        if not value or not all(name.strip() for name in value):
            message = "give at least one beginning of a subclass, such as 'dM'"
            raise ValueError(message)
        return value


_CUTS = (
    ("class M dwarf", Cut.NOT_M_DWARF, Cut.CLASS_UNKNOWN),
    ("S/N in r and i", Cut.LOW_SN, Cut.SN_UNKNOWN),
    ("fibre", Cut.BAD_FIBER, Cut.FIBER_UNKNOWN),
    ("RUWE", Cut.HIGH_RUWE, Cut.RUWE_UNKNOWN),
    ("M_G", Cut.M_G_OUTSIDE, Cut.M_G_UNKNOWN),
    ("BP - RP", Cut.COLOUR_OUTSIDE, Cut.COLOUR_UNKNOWN),
)
_PAPER_NOTE = f"paper: {CLEAN_SPECTRA:,} spectra are left after its cuts and the cleaning of clusters"
_HEADER = ("cut", "before", "failed", "unknown", "left", "paper")


class CutCount(NamedTuple):
    """One cut in the order they are made: rows before it, failed, unknown to it, and left; and left in the paper."""

    name: str
    before: int
    failed: int
    unknown: int
    left: int
    paper: int | None


@dataclass(frozen=True, eq=False)
class Sample:
    """What `select` returns; one row per spectrum, in the order of the index.

    ``columns``, each ``(row,)``: spectrum_id and sample_flags (int64), in_sample (bool), gaia_source_id (int64, -9999
    without a source), gaia_separation (arcsec), m_g (mag) and those of `gaia.GAIA_COLUMNS`, NaN where unknown.
    ``counts``, one per cut. ``notes``, sentences on the join. ``false_values``: see `GaiaJoin`.
    """

    columns: dict[str, NDArray[Any]]
    counts: tuple[CutCount, ...]
    notes: tuple[str, ...]
    false_values: int = 0


def is_m_dwarf(
    object_class: str | bytes | None,
    subclass: str | bytes | None,
    accepted: tuple[str, ...] = SampleSettings().subclasses,
) -> bool | None:
    """Whether the survey's class is that of an M dwarf; None where it gives none.

    A class other than STAR (GALAXY, QSO) is none. Of a star, or where the class is blank or Unknown, the subclass
    decides: an accepted beginning, then a digit or the end, without a giant's luminosity class (I to IV). Blank,
    ``Non`` and what is not ASCII is unknown.

    Example:
        >>> [is_m_dwarf("STAR", subclass) for subclass in ("dM3.5", "M2", "sdM1", "gM3", "dK7", "M5III", "Non")]
        [True, True, True, False, False, False, None]
        >>> is_m_dwarf("GALAXY", ""), is_m_dwarf("Unknown", "")
        (False, None)
    """
    kind, text = _word(object_class), _word(subclass)
    if kind is not None and kind.upper() != "STAR":
        return False
    if text is None:
        return None
    beginning = "|".join(re.escape(name.strip()) for name in accepted)
    match = re.match(rf"(?:{beginning})(?:\d[\d.]*|$)([^(]*)", text)
    return match is not None and "I" not in match[1]


def _word(value: Any) -> str | None:
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    text = text.strip(" \0\t\r\n")
    return None if not text.isascii() or text.lower() in ("", "non", "none", "nan", "null", "unknown") else text


def select(
    index: Mapping[str, ArrayLike],
    gaia: Mapping[str, ArrayLike] | None = None,
    settings: SampleSettings | None = None,
) -> Sample:
    """Apply the cuts 1 to 3 of the paper's section 2.1 to spectra, each with three states: pass, fail and unknown.

    Spectra are joined with Gaia by `gaia.join_gaia`; each of the repeated spectra of a star has its row.

    Args:
        index: columns ``(row,)``: spectrum_id, and where there are any object_class, subclass, snr_r, snr_i,
            fiber_mask, gaia_source_id, ra and dec (deg), lmjd (d). Nulls are -9999, NaN and ``""``; a column that
            is missing is null everywhere.
        gaia: columns such as `gaia.read_gaia` gives; None if there is no table, which leaves all that needs it unknown.
        settings: the cuts.

    Raises:
        UsageError: spectrum_id, source_id, ra or dec is missing, lengths differ, or ids are floats.

    Example:
        >>> index = {"spectrum_id": [0, 1], "subclass": ["dM1", "gM3"], "snr_r": [9.0, 8.0], "snr_i": [9.0, np.nan],
        ...          "fiber_mask": [0, 64], "gaia_source_id": [77, 78]}
        >>> gaia = {"source_id": [77], "ra": [5.0], "dec": [5.0], "ruwe": [1.0], "parallax": [10.0],
        ...         "parallax_error": [0.1], "phot_g_mean_mag": [14.0], "bp_rp": [2.0]}
        >>> sample = select(index, gaia)
        >>> sample.columns["in_sample"], sample.columns["m_g"], Cut.describe(sample.columns["sample_flags"][0])
        (array([ True, False]), array([ 9., nan]), '')
    """
    settings = SampleSettings() if settings is None else settings
    given = equal_columns(index, "spectrum_id")
    rows = len(given["spectrum_id"])
    join = join_gaia(given, gaia, radius_arcsec=settings.radius_arcsec, earliest=settings.earliest_epoch)
    joined = join.columns
    with np.errstate(invalid="ignore", divide="ignore"):
        trusted = joined["parallax"] / joined["e_parallax"] > settings.least_parallax_snr
        trusted &= joined["e_parallax"] > 0
        m_g = joined["g_mag"] + 5 * np.log10(np.where(trusted, joined["parallax"], np.nan)) - 10
    flags = np.zeros(rows, dtype=np.int64)
    flags[joined["gaia_source_id"] == INT_NULL] |= Cut.NO_GAIA
    flags[join.by_position] |= Cut.BY_POSITION
    flags[join.ambiguous] |= Cut.AMBIGUOUS

    classes = _classes(given, rows, settings.subclasses)
    snr_r, snr_i, mask = (numbers(given, name, rows) for name in ("snr_r", "snr_i", "fiber_mask"))
    fiber = np.where(np.isnan(mask), INT_NULL, np.nan_to_num(mask)).astype(np.int64)
    flags[(fiber > 0) & (fiber & settings.fiber_mask == 0)] |= Cut.FIBER_WARNING
    ruwe, bp_rp = joined["ruwe"], joined["bp_rp"]
    states: list[tuple[_Bools, _Bools]] = [
        (classes == 0, classes < 0),
        ((snr_r < settings.least_snr) | (snr_i < settings.least_snr), np.isnan(snr_r + snr_i)),
        ((fiber >= 0) & (fiber & settings.fiber_mask != 0), (fiber < 0) & (settings.fiber_mask != 0)),
        (ruwe > settings.largest_ruwe, np.isnan(ruwe)),
        (_outside(m_g, settings.m_g), np.isnan(m_g)),
        (_outside(bp_rp, settings.bp_rp), np.isnan(bp_rp)),
    ]
    kept, counts = np.ones(rows, dtype=bool), []
    for (name, fail, unknown), (failed, unsure) in zip(_CUTS, states, strict=True):
        unsure = unsure & ~failed
        flags[failed] |= fail
        flags[unsure] |= unknown
        left = kept & ~failed & (settings.keep_unknown | ~unsure)
        before, out, dark, after = (int(np.count_nonzero(part)) for part in (kept, kept & failed, kept & unsure, left))
        counts.append(CutCount(name, before, out, dark, after, LEFT_AFTER_CUT.get(name)))
        kept = left
    columns = {"spectrum_id": whole_ids(given["spectrum_id"], "spectrum_id"), "sample_flags": flags, "in_sample": kept}
    return Sample(columns | joined | {"m_g": m_g}, tuple(counts), join.notes, join.false_values)


def _outside(values: _Floats, limits: tuple[float, float]) -> _Bools:
    return (values <= limits[0]) | (values >= limits[1])


def _classes(columns: Mapping[str, NDArray[Any]], rows: int, accepted: tuple[str, ...]) -> NDArray[np.int8]:
    """Return 1 for an M dwarf, 0 for another class, -1 for none."""
    blank = [""] * rows
    words = [columns[name].tolist() if name in columns else blank for name in ("object_class", "subclass")]
    pairs = list(zip(*words, strict=True))
    verdicts = {pair: is_m_dwarf(pair[0], pair[1], accepted) for pair in set(pairs)}
    states = {pair: -1 if state is None else int(state) for pair, state in verdicts.items()}
    return np.fromiter((states[pair] for pair in pairs), dtype=np.int8, count=rows)


def _cells(sample: Sample) -> Iterator[tuple[str, ...]]:
    for count in sample.counts:
        yield count.name, *("" if number is None else f"{number:,}" for number in count[1:])


def counts_table(sample: Sample) -> str:
    """Return the counts of each cut beside the paper's as a Markdown table, and the notes below it.

    Example:
        >>> print(counts_table(select({"spectrum_id": [1], "subclass": ["dM1"]})).split("| S/N")[0])
        | cut | before | failed | unknown | left | paper |
        |---|---:|---:|---:|---:|---:|
        | class M dwarf | 1 | 0 | 0 | 1 | 818,686 |
    """
    lines = [f"| {' | '.join(_HEADER)} |", "|---" + "|---:" * (len(_HEADER) - 1) + "|"]
    lines += [f"| {' | '.join(cells)} |" for cells in _cells(sample)]
    return "\n".join([*lines, "", *(f"* {note}" for note in (*sample.notes, _PAPER_NOTE))])


def counts_json(sample: Sample) -> str:
    """Return the counts of each cut and the notes as JSON, ``{"cuts": [{"name": ...}, ...], "notes": [...]}``.

    The keys of a cut are the fields of `CutCount`.

    Example:
        >>> counts_json(select({"spectrum_id": [1], "subclass": ["dM1"]}))[:91]
        '{"cuts": [{"name": "class M dwarf", "before": 1, "failed": 0, "unknown": 0, "left": 1, "pap'
    """
    content = {"cuts": [count._asdict() for count in sample.counts], "notes": [*sample.notes, _PAPER_NOTE]}
    return json.dumps(content)


def read_counts(path: str | Path) -> tuple[tuple[CutCount, ...], tuple[str, ...]]:
    """Return the counts of each cut, and the notes, from a file that holds `counts_json`, such as ``cuts.json``.

    Raises:
        UsageError: the file cannot be read, or holds something else.

    Example:
        >>> file = getfixture("tmp_path") / "cuts.json"
        >>> _ = file.write_text(counts_json(select({"spectrum_id": [1], "subclass": ["dM1"]})))
        >>> read_counts(file)[0][0].left
        1
    """
    try:
        content = json.loads(Path(path).read_bytes())
        return tuple(CutCount(**cut) for cut in content["cuts"]), tuple(map(str, content["notes"]))
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror})"
        raise UsageError(message) from None
    except (ValueError, TypeError, KeyError) as error:
        message = f"{path}: does not hold the counts of cuts ({error})"
        raise UsageError(message) from None


def print_counts(sample: Sample, *, console: Console | None = None) -> None:
    """Print the counts of each cut beside the paper's, and the notes below them."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console() if console is None else console
    table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False, header_style="bold")
    for name in _HEADER:
        table.add_column(name, justify="left" if name == "cut" else "right", no_wrap=True)
    for cells in _cells(sample):
        table.add_row(*map(Text, cells))
    console.print(table)
    for note in (*sample.notes, _PAPER_NOTE):
        console.print(Text(note), soft_wrap=True)
