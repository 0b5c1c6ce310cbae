"""What trained transfers have in common: the emulator inside, the card, saving, loading and their checks."""

from __future__ import annotations

from abc import abstractmethod
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

from torch import Tensor, nn

from stargap import __version__
from stargap.errors import ModelError
from stargap.labels import A_M
from stargap.modelfile import Card, check_tensors, load_model, save_model
from stargap.pixels import STARGAP, PixelGrid
from stargap.spectra.prepare import Prepared
from stargap.theory.emulator import Emulator, EmulatorCard
from stargap.transfer.calibration import Calibration

__all__ = ["TrainedTransfer", "TransferCard", "all_positive"]

EMULATOR_PREFIX = "emulator."


class TransferCard(Card):
    """What the cards of all transfers hold."""

    emulator: EmulatorCard
    pixel_grid: str
    """Digest of the grid of the spectra that it was trained on (`stargap.pixels.PixelGrid`)."""
    training_data: str
    settings: dict[str, Any]
    scores: dict[str, float]
    simulated: bool
    """Trained on simulated stars, and therefore not for real ones."""
    alpha: float | None
    """[a/M] at which the labels of all training stars were fixed, or None where it followed [M/H]."""
    seed: int
    calibration: Calibration | None = None
    """Systematic errors and zero points by labels and S/N; None in models that were made before there were any."""


AnyCard = TypeVar("AnyCard", bound=TransferCard)


class TrainedTransfer(nn.Module, Generic[AnyCard]):
    """A transfer between synthetic and observed spectra, with its emulator, as `stargap.fit.domains` needs it.

    A kind of transfer names its ``kind``, ``version`` and ``card_type``, and implements `architecture`, `from_card`
    and `find_fault`; saving, loading and their checks are the same for all.
    """

    kind: ClassVar[str]
    version: ClassVar[int]
    grids: ClassVar[tuple[PixelGrid, ...]] = (STARGAP,)
    """Pixel grids that transfers of this kind can be trained on."""
    card_type: type[AnyCard]
    card: AnyCard
    emulator: Emulator
    alpha: float | None
    grid: PixelGrid = STARGAP
    """Pixel grid of the spectra that the transfer takes."""
    calibration: Calibration | None = None
    """What published labels and velocities are off by, if stars of known truth told it."""

    @abstractmethod
    def architecture(self) -> dict[str, Any]:
        """Return the fields that the card of this kind has beyond those of every `TransferCard`."""

    @classmethod
    @abstractmethod
    def from_card(cls, path: str | Path, card: AnyCard, emulator: Emulator) -> Self:
        """Return an untrained transfer of the architecture in the card.

        Raises:
            ModelError: impossible sizes in the card.
        """

    @abstractmethod
    def find_fault(self) -> str | None:
        """Return what is impossible about the loaded values, in words that end "the model holds ...", or None."""

    def to_synthetic(self, prepared: Prepared) -> Prepared:
        """Return spectra for the fit in the synthetic domain: unchanged, `floor` weighs badly modelled pixels."""
        return prepared

    def nuisance_columns(self, spectra: Tensor) -> Tensor:
        """Return no columns of nuisance parameters, ``(row, 0, pixel)``."""
        return spectra.new_zeros(len(spectra), 0, spectra.shape[1])

    def save(
        self,
        path: str | Path,
        *,
        training_data: str,
        settings: dict[str, Any],
        scores: dict[str, float],
        simulated: bool,
        seed: int = 0,
    ) -> None:
        """Write the safetensors file and its card.

        Args:
            path: the ``*.safetensors`` file; the card goes beside it.
            training_data: what it was trained on, in words.
            settings: how, in JSON types.
            scores: of the training, by name.
            simulated: whether it was trained on simulated stars.
            seed: of the training.

        Raises:
            ModelError: values that are not finite.
        """
        tensors = self.state_dict()
        check_tensors(path, tensors, tensors)
        card = self.card_type(
            kind=self.kind,
            version=self.version,
            stargap=__version__,
            emulator=self.emulator.card,
            pixel_grid=self.grid.digest,
            training_data=training_data,
            settings=settings,
            scores=scores,
            simulated=simulated,
            alpha=self.alpha,
            seed=seed,
            calibration=self.calibration,
            **self.architecture(),
        )
        save_model(path, card, tensors)

    def save_again(self, path: str | Path) -> None:
        """Write a loaded transfer to another place, with what its card says."""
        names = ("training_data", "settings", "scores", "simulated", "seed")
        self.save(path, **{name: getattr(self.card, name) for name in names})

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a transfer written by `save`, with the emulator inside it.

        Raises:
            ModelError: damaged or foreign files, another pixel grid or label order, missing or extra tensors, values
                that are impossible.
        """
        card, tensors = load_model(path, cls.card_type, cls.kind, cls.version)
        grid = next((grid for grid in cls.grids if grid.digest == card.pixel_grid), None)
        if grid is None:
            known = " or ".join(repr(grid.digest) for grid in cls.grids)
            message = f"{path}: pixel_grid of the model is {card.pixel_grid!r}, this version has {known}"
            raise ModelError(message)
        transfer = cls.from_card(path, card, _emulator_inside(path, card, tensors))
        check_tensors(path, transfer.state_dict(), tensors)
        transfer.load_state_dict(tensors)
        transfer.card, transfer.grid, transfer.calibration = card, grid, card.calibration
        fault = transfer.find_fault()
        if fault is not None:
            message = f"{path}: the model holds {fault}"
            raise ModelError(message)
        return transfer.eval().requires_grad_(False)


def _emulator_inside(path: str | Path, card: TransferCard, tensors: dict[str, Tensor]) -> Emulator:
    inner = {name.removeprefix(EMULATOR_PREFIX): x for name, x in tensors.items() if name.startswith(EMULATOR_PREFIX)}
    emulator = Emulator.assemble(path, card.emulator, inner)
    low, high = card.emulator.lower[A_M], card.emulator.upper[A_M]
    if card.alpha is not None and not low <= card.alpha <= high:
        message = f"{path}: [a/M] in the card is {card.alpha}, the emulator knows {low:g} to {high:g}"
        raise ModelError(message)
    return emulator


def all_positive(*tensors: Tensor) -> bool:
    """Return whether every value of the tensors is above 0."""
    return all(bool((tensor > 0).all()) for tensor in tensors)
