"""What `stargap.measure` returns: an astropy table with units, descriptions and nulls, and where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from astropy.table import Column as AstropyColumn
from astropy.table import MaskedColumn, Table
from numpy.typing import NDArray

from stargap.errors import UsageError
from stargap.spectra.modelled import ModelledSpectra
from stargap.tables.column import Column
from stargap.tables.columns import JOINED
from stargap.tables.write import write_table

__all__ = ["Measurements"]


class Measurements(Table):  # type: ignore[misc]  # astropy has no types
    """An `astropy.table.Table` of what was measured, one row per spectrum, in the order given.

    Numbers are masked where they are null, and beneath the mask they are what files hold: NaN, or -9999 in integers;
    ``table.arrays()`` are plain arrays. A column without nulls has no mask. Columns have units and
    descriptions; ``QTable(table)`` makes quantities of them, which arithmetic with other units needs
    (docs/decisions/016-measurements.md). ``table.to_pandas()`` is a data frame with its nulls, which
    ``pandas.DataFrame(table)`` cannot make of any table of astropy. ``meta`` says what made the table: versions,
    settings, digest of the model.

    Example:
        >>> table = Measurements.of({"teff": np.array([3500.0, np.nan])}, {"creator": "stargap"})
        >>> table["teff"].unit, (table["teff"] - 3400).tolist(), table["teff"].filled().tolist()
        (Unit("K"), [100.0, None], [3500.0, nan])
        >>> from astropy.table import QTable
        >>> QTable(table)["teff"].to("kK")[0]
        <MaskedQuantity 3.5 kK>
    """

    @classmethod
    def of(
        cls,
        columns: Mapping[str, NDArray[Any]],
        provenance: Mapping[str, str],
        spectra: ModelledSpectra | None = None,
    ) -> Measurements:
        """Return columns ``(row,)`` of the schema as a table; their numbers are unchanged, bit for bit."""
        known = {column.name: column for column in JOINED}
        table = cls(meta=dict(provenance))
        for name, values in columns.items():
            table.add_column(_column(known[name], values))
        if spectra is not None:
            table.meta["spectra"] = spectra
        return table

    @property
    def spectra(self) -> ModelledSpectra:
        """Spectra and models, if measured with ``spectra=True``; rows may be fewer here.

        Raises:
            UsageError: it was not.
        """
        found = self.meta.get("spectra")
        if not isinstance(found, ModelledSpectra):
            message = "this table has no spectra: measure with spectra=True"
            raise UsageError(message)
        return found

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return plain arrays by name, with NaN and -9999 where they are null, as files hold them."""
        return {name: np.asarray(self[name]) for name in self.colnames}

    @property
    def provenance(self) -> dict[str, str]:
        """The texts of ``meta``, which files keep."""
        return {str(name): value for name, value in self.meta.items() if isinstance(value, str)}

    def write(self, path: str | Path, **options: Any) -> None:
        """Write the table: ``.fits``, ``.parquet``, ``.csv``, ``.vot`` or ``.ecsv`` by its suffix.

        A file of that name is replaced. Columns that were added are written too, and those that were removed are not.

        Args:
            path: file to write.
            options: with any, such as ``format="ascii.html"``, astropy writes the table, as `Table.write` does.

        Raises:
            UsageError: another suffix.
        """
        if options:
            plain = Table(self, copy=False)
            plain.meta = dict(self.provenance)
            plain.write(path, **options)
            return
        known = {column.name: column for column in JOINED}
        schema = [known.get(name) or _foreign(self[name]) for name in self.colnames]
        columns = {name: np.ma.asarray(self[name]) for name in self.colnames}
        write_table(columns, path, schema=schema, provenance=self.provenance)

    def failures(self) -> dict[str, int]:
        """Return how many files could not be read, by reason, most frequent first."""
        reasons, counts = np.unique(np.asarray(self["failure"]).astype(str), return_counts=True)
        found = {str(r): int(c) for r, c in zip(reasons, counts, strict=True) if r}
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def _column(column: Column, values: NDArray[Any]) -> Any:
    """Return values of a column of the schema as astropy's, masked where they are null, sharing their memory."""
    about: dict[str, Any] = {"name": column.name, "unit": column.unit or None, "description": column.description}
    if column.ucd:
        about["meta"] = {"ucd": column.ucd}
    if column.dtype == "str":
        return AstropyColumn(values.astype(str), **about)
    null = column.is_null(values)
    if not null.any():
        return AstropyColumn(values, **about, copy=False)
    made = MaskedColumn(values, mask=null, **about, copy=False)
    made.fill_value = column.null
    return made


def _foreign(values: Any) -> Column:
    """Return the schema of a column that a user has added."""
    kinds: dict[str, Any] = {"b": "bool", "i": "int64", "u": "int64", "f": "float64"}
    unit = "" if values.unit is None else values.unit.to_string("fits")
    try:
        return Column(values.name, kinds.get(values.dtype.kind, "str"), unit, "", values.description or "")
    except ValueError as error:
        raise UsageError(str(error)) from None
