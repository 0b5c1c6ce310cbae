"""Settings of a run's report: what it is compared with and how much of it the explorer holds."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import Field, model_validator

from stargap.errors import UsageError
from stargap.settings import Settings
from stargap.validation.binaries import BinarySettings
from stargap.validation.matching import CompareSettings
from stargap.validation.references import reference_settings

__all__ = ["MOST_POINTS", "MOST_SPECTRA", "NODE", "BinaryTables", "ReportSettings", "TableOfOthers"]

MOST_POINTS = 50_000
MOST_SPECTRA = 2_000
NODE = 20
"""Pixels of 1 A from one value of the pseudo-continuum to the next: it is smooth over 30 A."""


class TableOfOthers(Settings):
    """A table to compare the catalogue with.

    Example:
        >>> TableOfOthers(table="mann.csv", reference="mann2015").chosen.name
        'Mann 2015'
    """

    table: Path
    """FITS, CSV, Parquet or VOTable."""
    reference: str = ""
    """Name of ready settings for a published table, as stargap compare --reference takes it."""
    settings: CompareSettings | None = None
    """Instead: how the table is joined and what its columns are called, as stargap compare --settings takes it."""

    @model_validator(mode="after")
    def _check(self) -> TableOfOthers:
        if (self.reference == "") == (self.settings is None):
            message = "give reference, the name of ready settings, or settings: how it is joined and its columns' names"
            raise ValueError(message)
        try:
            _ = self.chosen
        except UsageError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def chosen(self) -> CompareSettings:
        """How it is compared."""
        return reference_settings(self.reference) if self.settings is None else self.settings


class BinaryTables(Settings):
    """Tables of wide binaries and of their primaries (section 5.4), both or none."""

    pairs: Path | None = None
    """Table of wide binaries, such as El-Badry et al. 2021."""
    primaries: Path | None = None
    """Table of FGK stars with [M/H] or [Fe/H] and velocities, such as LAMOST's."""
    settings: BinarySettings = BinarySettings()
    """Names of their columns, and the cuts."""

    @model_validator(mode="after")
    def _check(self) -> BinaryTables:
        if (self.pairs is None) != (self.primaries is None):
            message = "pairs and primaries go together: give both tables or none"
            raise ValueError(message)
        return self


class ReportSettings(Settings):
    """What the report of a run shows beside the run itself.

    Example:
        >>> ReportSettings(comparisons={"mann": {"table": "mann.csv", "reference": "mann2015"}}).files
        [PosixPath('mann.csv')]
    """

    skip: bool = False
    """Make no report in a run; stargap report still makes one."""
    truth: Path | None = None
    """Table of true values of a simulated survey (truth.parquet), for a section on what comes out of them."""
    spectra: Annotated[int, Field(ge=0)] = MOST_SPECTRA
    """Spectra in the explorer, at most; each is fitted again."""
    points: Annotated[int, Field(ge=0)] = MOST_POINTS
    """Stars in the explorer's diagrams, at most."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the draw of both."""
    binaries: BinaryTables = BinaryTables()
    """Wide binaries of an FGK star and an M dwarf, for figure 18."""
    comparisons: dict[str, TableOfOthers] = {}
    """Tables of others, for figures 14 to 17, each a table of its own here, such as [report.comparisons.mann] with
    table = "mann.csv" and reference = "mann2015"."""

    @property
    def files(self) -> list[Path]:
        """Every file that it names."""
        given = [self.truth, self.binaries.pairs, self.binaries.primaries]
        return [path for path in (*given, *(one.table for one in self.comparisons.values())) if path is not None]

    def absolute(self) -> ReportSettings:
        """Return the same settings with every path absolute."""
        tables = {
            name: one.model_copy(update={"table": one.table.absolute()}) for name, one in self.comparisons.items()
        }
        pairs, primaries, truth = (
            None if path is None else path.absolute()
            for path in (self.binaries.pairs, self.binaries.primaries, self.truth)
        )
        binaries = self.binaries.model_copy(update={"pairs": pairs, "primaries": primaries})
        return self.model_copy(update={"truth": truth, "binaries": binaries, "comparisons": tables})
