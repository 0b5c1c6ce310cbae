"""Cleaning: iterative K-means over prepared spectra, and the rules by which clusters and spectra are rejected."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stargap.flags import Clean
from stargap.pixels import STARGAP
from stargap.survey.cleaning.bins import BIN, BIN_CENTRES, NATIVE, QUIET_BINS, ROWS, Features, joined_features
from stargap.survey.cleaning.rules import CleaningSettings, is_rejected

__all__ = ["Cleaning", "Cluster", "clean"]

Verdict = Literal["good", "borderline", "rejected"]

TURNS = 6
"""Times that spectra are assigned and centres computed after K-means; small clusters are dissolved in two of them."""
HITS = 2
"""Bins that do not count in the distance of a spectrum from its cluster, those that differ most: cosmic hits."""
REACH = 1.0
"""Features for K-means are cut at the pseudo-continuum plus and minus this; comparisons with clusters are not."""
REFERENCE, TIO5, CAH1 = (int(np.abs(BIN_CENTRES - place).argmin()) for place in (7045.5, 7135.5, 6385.5))


@dataclass(frozen=True)
class Cluster:
    """A cluster and its verdict.

    ``number`` is 1000 times the round plus the rank by size; ``size`` counts all spectra assigned to it, ``outliers``
    those of them rejected one by one. ``mean`` and ``scatter (bin,)`` are on ``BIN_CENTRES``. ``tio5`` and ``cah1`` are
    depths (fractions of the pseudo-continuum), ``e_bands`` the error of their sum; ``quiet`` and ``roughness`` are
    fractions of the flux, ``missing`` the median fraction of bad bins. ``flags`` are bits of `Clean`.
    """

    number: int
    size: int
    outliers: int
    verdict: Verdict
    flags: int
    tio5: float
    cah1: float
    e_bands: float
    quiet: float
    roughness: float
    missing: float
    distance: float
    mean: NDArray[np.float64]
    scatter: NDArray[np.float64]


@dataclass(frozen=True)
class Cleaning:
    """The result of cleaning for each spectrum, in the order given, and for each cluster.

    ``cluster`` is int64 ``(star,)``, -1 where a spectrum was rejected by itself, before or between the rounds;
    ``flags`` int64 bits of `Clean`; ``distance`` float64, NaN where there is no cluster. ``digest`` names this
    clustering: settings, data and result.
    """

    cluster: NDArray[np.int64]
    flags: NDArray[np.int64]
    distance: NDArray[np.float64]
    clusters: tuple[Cluster, ...]
    settings: CleaningSettings
    digest: str

    @property
    def rejected(self) -> NDArray[np.bool_]:
        """Spectra that are not to be used, ``(star,)``."""
        return is_rejected(self.flags)


def _flags_of_spectra(features: Features, settings: CleaningSettings) -> NDArray[np.int64]:
    """Flags of spectra that need no cluster to be rejected."""
    flags = np.zeros(len(features), dtype=np.int64)
    for first in range(0, len(flags), ROWS):
        rows = slice(first, first + ROWS)
        seen = ~np.isnan(features.depth[rows])
        signal = (1 + features.depth[rows].astype(np.float32)) / features.sigma[rows].astype(np.float32)
        snr = np.zeros(len(seen))
        covered = seen.any(axis=1)
        snr[covered] = np.nanmedian(signal[covered], axis=1) / np.sqrt(BIN / NATIVE)
        left = BIN_CENTRES[seen.argmax(axis=1)] - STARGAP.start
        right = STARGAP.stop - BIN_CENTRES[::-1][seen[:, ::-1].argmax(axis=1)]
        for flag, where in (
            (Clean.FEW_PIXELS, seen.mean(axis=1) < max(settings.least_coverage, 1e-9)),
            (Clean.MISSING_ARM, covered & (np.maximum(left, right) > settings.longest_end)),
            (Clean.NO_SIGNAL, covered & (snr < settings.least_snr)),
            (Clean.ROUGH, features.rough(np.arange(len(flags))[rows], settings) > settings.most_roughness),
        ):
            flags[rows][where] |= int(flag)
    return flags


def clean(
    parts: Sequence[Features], settings: CleaningSettings | None = None, *, folder: Path | None = None
) -> Cleaning:
    """Find the spectra that are no usable M dwarfs, by rules against what M dwarfs are observed to be.

    Spectra are averages in 146 bins of 15 A clear of excluded windows (`bin_spectra`). Rejected one by one are those
    with too few good bins, without pixels at one end, without signal, or with sharp structure in quiet bins, where all
    mean spectra of dwarfs K5-M9 are flat. The others are clustered: K-means (mini-batches, weights by noise) finds the
    centres; every spectrum goes to the centre with the smallest weighted squared difference over its good bins; centres
    become weighted means, a few times over. A cluster is rejected when its mean has no bands (the depths of TiO5,
    7128-7143 A against 7038-7053 A, and of CaH1 at 6378-6393 A together), when it has TiO5 without CaH1 (giants), or
    when it is not flat in quiet bins. A spectrum is rejected when it is far from every cluster. What remains is
    clustered anew until no cluster is rejected, at most ``settings.rounds`` times. No rule looks at models or at
    labels, and H-alpha is in no bin: activity plays no part. Borderline clusters are kept.

    Memory: about 700 bytes per spectrum and 0.15 GB, 0.9 GB for a million; with a folder 600 bytes of these are on
    disk. The result does not depend on how the spectra are cut into parts.

    Args:
        parts: binned spectra, in order; read once.
        settings: by default `CleaningSettings()`.
        folder: an empty one for what is kept of each spectrum; it is kept in memory if None.

    Example:
        >>> from stargap.flags import Clean
        >>> from stargap.spectra.prepared import PreparedSpectra
        >>> from stargap.survey.cleaning.bins import bin_spectra
        >>> result = clean([bin_spectra(PreparedSpectra.empty(2))])
        >>> result.rejected.tolist(), Clean.describe(result.flags[0])
        ([True, True], 'too few good pixels to be judged')
    """
    settings = settings or CleaningSettings()
    features = joined_features(parts, folder)
    if settings.noise_factor is None:
        settings = settings.model_copy(update={"noise_factor": features.noise_factor()})
    count = len(features)
    flags = _flags_of_spectra(features, settings)
    cluster = np.full(count, -1, dtype=np.int64)
    distance = np.full(count, np.nan)
    kept: list[Cluster] = []
    active = np.flatnonzero(flags == 0)
    for number in range(1, settings.rounds + 1):
        if active.size == 0:
            break
        centres = _centres(features, active, settings, number)
        assigned, separation = _assign(features, active, centres, settings)
        found = _judge(features, active, assigned, separation, centres, settings, number)
        cluster[active] = np.array([one.number for one in found], dtype=np.int64)[assigned]
        distance[active] = separation
        flags[active] = np.array([one.flags for one in found], dtype=np.int64)[assigned]
        flags[active[separation > settings.most_distance]] |= int(Clean.OUTLIER)
        gone = np.array([one.verdict == "rejected" for one in found])
        last = number == settings.rounds or not gone.any()
        kept += [one for one, out in zip(found, gone, strict=True) if out or last]
        if last:
            break
        outlier = separation > settings.most_distance
        cluster[active[~gone[assigned] & outlier]] = -1  # of clusters that are made anew
        active = active[~gone[assigned] & ~outlier]
    return Cleaning(cluster, flags, distance, tuple(kept), settings, _digest(settings, features, cluster, flags))


def _centres(
    features: Features, active: NDArray[np.int64], settings: CleaningSettings, number: int
) -> NDArray[np.float32]:
    """Return centres ``(cluster, bin)``, largest cluster first."""
    from sklearn.cluster import MiniBatchKMeans
    from threadpoolctl import threadpool_limits

    rng = np.random.default_rng([settings.seed, number])
    drawn = active if active.size <= settings.sample else np.sort(rng.choice(active, settings.sample, replace=False))
    depth, weight = features.rows(drawn, settings)
    depth = depth.clip(-REACH, REACH)
    distinct = np.unique(depth @ rng.standard_normal(depth.shape[1], dtype=np.float32)).size
    count_of_clusters = min(settings.clusters, max(active.size // 4, 1), distinct)
    means = MiniBatchKMeans(
        count_of_clusters,
        random_state=settings.seed,
        batch_size=2048,
        n_init=3,
        max_iter=30,
        reassignment_ratio=0.001,
    )
    with threadpool_limits(1):
        centres = means.fit(depth, sample_weight=weight.mean(axis=1) * settings.scatter**2).cluster_centers_
    for turn in range(TURNS):
        assigned, _ = _assign(features, active, centres, settings)
        size = np.bincount(assigned, minlength=len(centres))
        least = settings.least_share * active.size / len(centres) if turn in (0, TURNS - 2) else 1.0
        large = size >= min(least, size.max())
        if not large.all():
            centres = centres[large]
            assigned, _ = _assign(features, active, centres, settings)
        centres = _means(features, active, assigned, len(centres), settings)
    assigned, _ = _assign(features, active, centres, settings)
    return np.asarray(centres[np.argsort(-np.bincount(assigned, minlength=len(centres)), kind="stable")])


def _means(
    features: Features, active: NDArray[np.int64], assigned: NDArray[np.int64], count: int, settings: CleaningSettings
) -> NDArray[np.float32]:
    total, weights = np.zeros((2, count, BIN_CENTRES.size))
    for first in range(0, active.size, ROWS):
        depth, weight = features.rows(active[first : first + ROWS], settings)
        member = np.zeros((count, len(depth)), dtype=np.float32)
        member[assigned[first : first + ROWS], np.arange(len(depth))] = 1
        total += member @ (weight * depth)
        weights += member @ weight
    return (total / np.maximum(weights, 1e-30)).astype(np.float32)


def _assign(
    features: Features, active: NDArray[np.int64], centres: NDArray[np.float32], settings: CleaningSettings
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the nearest centre of each spectrum and its distance from it."""
    assigned, separation = np.empty(active.size, dtype=np.int64), np.empty(active.size)
    for first in range(0, active.size, ROWS):
        rows = slice(first, first + ROWS)
        depth, weight = features.rows(active[rows], settings)
        weighted = weight * depth
        far = weight @ (centres * centres).T - 2 * (weighted @ centres.T)
        assigned[rows] = far.argmin(axis=1)
        centre = centres[assigned[rows]]
        allowed = weight / (1 + weight * (settings.relative_scatter * centre) ** 2)
        square = np.partition(allowed * (depth - centre) ** 2, -HITS, axis=1)[:, :-HITS]
        separation[rows] = square.sum(axis=1, dtype=np.float64) / np.maximum((weight > 0).sum(axis=1) - HITS, 1)
    return assigned, separation


