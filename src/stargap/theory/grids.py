"""Grids of synthetic spectra: our HDF5 files, and folders of BT-Settl or PHOENIX-ACES files."""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from stargap.console import progress_bars
from stargap.errors import UsageError
from stargap.labels import LABELS
from stargap.theory.broadening import broaden_constant_resolution
from stargap.theory.downloads import is_svo, read_marcs, read_newera, read_sphinx, read_svo
from stargap.theory.formats import Spectrum, read_bt_settl_ascii, read_bt_settl_fits, read_phoenix_aces

__all__ = [
    "Grid",
    "covered_box",
    "read_bt_settl_ascii",
    "read_bt_settl_fits",
    "read_grid",
    "read_hdf5_grid",
    "read_phoenix_aces",
]

FLUX_UNIT = "erg s-1 cm-2 A-1"
PIXELS_PER_FWHM = 2.5
MARGIN = 4.0
"""Spectra are broadened this far beyond both ends of the requested range (FWHM)."""
SEVERAL = 3
"""A message names at most this many files or labels."""
MANY = 10
"""A progress bar is shown from this many files on."""
HDF5_LABELS = {"teff": "teff", "logg": "logg", "mh": "m_h", "m_h": "m_h", "am": "a_m", "a_m": "a_m"}
CITATIONS = {
    "BT-Settl": "Allard, Homeier & Freytag 2012, RSPTA 370, 2765 (BT-Settl)",
    "PHOENIX-ACES": "Husser et al. 2013, A&A 553, A6 (PHOENIX-ACES)",
    "PHOENIX-NewEra": "Hauschildt et al. 2025, A&A 698, A47 (PHOENIX NewEra)",
    "MARCS": "Gustafsson et al. 2008, A&A 486, 951 (MARCS)",
    "SPHINX": "Iyer et al. 2023, ApJ 944, 41 (SPHINX)",
    "SVO": "the models' own paper, and the SVO Theoretical Spectra server (svo2.cab.inta-csic.es/theory/newov2)",
}


@dataclass(frozen=True, eq=False)
class Grid:
    """Synthetic spectra on one wavelength grid.

    Args:
        wavelength: ``(pixel,)``, vacuum, increasing (A), float64.
        flux: ``(spectrum, pixel)``, surface flux F_lambda (erg/s/cm2/A), float32 or float64.
        labels: ``(spectrum, 4)``: Teff (K), log g, [M/H], [a/M] (dex), float64.
        name: what models these are.
        resolution: R = lambda / FWHM, or None where it is that of the synthesis.
        citation: whom to cite.
        attributes: what else the file says.

    Raises:
        UsageError: the shapes do not fit each other.

    Example:
        >>> grid = Grid(np.array([6000.0, 6001.0]), np.ones((1, 2)), np.array([[3000.0, 5, 0, 0]]), "one")
        >>> len(grid), grid.resolution is None
        (1, True)
    """

    wavelength: NDArray[np.float64]
    flux: NDArray[Any]
    labels: NDArray[np.float64]
    name: str
    resolution: float | None = None
    citation: str = ""
    attributes: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        spectra, pixels = len(self.labels), np.size(self.wavelength)
        shapes = [np.shape(array) for array in (self.wavelength, self.flux, self.labels)]
        if shapes != [(pixels,), (spectra, pixels), (spectra, len(LABELS))]:
            msg = f"wavelength, flux and labels of grid {self.name} have shapes {shapes}, which do not fit"
            raise UsageError(msg)

    def __len__(self) -> int:
        return len(self.labels)


