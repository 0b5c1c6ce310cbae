"""The page that shows what cleaning rejected, and a person's overrule of it."""

from __future__ import annotations

import base64
import html
import json
import tomllib
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stargap.errors import UsageError
from stargap.files import read_text, replacing
from stargap.flags import Clean
from stargap.survey.cleaning.bins import BIN_CENTRES, SpectraPart
from stargap.survey.cleaning.clean import Cleaning, Cluster

__all__ = ["overrule", "write_cleaning_page"]

MEMBERS = 5
"""Members of a cluster that its picture shows."""
AVERAGED = 200
"""Most members that the mean in its picture is of."""
ALONE = (Clean.FEW_PIXELS, Clean.MISSING_ARM, Clean.NO_SIGNAL, Clean.ROUGH, Clean.OUTLIER)


def overrule(cleaning: Cleaning, path: str | Path) -> Cleaning:
    """Apply a person's file to a cleaning: clusters to keep although rejected by rule, and the reverse.

    The file is TOML: ``made_for``, the digest of the cleaning that the person looked at, and a table ``[clusters]`` of
    cluster numbers with ``"keep"`` or ``"reject"``. Spectra that were rejected one by one stay so.

    Raises:
        UsageError: the file cannot be read, was made for another cleaning, or names a cluster that is not there.

    Example:
        >>> from stargap.survey.cleaning.clean import clean
        >>> from stargap.spectra.prepared import PreparedSpectra
        >>> from stargap.survey.cleaning.bins import bin_spectra
        >>> file = getfixture("tmp_path") / "overrule.toml"
        >>> _ = file.write_text('made_for = "0123456789abcdef"')
        >>> overrule(clean([bin_spectra(PreparedSpectra.empty(1))]), file)
        Traceback (most recent call last):
        ...
        stargap.errors.UsageError: .../overrule.toml: made for the cleaning 0123456789abcdef, not for ...
    """
    wishes = _read_overrule(Path(path), cleaning)
    flags, clusters = cleaning.flags.copy(), []
    for cluster in cleaning.clusters:
        wish = wishes.get(cluster.number)
        verdict = cluster.verdict
        if wish == "keep" and verdict == "rejected":
            flags[cleaning.cluster == cluster.number] |= int(Clean.OVERRULED_KEEP)
            verdict = "good"
        elif wish == "reject" and verdict != "rejected":
            flags[cleaning.cluster == cluster.number] |= int(Clean.OVERRULED_REJECT)
            verdict = "rejected"
        clusters.append(replace(cluster, verdict=verdict))
    return replace(cleaning, flags=flags, clusters=tuple(clusters))


def _read_overrule(path: Path, cleaning: Cleaning) -> dict[int, str]:
    try:
        content = tomllib.loads(read_text(path))
    except OSError as error:
        message = f"{path}: cannot be read ({error.strerror})"
        raise UsageError(message) from None
    except ValueError as error:
        message = f"{path}: not a TOML file ({error})"
        raise UsageError(message) from None
    made_for, wishes = content.get("made_for"), content.get("clusters", {})
    unknown = sorted(set(content) - {"made_for", "clusters"})
    if unknown or not isinstance(wishes, dict):
        message = f"{path}: holds {', '.join(unknown) or 'no table clusters'}; it may hold made_for and [clusters]"
        raise UsageError(message)
    if made_for != cleaning.digest:
        message = (
            f"{path}: made for the cleaning {made_for}, not for {cleaning.digest}: data or settings differ, so "
            "its numbers may be of other clusters; look at the new cleaning.html and write it anew"
        )
        raise UsageError(message)
    known = {str(cluster.number) for cluster in cleaning.clusters}
    for name, wish in wishes.items():
        if name not in known or wish not in ("keep", "reject"):
            message = f'{path}: {name} = {wish!r}: needed is the number of a cluster and "keep" or "reject"'
            raise UsageError(message)
    return {int(name): wish for name, wish in wishes.items()}


