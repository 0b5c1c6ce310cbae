"""Spectra of the same star brought together: combined values, number of epochs, scatter between them."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import chdtrc, ndtr

from stargap.marks import with_marks
from stargap.photometry.joint import joint_labels
from stargap.photometry.likelihood import Population
from stargap.processor import cores
from stargap.tables.columns import CATALOGUE, INT_NULL, STACKED, STARS
from stargap.tables.crossmatch import match_ids
from stargap.tables.parquet import open_parquet, parquet_writer, read_columns

__all__ = ["Combination", "combine_spectra", "combine_stars", "join_again", "star_numbers", "with_stacks"]

Columns = dict[str, NDArray[Any]]
Combination = Literal["weighted", "best"]

_LABELS = ("rv", "teff", "logg", "m_h")
_COMBINED = (*_LABELS, "a_m", "spt", "halpha_ew", "lhalpha_lbol")
_PHOTOMETRY = ("g_mag", "bp_mag", "rp_mag", "ks_mag", "e_ks_mag", "parallax", "e_parallax", "ruwe")
_BITS = ("flags", "cuts", "vb_flag")
IMPROBABLE = 1e-4
"""Probability of a larger chi-square of constant velocity below which RV varies: one false mark in 10,000 stars."""
_ACTIVE_EW = 0.75  # Angstrom, paper section 4.3
_STARS_PER_BLOCK = 50_000
_ROWS = 25_000
_RHO = ("rho_teff_logg", "rho_teff_m_h", "rho_logg_m_h")
_NEEDED = [column.name for column in CATALOGUE if column.name in {*_RHO, *(star.name for star in STARS)}]


def star_numbers(gaia_source_id: ArrayLike) -> tuple[NDArray[np.int64], int]:
    """Return for each spectrum ``(row,)`` the number of its star, in order of appearance, and how many stars there are.

    Spectra with the same Gaia identifier are of one star; each without one (-9999) is a star by itself.

    Example:
        >>> star_numbers([7, -9999, 7, 5, -9999])
        (array([0, 1, 0, 2, 3]), 4)
    """
    ids = np.asarray(gaia_source_id, dtype=np.int64)
    identity = np.where(ids == INT_NULL, INT_NULL - 1 - np.arange(len(ids)), ids)
    _, first, star = np.unique(identity, return_index=True, return_inverse=True)
    rank = np.empty(len(first), dtype=np.int64)
    rank[np.argsort(first)] = np.arange(len(first))
    return rank[star], len(first)


def combine_spectra(
    columns: Mapping[str, NDArray[Any]],
    star: NDArray[np.int64],
    combine: Combination,
    *,
    population: Population | None = None,
) -> Columns:
    """Combine the spectra of each star.

    Those in the final catalogue count; of a star that has none there, all with a Teff. The best is the one with the
    highest S/N, the lower of r and i. With weights w = (S/N)^2 a value is sum(w x) / sum(w), its random error
    sqrt(sum(w^2 e^2)) / sum(w), and its systematic error, which does not average out, sum(w e_sys) / sum(w). Scatter is
    the standard deviation between spectra (n - 1), unweighted. Whether RV varies follows from chi-square of
    constant velocity, activity from the combined width of H-alpha.
    Combined labels are joined with the star's photometry anew where its best spectrum is. Columns of `STACKED` are
    null: see `with_stacks`.

    Args:
        columns: of `CATALOGUE`, those that `STARS` has too and ``rho_*``, ``(row,)``.
        star: number of the star of each row, from 0 on, each at least once.
        combine: "weighted", or "best" for the best spectrum alone; scatter is that of all either way.
        population: what joint labels assume of stars.

    Returns:
        the columns of `STARS`, ``(star,)``.

    Example:
        >>> rows = {c.name: np.full(2, c.null, object if c.dtype == "str" else c.dtype) for c in CATALOGUE}
        >>> rows |= {"snr_r": np.array([20.0, 10.0]), "snr_i": np.array([20.0, 10.0]), "rv": np.array([1.0, 6.0])}
        >>> rows |= {"e_rv": np.array([1.0, 2.0]), "teff": np.array([3400.0, 3400.0])}
        >>> table = combine_spectra(rows, np.array([0, 0]), "weighted")
        >>> [float(table[name][0].round(2)) for name in ("rv", "e_rv", "scatter_rv", "n_epochs")]
        [2.0, 0.89, 3.54, 2.0]
    """
    order = np.argsort(star, kind="stable")
    given = {name: np.asarray(columns[name])[order] for name in _NEEDED}
    groups = _Groups(star[order])
    final = given["in_final_catalogue"].astype(bool)
    used = final | (~groups.any(final) & np.isfinite(given["teff"]))
    snr = np.fmin(given["snr_r"], given["snr_i"]).astype(float)
    snr = np.nan_to_num(snr, nan=0.0).clip(min=0.0)
    best = np.lexsort((-snr, ~used, groups.star))[groups.first]
    chosen = used.copy()
    if combine == "best":
        chosen[:] = False
        chosen[best] = used[best]

    table: Columns = {name: given[name][best] for name in _NEEDED}
    table["n_spectra"] = groups.total(np.ones(len(star))).astype(np.int64)
    table["n_epochs"] = groups.total(used).astype(np.int64)
    for name in ("snr_r", "snr_i"):
        known = chosen & np.isfinite(given[name])
        together = np.sqrt(groups.total(np.where(known, given[name], 0.0).astype(float) ** 2))
        table[name] = np.where(groups.total(known) > 1, together, table[name])
    weight = snr**2 + 1e-9  # a spectrum of unknown S/N counts where a star has no other
    for name in _COMBINED:
        table |= _combined(name, given, chosen, used, weight, groups)
    table |= _constancy(given, used & np.isfinite(given["rv"]) & (given["use_rv"] == 1), groups)
    width, error = table["halpha_ew"], table["e_halpha_ew"]
    table["activity"] = np.where(np.isnan(width), INT_NULL, width > _ACTIVE_EW)
    table["p_active"] = ndtr((width - _ACTIVE_EW) / error)
    sure = width - 3 * error
    table["activity_3sigma"] = np.where(np.isnan(sure), INT_NULL, sure > _ACTIVE_EW)
    counted = chosen | ~groups.any(chosen)
    for name in _BITS:
        bits = np.where(counted, given[name].astype(np.int64), 0)
        table[name] = np.bitwise_or.reduceat(bits, groups.first) if len(bits) else bits
    table["in_final_catalogue"] = groups.total(final) > 0
    table = with_marks(table)
    table |= {column.name: np.full(len(best), column.null) for column in STACKED}
    join_again(table, np.flatnonzero((groups.total(chosen) > 1) & np.isfinite(table["teff_joint"])), population)
    return {column.name: table[column.name] for column in STARS}


def with_stacks(stars: Columns, stacks: Mapping[str, NDArray[Any]]) -> Columns:
    """Return a table of stars with the labels of their stacked spectra.

    Args:
        stars: columns of `STARS`, ``(star,)``.
        stacks: ``gaia_source_id`` and columns of `STACKED`, ``(stack,)``.

    Example:
        >>> stars = {"gaia_source_id": np.array([7, -9999]), "teff_stack": np.full(2, np.nan)}
        >>> with_stacks(stars, {"gaia_source_id": np.array([7]), "teff_stack": np.array([3500.0])})["teff_stack"]
        array([3500.,   nan])
    """
    place = match_ids(stars["gaia_source_id"], stacks["gaia_source_id"])
    found, table = place >= 0, dict(stars)
    for name in set(stacks) - {"gaia_source_id"}:
        table[name] = stars[name].copy()
        table[name][found] = stacks[name][place[found]]
    return table


def join_again(table: Columns, rows: NDArray[np.int64], population: Population | None) -> None:
    """Make joint labels of some rows anew, in place: those of other labels or errors than they were made of.

    Args:
        table: columns of `CATALOGUE`, magnitudes and correlations included, ``(row,)``.
        rows: which of them.
        population: what joint labels assume of stars.
    """
    stars = {name: values[rows] for name, values in table.items()}
    magnitudes = {name: stars[name] for name in _PHOTOMETRY} | {"a_v": stars["a_v_phot"], "e_a_v": stars["e_a_v_phot"]}
    for name, values in joint_labels(stars, magnitudes, population=population, threads=cores()).items():
        table[name] = table[name].copy()
        table[name][rows] = values


class _Groups:
    """Rows sorted by star: the star of each, the first row of each star, and sums over its rows."""

    def __init__(self, star: NDArray[np.int64]) -> None:
        self.star = star
        self.first = np.flatnonzero(np.diff(star, prepend=-1))

    def total(self, values: NDArray[Any]) -> NDArray[np.float64]:
        return np.bincount(self.star, values, len(self.first)).astype(float)

    def any(self, values: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return for each row whether any row of its star is true."""
        return (self.total(values) > 0)[self.star]