def read_hdf5_grid(path: str | Path) -> Grid:
    """Read a grid in the HDF5 layout of the project.

    ``wavelength`` (pixel,), ``flux`` (spectrum, pixel) and ``labels`` (spectrum, 4), whose attribute
    ``names`` gives the order of its columns; the attribute ``R`` of the file is the resolution.

    Returns:
        The grid as it is on disk, with labels in the order of `stargap.labels.LABELS`, named after the file.

    Raises:
        UsageError: the file is damaged, is another kind of HDF5, states air wavelengths or other units, has
            wavelengths that do not increase, or holds the same labels twice.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> with TemporaryDirectory() as folder:
        ...     with h5py.File(path := Path(folder) / "small.h5", "w") as file:
        ...         file["wavelength"], file["flux"] = [6000.0, 6001.0], [[1e5, 2e5]]
        ...         labels = file.create_dataset("labels", data=[[5.0, 3000.0, 0.0, -1.0]])
        ...         labels.attrs["names"] = ["logg", "teff", "am", "mh"]
        ...     read_hdf5_grid(path).labels.tolist()
        [[3000.0, 5.0, -1.0, 0.0]]
    """
    try:
        with h5py.File(path, "r") as file:
            attributes = {key: _plain(value) for key, value in file.attrs.items()}
            wavelength, labels = (np.asarray(file[key][()], dtype=np.float64) for key in ("wavelength", "labels"))
            flux = np.asarray(file["flux"][()])
            notes = {k: {a: _plain(v) for a, v in file[k].attrs.items()} for k in ("wavelength", "flux", "labels")}
    except (OSError, KeyError, RuntimeError, TypeError, ValueError) as error:
        reason = "there is no such file" if isinstance(error, FileNotFoundError) else error
        msg = f"{path}: is not a readable HDF5 grid ({reason})"
        raise UsageError(msg) from error
    names = [HDF5_LABELS.get(str(name)) for name in np.atleast_1d(notes["labels"].get("names", []))]
    vacuum = notes["wavelength"].get("medium", "vacuum") == "vacuum" and attributes.get("vacuum", True)
    if sorted(map(str, names)) != sorted(LABELS):
        problem = f"the attribute names of labels is {notes['labels'].get('names')}"
    elif wavelength.ndim != 1 or labels.shape[1:] != (4,) or flux.shape != (len(labels), wavelength.size):
        problem = f"wavelength, flux, labels have shapes {wavelength.shape}, {flux.shape}, {labels.shape}"
    elif not vacuum or notes["wavelength"].get("unit", "Angstrom") != "Angstrom":
        problem = "the wavelengths are not stated to be in vacuum and Angstrom"
    elif notes["flux"].get("unit", FLUX_UNIT) != FLUX_UNIT:
        problem = f"the flux is in {notes['flux']['unit']}, not {FLUX_UNIT}"
    elif not (np.diff(wavelength) > 0).all() or not np.isfinite(flux).all():
        problem = "wavelengths do not increase, or flux is not finite"
    else:
        labels = labels[:, [names.index(label) for label in LABELS]].round(6)
        _refuse_repeats(labels, [f"{path}[{i}]" for i in range(len(labels))])
        resolution = float(attributes["R"]) if "R" in attributes else None
        citation = str(attributes.get("citations", ""))
        return Grid(wavelength, flux, labels, Path(path).stem, resolution, citation, attributes)
    msg = f"{path}: is not a grid of this layout: {problem}"
    raise UsageError(msg)


