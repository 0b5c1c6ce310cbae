"""The settings of a whole survey run, in one TOML file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from stargap.catalogue.build import CatalogueSettings
from stargap.photometry.likelihood import Population
from stargap.pipeline.preset import PAPER_PRESET, filled
from stargap.pipeline.train_settings import PriorSettings
from stargap.settings import MeasureSettings, Settings
from stargap.spectra.store.settings import IngestSettings
from stargap.starnet.training_settings import StarnetSettings, TrainingSettings
from stargap.survey.cleaning.rules import CleaningSettings
from stargap.survey.sample import SampleSettings
from stargap.transfer.anchored.settings import AnchorSettings
from stargap.transfer.residual.settings import ResidualSettings
from stargap.validation.report.settings import ReportSettings

__all__ = ["EmulatorSettings", "FitSettings", "InputSettings", "PublishSettings", "SurveySettings", "TransferSettings"]


def _refuse_unused(table: str, settings: Settings, names: Sequence[str], use: str) -> None:
    """Refuse settings that would change nothing; those of the paper's preset may stand there."""
    for name in names:
        value, preset = getattr(settings, name), PAPER_PRESET[table].get(name)
        if value not in (type(settings).model_fields[name].default, preset):
            message = f"{name} is only for {use}: leave it out, or give that"
            raise ValueError(message)


class InputSettings(Settings):
    """What a run starts from."""

    spectra: list[str] = []
    """Files, folders, globs or @lists of spectra; with a catalogue, the one folder that its files are under."""
    catalogue: Path | None = None
    """Table of a LAMOST release (CSV with | or commas, FITS, Parquet, VOTable), whose rows name the files."""
    gaia: Path | None = None
    """Gaia DR3 columns of the targets, as a table in one of these formats; without it RUWE, M_G and colour are
    unknown (section 2.1)."""
    simulated: bool = False
    """The spectra are simulated: every table of the run says so."""
    overrule: Path | None = None
    """A person's verdicts on clusters of the cleaning, as cleaning.html tells how to write them."""
    marked: Path | None = None
    """Spectra that a person keeps or rejects one by one: the CSV of stargap view --marks, or any table with columns
    spectrum_id and mark (keep, reject or look)."""


class EmulatorSettings(Settings):
    """The synthetic spectra (section 2.2)."""

    model: Path | None = None
    """Folder with emulator.safetensors and its card; by default the emulator inside the package."""
    grid: Path | None = None
    """Train one on this grid instead: HDF5, or a folder of BT-Settl or PHOENIX-ACES files."""
    resolution: Annotated[float, Field(gt=500, lt=20_000)] = 1800.0
    """Resolving power of the survey, for training."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the training."""

    @model_validator(mode="after")
    def _check(self) -> EmulatorSettings:
        if self.model is not None and self.grid is not None:
            message = "model and grid are both given: choose one"
            raise ValueError(message)
        if self.grid is None:
            _refuse_unused("emulator", self, ("resolution", "seed"), "grid, on which an emulator is trained")
        return self


class TransferSettings(Settings):
    """The transfer between synthetic and observed spectra (section 3)."""

    use: Literal["lamost", "none", "model", "simulated", "train"] = "lamost"
    """Publish labels through the model inside the package for real LAMOST spectra (experimental), of the emulator
    alone, through a model of yours, through the one inside the package that was trained on simulated stars (for such
    only), or through one that is trained on this survey."""
    model: Path | None = None
    """A trained transfer (a .safetensors file with its card), for use = "model"."""
    spectra: Annotated[int, Field(ge=1000)] = 110_000
    """For use = "train": clean spectra of the sample drawn at random (section 3.2)."""
    prior: PriorSettings = PriorSettings()
    """Labels of synthetic spectra (section 3.3.2)."""
    architecture: Literal["default", "anchored", "reference", "starnet"] = "default"
    """What is trained: the residual transfer, the anchored transfer, from stars with known labels alone, the
    published network (section 3.1), or ours after it, whose X_s->o starts at the identity."""
    photometric_anchors: Annotated[int, Field(ge=0)] = 0
    """For architecture = "default", "anchored" and "starnet": stars whose photometric labels (stage photometry) tie the
    label scale, the brightest of the training spectra that have sound ones; 3,000 are plenty, 0 for none."""
    anchors: list[Path] = []
    """Tables of stars with known labels beside them: gaia_source_id, teff, logg, m_h (K, dex), and optionally errors
    e_teff and so on, p_single and source; their spectra are part of the training."""
    training: ResidualSettings = ResidualSettings()
    """How a transfer of architecture = "default" is trained."""
    anchored: AnchorSettings = AnchorSettings()
    """How a transfer of architecture = "anchored" is made."""
    reference: TrainingSettings = TrainingSettings()
    """How a network of architecture = "reference" is trained (section 3.2)."""
    starnet: StarnetSettings = StarnetSettings()
    """How a network of architecture = "starnet" is built and trained."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the draw of spectra."""

    @model_validator(mode="after")
    def _check(self) -> TransferSettings:
        if (self.use == "model") != (self.model is not None):
            message = 'use = "model" and model, the path of a transfer, go together'
            raise ValueError(message)
        tables = {"default": "training", "anchored": "anchored", "reference": "reference", "starnet": "starnet"}
        known = ("photometric_anchors", "anchors")
        if self.use != "train":
            names = ("spectra", "architecture", "seed", *known, *tables.values())
            _refuse_unused("transfer", self, names, 'use = "train"')
            return self
        for name, table in tables.items():
            if name != self.architecture:
                _refuse_unused("transfer", self, (table,), f'architecture = "{name}"')
        if self.architecture == "reference":
            _refuse_unused("transfer", self, known, 'architecture = "default", "anchored" and "starnet"')
        if self.architecture == "anchored" and not (self.photometric_anchors or self.anchors):
            message = 'architecture = "anchored" needs photometric_anchors, a number of stars, or anchors, tables'
            raise ValueError(message)
        return self


