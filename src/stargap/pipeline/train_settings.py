"""The settings of ``stargap train``, in one TOML file."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from stargap.settings import Settings
from stargap.starnet.training_settings import StarnetSettings, TrainingSettings
from stargap.transfer.anchored.settings import AnchorSettings
from stargap.transfer.residual.settings import ResidualSettings

__all__ = ["DataSettings", "PriorSettings", "TrainSettings"]


class DataSettings(Settings):
    """The observed spectra: your own, or simulated stars."""

    spectra: Path | None = None
    """Folder with flux.npy, sigma.npy, good.npy, weight.npy and rv.npy (PreparedSpectra.save); instead of simulated."""
    simulated: Annotated[int, Field(ge=100, le=1_000_000)] | None = None
    """Number of stars to simulate, with other physics than the emulator's; instead of spectra."""
    mix: Literal["matched", "galactic"] = "matched"
    """Labels of simulated stars: distributed as the prior, or 0.1 dex poorer in metals, 60 K cooler and 1.2 times as
    wide."""
    seed: Annotated[int, Field(ge=0, lt=4_000_000)] = 1
    """Seed of the simulation."""

    @model_validator(mode="after")
    def _check(self) -> DataSettings:
        if (self.spectra is None) == (self.simulated is None):
            message = "give spectra, a folder, or simulated, a number of stars: one of the two"
            raise ValueError(message)
        return self


class PriorSettings(Settings):
    """Labels of the synthetic spectra: along isochrones, distributed as those of real stars (paper section 3.3.2)."""

    preset: Literal["stargap", "paper"] = "stargap"
    """Box of labels: 2800-4400 K and [M/H] from -2, or the paper's 3000-4000 K and [M/H] from -1."""
    draws: Annotated[int, Field(ge=1000, le=1_000_000)] = 110_000
    """Number of draws."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the draws."""
    alpha: Annotated[float, Field(ge=-1, le=1)] | None = None
    """Fixes [a/M] of all stars (dex); by default it follows [M/H], and is 0 for simulated stars, which have that."""


class TrainSettings(Settings):
    """How a transfer is trained; a training that was stopped resumes in its output folder.

    Example:
        >>> TrainSettings().data.simulated, TrainSettings().default.rounds
        (20000, 2)
    """

    architecture: Literal["default", "anchored", "reference", "starnet"] = "default"
    """What is trained: the residual transfer from unlabelled spectra, the anchored transfer from stars with known
    labels alone (seconds; needs anchors, and no spectra), the published network (paper section 3.1), or ours after it,
    whose X_s->o starts at the identity."""
    emulator: Path | None = None
    """The synthetic domain: emulator.safetensors or its folder; by default the emulator inside the package."""
    output: Path = Path("stargap-transfer")
    """Folder for this training alone: model, checkpoints, metrics, simulated spectra."""
    data: DataSettings = DataSettings(simulated=20_000)
    """The observed spectra: give spectra or simulated."""
    prior: PriorSettings = PriorSettings()
    """Labels of synthetic spectra (paper section 3.3.2)."""
    anchors: list[Path] = []
    """Tables of stars with known labels, in any format: from the literature (teff, logg, m_h in K and dex), or from
    photometry as ``stargap photometry`` writes them (teff_phot, ...), thousands if there are; one path or a list.
    Optional are errors e_teff and so on, p_single, the chance that a star is no unresolved pair, source, where labels
    are from (all sources but the most frequent one get a zero point), star, a name (spectra of one star are left out
    together), and scored, 0 for spectra that only train. The column path ("anchored"; from the table's folder) or row
    ("default" and "starnet"; of data.spectra, from 0) says which spectrum is meant."""
    targets: Path | None = None
    """Table with path or row, and gaia_source_id, for tables of anchors that have only the latter."""
    default: ResidualSettings = ResidualSettings()
    """Used with architecture = "default"."""
    anchored: AnchorSettings = AnchorSettings()
    """Used with architecture = "anchored"."""
    reference: TrainingSettings = TrainingSettings()
    """Used with architecture = "reference" (paper section 3.2)."""
    starnet: StarnetSettings = StarnetSettings()
    """Used with architecture = "starnet"."""

    @field_validator("anchors", mode="before")
    @classmethod
    def _one_or_more(cls, given: Any) -> Any:
        return [given] if isinstance(given, str | Path) else given

    @model_validator(mode="after")
    def _check(self) -> TrainSettings:
        if self.architecture == "anchored" and not self.anchors:
            message = 'architecture = "anchored" needs anchors, a table with path,teff,logg,m_h'
            raise ValueError(message)
        if self.architecture == "reference" and self.anchors:
            message = 'anchors are for architecture = "default", "anchored" and "starnet": leave them out'
            raise ValueError(message)
        return self

    @property
    def alpha(self) -> float | None:
        """The value at which [a/M] is fixed, or None."""
        return 0.0 if self.prior.alpha is None and self.data.simulated is not None else self.prior.alpha