def read_grid(
    path: str | Path,
    *,
    resolution: float,
    wavelength_range: tuple[float, float] = (5900.0, 9000.0),
    strict: bool = False,
) -> Grid:
    """Read models from a file or from every model file under a folder, broadened onto one wavelength grid.

    Args:
        path: an HDF5 grid, a file of BT-Settl, PHOENIX-ACES, PHOENIX NewEra, MARCS, SPHINX or SVO's server, or a folder
            with any of them (docs/formats.md).
        resolution: R = lambda / FWHM of the result (paper section 2.2: about 2000).
        wavelength_range: the ends of the log-uniform grid, of 2.5 pixels per FWHM (vacuum A). Spectra must
            cover it, but for one FWHM at the ends, where the grid then ends earlier.
        strict: raise if any file is unusable; otherwise only if all are, and a warning names the others.

    Returns:
        A grid with float32 flux, its spectra in the order of their paths.

    Raises:
        UsageError: nothing under `path` is a model file, none is usable (how many of how many, and the first
            reasons), two spectra have the same labels, or the resolution or range makes no sense.

    Example:
        >>> from tempfile import TemporaryDirectory
        >>> rows = "".join(f"{wave} 1.4D+01\\n" for wave in range(5800, 9100))
        >>> with TemporaryDirectory() as folder:
        ...     for teff in (30, 31):
        ...         _ = (Path(folder) / f"lte0{teff}-5.0-0.0a+0.0.BT-Settl.spec.7").write_text(rows)
        ...     grid = read_grid(folder, resolution=500)
        >>> grid.flux.shape, grid.labels[:, 0], bool(np.allclose(grid.flux, 1e6))
        ((2, 529), array([3000., 3100.]), True)
    """
    low, high = wavelength_range
    if not (0 < low < high < np.inf and 0 < resolution < np.inf):
        msg = f"a grid cannot have R = {resolution:g} at {low:g}-{high:g} A: give positive, rising numbers"
        raise UsageError(msg)
    count = int(np.ceil(np.log(high / low) * resolution * PIXELS_PER_FWHM)) + 1
    wavelength = np.geomspace(low, high, count)
    files = _model_files(Path(path))
    grids, owners, failures = [], [], []
    with progress_bars(len(files) >= MANY) as bar:
        for file, reader in bar.track(files, description="reading models"):
            try:
                grid = _broadened(file, reader(file), wavelength, resolution)
            except UsageError as error:
                failures.append(str(error))
                continue
            grids.append(grid)
            owners += [f"{file}[{i}]" for i in range(len(grid))] if len(grid) > 1 else [str(file)]
    if failures:
        first = "; ".join(failures[:SEVERAL]) + ("; ..." if len(failures) > SEVERAL else "")
        msg = f"{path}: {len(failures)} of {len(files)} model files are unusable: {first}"
        if strict or not grids:
            raise UsageError(failures[0] if len(files) == 1 else msg)
        warnings.warn(msg, stacklevel=2)
    labels, flux = np.concatenate([g.labels for g in grids]), np.concatenate([g.flux for g in grids])
    _refuse_repeats(labels, owners)
    covered = np.isfinite(flux).all(axis=0)
    return Grid(
        wavelength=wavelength[covered],
        flux=flux[:, covered],
        labels=labels,
        name=" + ".join(dict.fromkeys(g.name for g in grids)),
        resolution=float(resolution),
        citation="; ".join(dict.fromkeys(g.citation for g in grids)),
        attributes=grids[0].attributes if len(grids) == 1 else {},
    )


def covered_box(labels: NDArray[np.float64]) -> str:
    """Return how much of the box between the smallest and largest labels has models, one line per label and one in all.

    Args:
        labels: ``(spectrum, 4)``: Teff (K), log g, [M/H], [a/M].

    Example:
        >>> print(covered_box(np.array([[3000.0, 5, 0, 0], [3100, 5, 0, 0], [3000, 5.5, 0, 0]])))
        Teff   3000 to 3100 K, 2 values
        log g  5 to 5.5, 2 values
        [M/H]  0, 1 value
        [a/M]  0, 1 value
        3 of the 4 nodes of this box have a model; at (3100, 5.5, 0, 0) and the like there is none
    """
    values = [np.unique(column.round(4)) for column in labels.T]
    lines = []
    for name, unit, found in zip(("Teff", "log g", "[M/H]", "[a/M]"), (" K", "", "", ""), values, strict=True):
        ends = f"{found[0]:g} to {found[-1]:g}" if len(found) > 1 else f"{found[0]:g}"
        lines.append(f"{name:<6} {ends}{unit}, {len(found)} value{'s' if len(found) > 1 else ''}")
    there = {tuple(row) for row in labels.round(4).tolist()}
    box = [tuple(node) for node in np.stack(np.meshgrid(*values, indexing="ij"), axis=-1).reshape(-1, 4).tolist()]
    missing = [node for node in box if node not in there]
    text = f"{len(there)} of the {len(box)} nodes of this box have a model"
    if missing:
        text += f"; at ({', '.join(f'{value:g}' for value in missing[-1])}) and the like there is none"
    return "\n".join([*lines, text])


def _reader(path: Path) -> Callable[[Path], Grid] | None:
    """What reads a file of this name, if it is a model's."""
    name = path.name.lower()
    if "phoenix-newera" in name and name.endswith(".h5"):
        return partial(_one, read_newera, "PHOENIX-NewEra")
    if name.removesuffix(".gz").endswith(".flx"):
        return partial(_one, read_marcs, "MARCS")
    if name.startswith("teff_") and "_ctoo_" in name:
        return partial(_one, read_sphinx, "SPHINX")
    if is_svo(path):
        return partial(_one, read_svo, "SVO")
    if name.endswith((".h5", ".hdf5")):
        return read_hdf5_grid
    if not name.startswith("lte"):
        return None
    if "phoenix-aces" in name and ".fits" in name:
        return partial(_one, read_phoenix_aces, "PHOENIX-ACES")
    if "bt-settl" in name and ".fits" in name:
        return partial(_one, read_bt_settl_fits, "BT-Settl")
    if "bt-settl" in name and ".7" in name.split("bt-settl")[1]:
        return partial(_one, read_bt_settl_ascii, "BT-Settl")
    return None