def _judge(
    features: Features,
    active: NDArray[np.int64],
    assigned: NDArray[np.int64],
    separation: NDArray[np.float64],
    centres: NDArray[np.float32],
    settings: CleaningSettings,
    number: int,
) -> list[Cluster]:
    """Return the clusters with their verdicts, in the order of the centres."""
    square, weights, variance = np.zeros((3, len(centres), BIN_CENTRES.size))
    missing = np.empty(active.size)
    for first in range(0, active.size, ROWS):
        rows = slice(first, first + ROWS)
        depth, weight = features.rows(active[rows], settings)
        member = np.zeros((len(centres), len(depth)), dtype=np.float32)
        member[assigned[rows], np.arange(len(depth))] = 1
        square += member @ (weight * (depth - centres[assigned[rows]]) ** 2)
        noise = np.nan_to_num(features.sigma[active[rows]]) * np.float32(settings.noise_factor or 1.0)
        variance += member @ (weight * noise) ** 2
        weights += member @ weight
        missing[rows] = (weight == 0).mean(axis=1)
    weights = np.maximum(weights, 1e-30)
    scatter, sigma = np.sqrt(square / weights), np.sqrt(variance) / weights
    found = []
    for place, centre in enumerate(centres.astype(np.float64)):
        here = assigned == place
        tio5 = 1 - (1 + centre[TIO5]) / max(1 + centre[REFERENCE], 1e-3)
        cah1 = -centre[CAH1]
        e_bands = float(np.sqrt((sigma[place, [TIO5, REFERENCE, CAH1]] ** 2).sum()))
        quiet = float(np.sqrt(max((centre[QUIET_BINS] ** 2 - sigma[place, QUIET_BINS] ** 2).mean(), 0)))
        rough = float(np.median(features.rough(active[here], settings))) if here.any() else 0.0
        flags, border = _verdict(tio5, cah1, e_bands, quiet, settings)
        found.append(
            Cluster(
                number=1000 * number + place,
                size=int(here.sum()),
                outliers=int((separation[here] > settings.most_distance).sum()),
                verdict="rejected" if flags else "borderline" if border else "good",
                flags=int(flags or (Clean.BORDERLINE if border else 0)),
                tio5=float(tio5),
                cah1=float(cah1),
                e_bands=e_bands,
                quiet=quiet,
                roughness=rough,
                missing=float(np.median(missing[here])) if here.any() else 1.0,
                distance=float(np.median(separation[here])) if here.any() else 0.0,
                mean=1 + centre,
                scatter=scatter[place],
            )
        )
    return found


def _verdict(tio5: float, cah1: float, e_bands: float, quiet: float, settings: CleaningSettings) -> tuple[Clean, bool]:
    """Return why a cluster is rejected, and whether it is borderline."""
    bands, sure = tio5 + cah1, 2 * e_bands
    flags = Clean(0)
    if bands + sure < settings.least_bands:
        flags |= Clean.WEAK_BANDS
    if tio5 > 0.15 and cah1 + sure < settings.least_cah1:
        flags |= Clean.GIANT
    if quiet > settings.most_quiet:
        flags |= Clean.NOT_QUIET
    weak = bands < settings.borderline_bands or (tio5 > 0.15 and cah1 < 1.5 * settings.least_cah1)
    return flags, weak or quiet > settings.most_quiet / 1.5


def _digest(
    settings: CleaningSettings, features: Features, cluster: NDArray[np.int64], flags: NDArray[np.int64]
) -> str:
    digest = hashlib.sha256(settings.model_dump_json().encode())
    for array in (features.depth, features.sigma, cluster, flags):
        for first in range(0, len(array), ROWS):
            digest.update(np.ascontiguousarray(array[first : first + ROWS]).view(np.uint8).data)
    return digest.hexdigest()[:16]