def write_cleaning_page(
    path: str | Path, cleaning: Cleaning, spectra: Callable[[NDArray[np.int64]], SpectraPart]
) -> tuple[Path, Path]:
    """Write one self-contained HTML page: what was rejected and why, with pictures of rejected and borderline clusters.

    Beside it the same is written as data, with the suffix ``.json``::

        {"digest": ..., "spectra": 5000, "rejected": 120, "reasons": {sentence: spectra, ...},
         "settings": {...}, "wavelength": [...],
         "clusters": [{"number": 1000, "size": 70, "verdict": "good", "mean": [...], "scatter": [...], ...}, ...],
         "pictures": [{"title": ..., "reason": ..., "png": base64}, ...]}

    A cluster has the fields of `Cluster`, and ``mean`` and ``scatter`` are given at ``wavelength`` (A, vacuum). The
    pictures are those of the page, in its order: rejected and borderline clusters, then spectra rejected one by one.

    Args:
        path: usually ``cleaning.html``.
        cleaning: of all spectra.
        spectra: returns those of some rows of `cleaning`, which are ascending, prepared. Means in pictures are of at
            most `AVERAGED` members.

    Returns:
        the paths of the page and of the data.
    """
    shown = [cluster for cluster in cleaning.clusters if cluster.verdict != "good"]
    groups = {str(one.number): np.flatnonzero(cleaning.cluster == one.number) for one in shown}
    groups |= {flag.name or "": np.flatnonzero(cleaning.flags & int(flag)) for flag in ALONE}
    means = {name: _mean(spectra(_spread(rows, AVERAGED))) for name, rows in groups.items() if name.isdigit()}
    members = {name: _lines(spectra(_spread(rows, MEMBERS))) for name, rows in groups.items()}
    sections, pictures = [_opening(cleaning)], []
    for one in sorted(shown, key=lambda one: (one.verdict != "rejected", one.number)):
        title, reason = f"cluster {one.number}: {_spectra(one.size)}, {one.verdict}", _reason(one)
        png = _picture(members[str(one.number)], title, *means[str(one.number)])
        pictures.append({"title": title, "reason": reason, "png": png})
        sections.append(f"<h3 id=c{one.number}>{title}</h3><p>{html.escape(reason)}</p>{_image(title, png)}")
    sections.append("<h2>Spectra rejected one by one</h2>")
    for flag in ALONE:
        rows = groups[flag.name or ""]
        if rows.size:
            title = _spectra(rows.size)
            png = _picture(members[flag.name or ""], title)
            pictures.append({"title": f"{flag.sentence}: {rows.size}", "reason": "", "png": png})
            sections.append(f"<h3>{html.escape(flag.sentence)}: {rows.size}</h3>{_image(title, png)}")
    page, data = Path(path), Path(path).with_suffix(".json")
    with replacing(page) as file:
        file.write(PAGE.replace("%BODY%", "\n".join(sections)).encode())
    with replacing(data) as file:
        file.write(json.dumps(_as_data(cleaning) | {"pictures": pictures}, allow_nan=False).encode())
    return page, data


def _as_data(cleaning: Cleaning) -> dict[str, Any]:
    clusters = [
        asdict(one) | {"mean": one.mean.tolist(), "scatter": one.scatter.tolist(), "reason": _reason(one)}
        for one in cleaning.clusters
    ]
    return {
        "digest": cleaning.digest,
        "spectra": len(cleaning.flags),
        "rejected": int(cleaning.rejected.sum()),
        "reasons": _reasons(cleaning),
        "settings": cleaning.settings.model_dump(mode="json"),
        "wavelength": BIN_CENTRES.tolist(),
        "clusters": clusters,
    }


def _reasons(cleaning: Cleaning) -> dict[str, int]:
    """Return for each bit of `Clean` its sentence and how many spectra have it."""
    return {flag.sentence: int(((cleaning.flags & int(flag)) != 0).sum()) for flag in Clean}


def _reason(cluster: Cluster) -> str:
    return Clean.describe(cluster.flags) or "a person's choice"


def _spectra(count: int) -> str:
    return "1 spectrum" if count == 1 else f"{count} spectra"