def _one(reader: Callable[[Path], Spectrum], name: str, path: Path) -> Grid:
    labels, wavelength, flux = reader(path)
    return Grid(wavelength, flux[None], labels[None], name, None, CITATIONS[name])


def _model_files(path: Path) -> list[tuple[Path, Callable[[Path], Grid]]]:
    if not path.exists():
        msg = f"{path}: there is no such file or folder"
        raise UsageError(msg)
    found = sorted(path.rglob("*")) if path.is_dir() else [path]
    files = [(file, reader) for file in found if (reader := _reader(file)) and file.is_file()]
    if not files:
        kinds = (
            "*.h5, lte*.BT-Settl.spec.7, lte*.BT-Settl.spec.fits, lte*.PHOENIX-ACES*.fits, *.PHOENIX-NewEra*.h5, "
            "*.flx, Teff_*_CtoO_*.txt, or SVO's *.dat.txt and VOTables"
        )
        msg = f"{path}: there is no model file: nothing is called like {kinds}"
        raise UsageError(msg)
    return files


def _broadened(file: Path, source: Grid, wavelength: NDArray[np.float64], resolution: float) -> Grid:
    """Spectra of `source` at `wavelength`, NaN at the few pixels that it does not reach."""
    low, high, fwhm = wavelength[0], wavelength[-1], 1 / resolution
    keep = (source.wavelength > low * (1 - MARGIN * fwhm)) & (source.wavelength < high * (1 + MARGIN * fwhm))
    wave = source.wavelength[keep]
    if wave.size < 2 or wave[0] > low * (1 + fwhm) or wave[-1] < high * (1 - fwhm):
        ends = f"{source.wavelength[0]:.1f}-{source.wavelength[-1]:.1f}"
        msg = f"{file}: the spectrum covers {ends} A, not {low:g}-{high:g} A"
        raise UsageError(msg)
    if source.resolution is not None and source.resolution <= resolution:
        msg = f"{file}: the spectra have R = {source.resolution:g} and cannot be brought to {resolution:g}"
        raise UsageError(msg)
    if (gap := np.diff(wave) / wave[1:]).max() > fwhm / 2:
        ends = " and ".join(f"{edge:.2f}" for edge in wave[gap.argmax() :][:2])
        msg = f"{file}: nothing between {ends} A, which is too coarse for R = {resolution:g}"
        raise UsageError(msg)
    inside = (wavelength >= wave[0]) & (wavelength <= wave[-1])
    flux = np.full((len(source), wavelength.size), np.nan, dtype=np.float32)
    r, at = source.resolution or np.inf, wavelength[inside]
    try:
        flux[:, inside] = broaden_constant_resolution(
            wave, source.flux[:, keep], resolution, source_resolution=r, at=at
        )
    except UsageError as error:
        msg = f"{file}: {error}"
        raise UsageError(msg) from error
    attributes = {key: value for key, value in source.attributes.items() if key != "R"}
    return replace(source, wavelength=wavelength, flux=flux, resolution=resolution, attributes=attributes)


def _refuse_repeats(labels: NDArray[np.float64], names: Sequence[str]) -> None:
    owners = defaultdict(list)
    for name, row in zip(names, labels.round(3) + 0.0, strict=True):
        owners[tuple(row.tolist())].append(name)
    if repeated := {key: which for key, which in owners.items() if len(which) > 1}:
        first = "; ".join(f"{key}: {', '.join(which)}" for key, which in list(repeated.items())[:SEVERAL])
        msg = f"{len(repeated)} sets of labels have more than one spectrum, keep one of each: {first}"
        raise UsageError(msg)


def _plain(value: Any) -> Any:
    """Attributes of HDF5 as Python's own types."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, np.ndarray):
        return [_plain(item) for item in value.tolist()]
    return value.item() if isinstance(value, np.generic) else value