class FitSettings(Settings):
    """What labels are fitted to."""

    joint: bool = True
    """Give labels of spectrum and photometry together (``teff_joint`` and so on) beside those of the spectrum alone."""
    stacks: bool = True
    """Stack the spectra of each star that has several, shifted by their velocities, and fit one set of labels to them
    (``teff_stack`` and so on in the catalogue of stars) beside the weighted mean of those of each."""


class PublishSettings(Settings):
    """What the catalogue stage adds and writes."""

    ages: bool = False
    """Add kinematic ages (section 4, cut 3); needs galpy: pip install 'stargap[ages]'."""
    formats: list[Literal["fits", "vot", "csv", "ecsv", "cds", "hats"]] = ["fits"]
    """Formats beside Parquet."""
    paper_table: bool = False
    """Write the paper's Table 1 too."""


class SurveySettings(Settings):
    """Everything that a survey run follows from.

    Example:
        >>> SurveySettings().measure.preset, SurveySettings().ingest.shard_rows
        ('stargap', 1024)
        >>> paper = SurveySettings(preset="paper", measure={"starts": 2})
        >>> paper.measure.optimiser, paper.transfer.architecture, paper.catalogue.errors
        ('lbfgs', 'reference', 'paper')
    """

    preset: Literal["stargap", "paper"] = "stargap"
    """Defaults of all that follows: ours, or the paper's choices in every stage (`stargap.pipeline.preset`)."""
    output: Path = Path("survey")
    """Folder of this run alone. All paths start at the working folder."""
    input: InputSettings = InputSettings()
    """Spectra and tables."""
    ingest: IngestSettings = IngestSettings()
    """The store of native pixels."""
    sample: SampleSettings = SampleSettings()
    """The cuts of section 2.1; a spectrum outside keeps its row and is not measured."""
    photometry: Population = Population()
    """What is assumed of stars in labels from photometry."""
    emulator: EmulatorSettings = EmulatorSettings()
    """The Payne (section 2.2)."""
    cleaning: CleaningSettings = CleaningSettings()
    """Removal of spectra that are not of M dwarfs (section 2.1)."""
    transfer: TransferSettings = TransferSettings()
    """Cycle-StarNet's place (section 3)."""
    measure: MeasureSettings = MeasureSettings()
    """Velocities, labels, subtypes, activity (sections 2.3, 3.5)."""
    fit: FitSettings = FitSettings()
    """Spectrum and photometry together."""
    catalogue: CatalogueSettings = CatalogueSettings()
    """Stars, cuts, companions (section 4)."""
    publish: PublishSettings = PublishSettings()
    """Ages and formats."""
    report: ReportSettings = ReportSettings()
    """The report: what the run is compared with, and its explorer of spectra (section 5)."""

    @model_validator(mode="before")
    @classmethod
    def _fill(cls, given: Any) -> Any:
        """Set the paper's choices where its preset is chosen and no other value is given."""
        if isinstance(given, dict) and given.get("preset") == "paper":
            return filled(given, PAPER_PRESET)
        return given

    @model_validator(mode="after")
    def _check(self) -> SurveySettings:
        transfer = self.transfer
        takes_paper = transfer.use in ("none", "model") or (
            transfer.use == "train" and transfer.architecture == "reference"
        )
        if self.measure.preset == "paper" and not takes_paper:
            message = (
                f'measure.preset = "paper" prepares spectra otherwise than transfer.use = "{transfer.use}" needs: set '
                'transfer.use to "none", to "model", or to "train" with transfer.architecture = "reference"'
            )
            raise ValueError(message)
        if self.input.simulated and self.transfer.use == "lamost":
            message = (
                'transfer.use = "lamost" is for real spectra, and input.simulated is true: use "simulated" or "none"'
            )
            raise ValueError(message)
        return self

    def absolute(self) -> SurveySettings:
        """Return the same settings with every path absolute, as other processes and machines need them."""
        given = self.input
        spectra = [
            f"@{Path(text[1:]).absolute()}" if text[:1] == "@" else str(Path(text).absolute()) for text in given.spectra
        ]
        paths = {name: _absolute(getattr(given, name)) for name in ("catalogue", "gaia", "overrule", "marked")}
        companions = {name: one.absolute() for name, one in self.catalogue.companions.items()}
        emulator = {"model": _absolute(self.emulator.model), "grid": _absolute(self.emulator.grid)}
        return self.model_copy(
            update={
                "output": self.output.absolute(),
                "input": given.model_copy(update={"spectra": spectra, **paths}),
                "emulator": self.emulator.model_copy(update=emulator),
                "transfer": self.transfer.model_copy(
                    update={
                        "model": _absolute(self.transfer.model),
                        "anchors": [path.absolute() for path in self.transfer.anchors],
                    }
                ),
                "catalogue": self.catalogue.model_copy(update={"companions": companions}),
                "report": self.report.absolute(),
            }
        )


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()