def _combined(
    name: str,
    given: Columns,
    chosen: NDArray[np.bool_],
    used: NDArray[np.bool_],
    weight: NDArray[np.float64],
    groups: _Groups,
) -> Columns:
    """Return the weighted mean of a quantity over the chosen spectra of each star, its errors, its scatter."""
    value = given[name].astype(float)
    known = chosen & np.isfinite(value)
    share = np.where(known, weight, 0.0)

    def mean(values: NDArray[Any], share: NDArray[Any]) -> NDArray[np.float64]:
        return groups.total(np.where(share > 0, share * values, 0.0)) / groups.total(share)

    with np.errstate(invalid="ignore", divide="ignore"):
        square = groups.total(np.where(known, (share * given[f"e_{name}"]) ** 2, 0.0))
        error = np.where(groups.total(known) > 0, np.sqrt(square) / groups.total(share), np.nan)
        result = {name: mean(value, share), f"e_{name}": error}
        if name in _LABELS:
            result[f"e_{name}_sys"] = mean(given[f"e_{name}_sys"], share)
            every = (used & np.isfinite(value)).astype(float)
            size = groups.total(every)
            deviation = value - mean(value, every)[groups.star]
            square = groups.total(np.where(every > 0, deviation**2, 0.0))
            result[f"scatter_{name}"] = np.where(size > 1, np.sqrt(square / (size - 1)), np.nan)
    return result


