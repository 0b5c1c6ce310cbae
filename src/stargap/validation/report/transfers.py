"""What figures 6 to 8 are drawn from: losses of a training, the two domains of a transfer, residuals."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from stargap.validation.report.drawing import Drawn, NotDrawn, Source

__all__ = ["losses", "residuals", "tsne"]

EMBEDDED = 300
"""Spectra of either domain that t-SNE places."""


def losses(run: Source) -> Drawn:
    """Draw figure 6, where the run trained a network."""
    data = run.data
    if "transfer" not in data.cards:
        message = "the run used no transfer: its labels are the emulator's"
        raise NotDrawn(message)
    curves = sorted(data.folder.glob("transfer/training-*/metrics.jsonl"))
    if data.cards["transfer"].get("kind") == "starnet-transfer":
        if not curves:
            message = "the network was trained elsewhere: its losses are in the folder of its training"
            raise NotDrawn(message)
        from stargap.checkpoints import read_metrics
        from stargap.figures.transfer import losses_figure

        metrics = read_metrics(curves[0])
        return losses_figure(metrics), metrics
    scores = data.cards["transfer"].get("scores", {})
    listed = "; ".join(f"{name} {value:.3g}" for name, value in scores.items())
    message = (
        "the transfer is fitted in a few rounds of least squares, not by steps of a network, so there are no curves; "
        f"its card says: {listed or 'no scores'}"
    )
    raise NotDrawn(message)


def tsne(run: Source) -> Drawn:
    """Draw figure 7."""
    fitted = run.fitted
    from stargap.figures.transfer import tsne_figure
    from stargap.validation.embedding import tsne

    if fitted.synthetic is None:
        message = "the run used no transfer: there is nothing before and after it"
        raise NotDrawn(message)
    whole = np.flatnonzero(np.isfinite(fitted.model).any(axis=1))[: 2 * EMBEDDED]
    observed, pictured = whole[::2], whole[1::2]  # unpaired, as the two domains are
    seen = {
        name: _filled(values) for name, values in vars(fitted).items() if name in ("observed", "synthetic", "model")
    }
    placed = [tsne({"synthetic": seen["synthetic"][pictured], "observed": seen["observed"][observed]}),
              tsne({"transferred": seen["model"][pictured], "observed": seen["observed"][observed]})]  # fmt: skip
    if fitted.latents is not None:
        placed.append(tsne({"synthetic": fitted.latents[pictured, 1], "observed": fitted.latents[observed, 0]}))
    rows: list[tuple[str, str, NDArray[Any]]] = [
        (when, name, points)
        for when, groups in zip(("before", "after", "latent"), placed, strict=False)
        for name, points in groups.items()
    ]
    columns = {
        "panel": np.concatenate([np.repeat(when, len(points)) for when, _, points in rows]),
        "group": np.concatenate([np.repeat(name, len(points)) for _, name, points in rows]),
        "x": np.concatenate([points[:, 0] for *_, points in rows]),
        "y": np.concatenate([points[:, 1] for *_, points in rows]),
    }
    return tsne_figure(*placed), columns


def _filled(values: NDArray[Any]) -> NDArray[Any]:
    """Return spectra with 1 where a pixel is not used."""
    return np.where(np.isfinite(values), values, 1.0)


def residuals(run: Source) -> Drawn:
    """Draw figure 8."""
    fitted = run.fitted
    from stargap.figures.transfer import residual_figure

    if fitted.before is None:
        middle = np.nanmedian(fitted.after) if np.isfinite(fitted.after).any() else np.nan
        message = f"the run used no transfer; against the emulator's spectra the median is {middle:.2f}"
        raise NotDrawn(message)
    return residual_figure(fitted.before, fitted.after), {"before": fitted.before, "after": fitted.after}
