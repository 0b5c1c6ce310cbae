"""Which models a run takes or trains, from its settings and from the cards of models, none of which is loaded."""

from __future__ import annotations

from importlib.resources import as_file, files
from typing import Any

from stargap.errors import ModelError
from stargap.modelfile import read_card
from stargap.pipeline.folder import content_digest
from stargap.pipeline.settings import SurveySettings

__all__ = ["after_transfer", "emulator_settings", "prior_settings", "transfer_settings"]


def emulator_settings(settings: SurveySettings) -> dict[str, Any]:
    """What the emulator follows from: its own checksum, or how it is trained."""
    chosen = settings.emulator
    if chosen.grid is None:
        return {"emulator": {"model": _emulator_digest(settings)}}
    about: dict[str, Any] = chosen.model_dump(mode="json", include={"resolution", "seed"})
    return {"emulator": {**about, "grid": content_digest(chosen.grid)}}


def _emulator_digest(settings: SurveySettings) -> str:
    """Return the checksum of the chosen emulator, else of that of the chosen transfer, else of the one in the package.

    Raises:
        ModelError: a model is missing or damaged, or the transfer's card names no emulator.
    """
    chosen, card = settings.emulator.model, _transfer_card(settings)
    if chosen is not None:
        return str(read_card(chosen / "emulator.safetensors")["sha256"])
    if card is None:
        return str(_shipped("emulator")["sha256"])
    try:
        return str(card["emulator"]["sha256"])
    except (KeyError, TypeError):
        message = f"{settings.transfer.model}: its card names no emulator: it is not a transfer"
        raise ModelError(message) from None


def transfer_settings(settings: SurveySettings) -> dict[str, Any]:
    """What the transfer follows from: its own checksum, or how it is trained."""
    chosen = settings.transfer
    if chosen.use == "train":
        own = {"default": "training", "anchored": "anchored", "reference": "reference", "starnet": "starnet"}
        others = set(own.values()) - {own[chosen.architecture]}
        about: dict[str, Any] = chosen.model_dump(mode="json", exclude={"model", "anchors", *others})
        return {"transfer": about | {"anchors": [content_digest(path) for path in chosen.anchors]}}
    card = _transfer_card(settings)
    return {"transfer": {"model": None if card is None else card["sha256"]}}


def _transfer_card(settings: SurveySettings) -> dict[str, Any] | None:
    """Return the card of the chosen transfer, None where there is none or it is trained."""
    chosen = settings.transfer
    if chosen.model is not None:
        return read_card(chosen.model)
    return _shipped(f"transfer-{chosen.use}") if chosen.use in ("lamost", "simulated") else None


def _shipped(name: str) -> dict[str, Any]:
    with as_file(files("stargap") / "models") as folder:
        return read_card(folder / f"{name}.safetensors")


def after_transfer(settings: SurveySettings) -> tuple[str, ...]:
    """Stages before the transfer: those that make its training spectra, where it is trained."""
    chosen = settings.transfer
    if chosen.use != "train":
        return ("emulator",)
    known = bool(chosen.photometric_anchors or chosen.anchors)
    return ("ingest", "emulator", "labels", "velocity", "clean", *(("sample", "photometry") if known else ()))


def prior_settings(settings: SurveySettings) -> dict[str, Any]:
    """What the labels follow from."""
    return {"transfer": settings.transfer.model_dump(mode="json", include={"prior"})}