def _constancy(given: Columns, known: NDArray[np.bool_], groups: _Groups) -> Columns:
    """Return chi-square of constant velocity, per degree of freedom, its probability, and whether RV varies.

    chi^2 = sum((v_i - v)^2 / e_i^2) about the mean v with weights 1 / e_i^2, of the usable velocities of a star, with
    n - 1 degrees of freedom; a star varies where the probability of a larger one is below `IMPROBABLE`.
    """
    value, error = given["rv"].astype(float), given["e_rv"].astype(float)
    known = known & np.isfinite(error) & (error > 0)
    weight = np.where(known, 1.0 / np.where(known, error, 1.0) ** 2, 0.0)
    total, size = groups.total(weight), groups.total(known)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = groups.total(np.where(known, weight * value, 0.0)) / total
        square = groups.total(np.where(known, weight * (value - mean[groups.star]) ** 2, 0.0))
        several = size > 1
        freedom = np.where(several, size - 1, np.nan)
        probability = np.where(several, chdtrc(np.where(several, size - 1, 1), square), np.nan)
    varies = np.where(several, probability < IMPROBABLE, INT_NULL)
    return {"rv_chi2": square / freedom, "p_constant_rv": probability, "rv_variable": varies.astype(np.int64)}


def combine_stars(
    spectra: Path,
    star: NDArray[np.int64],
    star_count: int,
    combine: Combination,
    *,
    population: Population | None = None,
) -> Iterator[Columns]:
    """Give the columns of `STARS` block by block, in the memory of one block, from a Parquet table of `CATALOGUE`.

    Rows are first sorted into files by block, in a temporary folder beside the table.

    Args:
        spectra: the table.
        star: number of the star of each of its rows, as `star_numbers` gives them.
        star_count: number of stars.
        combine: see `combine_spectra`.
        population: see `combine_spectra`.
    """
    import pyarrow as pa

    size = _STARS_PER_BLOCK
    with tempfile.TemporaryDirectory(dir=spectra.parent, prefix=".stargap-stars-") as temporary:
        files = [Path(temporary) / f"{number:05d}.parquet" for number in range(-(-star_count // size))]
        with ExitStack() as stack:
            table = stack.enter_context(open_parquet(spectra))
            fields = [table.schema_arrow.field(name) for name in _NEEDED]
            schema = pa.schema([*fields, pa.field("star", pa.int64())])
            writers = [stack.enter_context(parquet_writer(file, schema)) for file in files]
            first = 0
            for batch in table.iter_batches(_ROWS, columns=_NEEDED):
                numbers = star[first : first + batch.num_rows]
                part = pa.table([*(batch[name] for name in _NEEDED), pa.array(numbers)], schema=schema)
                for block in np.unique(numbers // size):
                    writers[block].write_table(part.filter(pa.array(numbers // size == block)))
                first += batch.num_rows
        for number, file in enumerate(files):
            columns = read_columns(file)
            yield combine_spectra(columns, columns["star"] - number * size, combine, population=population)