def _spread(rows: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return at most so many of some rows, evenly spread."""
    places = np.linspace(0, rows.size - 1, min(most, rows.size)).round().astype(np.int64)
    return np.asarray(rows[np.unique(places)])


def _lines(spectra: SpectraPart) -> NDArray[np.float64]:
    """Return fluxes, NaN where bad."""
    return np.where(spectra.good, np.asarray(spectra.flux, dtype=np.float64), np.nan)


def _mean(spectra: SpectraPart) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return mean and scatter over good pixels, weighted by errors with a floor; NaN where there are none."""
    use = spectra.good & np.isfinite(spectra.flux) & np.isfinite(spectra.sigma)
    weight = np.where(use, 1 / (np.where(use, spectra.sigma, 1).astype(np.float64) ** 2 + 0.03**2), 0)
    value = np.where(use, spectra.flux, 0).astype(np.float64).clip(-100, 100)
    total = weight.sum(axis=0)
    total = np.where(total > 0, total, np.nan)
    mean = (weight * value).sum(axis=0) / total
    return mean, np.sqrt(((weight * value**2).sum(axis=0) / total - mean**2).clip(0))


def _picture(members: NDArray[Any], title: str, mean: Any = None, scatter: Any = None) -> str:
    """Return a picture of spectra as base64 PNG."""
    from stargap.figures.cleaning import cluster_figure
    from stargap.figures.style import png

    return base64.b64encode(png(cluster_figure(members, mean=mean, scatter=scatter, title=title), dpi=80)).decode()


def _image(title: str, picture: str) -> str:
    return f'<img alt="Spectra: {html.escape(title)}" src="data:image/png;base64,{picture}">'


def _opening(cleaning: Cleaning) -> str:
    rejected = cleaning.rejected
    head = [
        "number",
        "size",
        "outliers",
        "verdict",
        "TiO5",
        "CaH1",
        "±",
        "quiet",
        "rough",
        "missing",
        "distance",
        "reason",
    ]
    lines = ["".join(f'<th scope="col">{name}</th>' for name in head)]
    for one in cleaning.clusters:
        number = str(one.number) if one.verdict == "good" else f"<a href=#c{one.number}>{one.number}</a>"
        numbers = (one.tio5, one.cah1, one.e_bands, one.quiet, one.roughness, one.missing, one.distance)
        cells = [number, str(one.size), str(one.outliers), one.verdict, *(f"{value:.3f}" for value in numbers)]
        cells.append(html.escape(Clean.describe(one.flags)))
        lines.append("".join(f"<td>{cell}</td>" for cell in cells))
    table = "\n".join(f"<tr>{line}</tr>" for line in lines)
    reasons = "".join(
        f"<tr><td>{html.escape(sentence)}</td><td>{count}</td></tr>" for sentence, count in _reasons(cleaning).items()
    )
    example = html.escape(f'made_for = "{cleaning.digest}"\n\n[clusters]\n1000 = "keep"\n')
    settings = html.escape(cleaning.settings.model_dump_json(indent=1))
    return f"""<h1>Cleaning: {int(rejected.sum())} of {len(rejected)} spectra rejected</h1>
<p>To overrule a verdict, write a file like this, with the numbers of clusters and "keep" or "reject", and name it in
the settings:</p><pre>{example}</pre>
<h2>Reasons</h2><div class="scroll"><table><tr><th scope="col">reason</th><th scope="col">spectra</th></tr>
{reasons}</table></div>
<h2>Clusters</h2><div class="scroll"><table>{table}</table></div>
<p>TiO5 and CaH1: depths in the mean spectrum, with the error of their sum; quiet: rms of the mean from 1 where M dwarfs
are flat; rough: scatter within quiet bins beyond noise; missing: fraction of bins; distance: median of the members,
1 for noise and allowed scatter.</p>
<details><summary>Settings</summary><pre>{settings}</pre></details>
<h2>Rejected and borderline clusters</h2>"""


PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>Cleaning</title><style>
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --stripe: #f4f4f4; --link: #00457c; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --paper: #16181b; --stripe: #22262b; --link: #8ec7ff; }
img { background: #fff; padding: 4px; filter: brightness(.88); } }
body { font: 15px/1.45 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: var(--ink);
background: var(--paper); } a { color: var(--link); } .scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; } td, th { padding: 2px 8px; text-align: left; }
tr:nth-child(even) { background: var(--stripe); } img { max-width: 100%; }
pre { background: var(--stripe); padding: .6rem; overflow-x: auto; }
@media print { :root { color-scheme: light; --ink: #000; --paper: #fff; --stripe: #f4f4f4; --link: #000; }
body { max-width: none; margin: 0; } table { font-size: 8pt; }
img { max-height: 60mm; filter: none; break-inside: avoid; } }
</style></head><body><main>
%BODY%
</main></body></html>
"""
