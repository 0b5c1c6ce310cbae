"""Spectra as they were fitted, beside their models: arrays of a few stars, and files that other tools read."""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from enum import IntFlag
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stargap.errors import UsageError
from stargap.files import replacing
from stargap.tables.fits import ascii_text
from stargap.tables.parquet import parquet_writer
from stargap.tables.write import check_folder

__all__ = ["SUFFIXES", "ModelledSpectra", "Masked", "check_spectra_output", "write_spectra"]

SUFFIXES = (".fits", ".parquet")
_BLOCK = 2880
"""Bytes of a FITS block: those of a primary header without data, too."""
_ABOUT: Mapping[str, tuple[str, str, str]] = {
    "wavelength": ("Angstrom", "em.wl", "rest-frame wavelength in vacuum"),
    "flux": ("", "phot.flux.density;em.wl", "flux as observed, in the unit of the file it was read from"),
    "error": ("", "stat.error;phot.flux.density;em.wl", "1-sigma error of flux, NaN where no pixel is good"),
    "continuum": ("", "phot.flux.density;spect.continuum", "pseudo-continuum of flux"),
    "model": ("", "phot.flux.density;meta.modelled", "fitted model in the unit of flux, NaN where there is none"),
    "residual": ("", "stat.fit.residual", "flux - model, NaN where the fit did not look"),
    "mask": ("", "meta.code.qual", "0 where the fit looked; bits: 1 no good pixel, 2 left out of fits, 4 no continuum"),
}
_UTYPES = {
    "wavelength": "spec:Data.SpectralAxis.Value",
    "flux": "spec:Data.FluxAxis.Value",
    "error": "spec:Data.FluxAxis.Accuracy.StatError",
}


class Masked(IntFlag):
    """Why the fit did not look at a pixel."""

    BAD = 1
    """No good pixel of the observed spectrum there."""
    WINDOW = 2
    """One of the windows that fits leave out: tellurics, H-alpha, Li I."""
    NO_CONTINUUM = 4
    """Too few good pixels about it for a pseudo-continuum, or one that is not positive."""


@dataclass(frozen=True, eq=False)
class ModelledSpectra:
    """Spectra in the rest frame on the grid of the fits, with their models.

    ``spectrum_id`` is int64 ``(star,)``, ``name`` text ``(star,)``, ``wavelength`` float64 ``(pixel,)`` in A, vacuum.
    ``flux, error, continuum, model`` are float32 ``(star, pixel)``, flux in the unit that the file or the arrays had,
    and ``mask`` is uint8 ``(star, pixel)``, bits of `Masked`, 0 where the fit looked. ``flux / continuum`` is what was
    fitted, ``model / continuum`` the normalised model.

    Example:
        >>> import stargap
        >>> wave = 10.0 ** (1e-4 * np.arange(37600, 39590))
        >>> flux = 1 + 0.1 * np.sin(wave / 50)
        >>> table = stargap.measure(flux, wavelength=wave, ivar=0 * wave + 400, model="emulator", spectra=True)
        >>> spectra = table.spectra
        >>> len(spectra), spectra.flux.shape, spectra.wavelength[[0, -1]]
        (1, (1, 2901), array([6000., 8900.]))
    """

    spectrum_id: NDArray[np.int64]
    name: NDArray[np.str_]
    wavelength: NDArray[np.float64]
    flux: NDArray[np.float32]
    error: NDArray[np.float32]
    continuum: NDArray[np.float32]
    model: NDArray[np.float32]
    mask: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.spectrum_id)

    def __deepcopy__(self, memo: object) -> ModelledSpectra:
        """Copies of a table share its spectra, which nobody changes."""
        return self

    @property
    def residual(self) -> NDArray[np.float32]:
        """``flux - model``, NaN where the fit did not look, ``(star, pixel)``."""
        return np.where(self.mask == 0, self.flux - self.model, np.float32(np.nan))

    def of(self, spectrum_id: int) -> ModelledSpectra:
        """Return the spectrum of one row of the table.

        Raises:
            UsageError: it is not among these.
        """
        rows = np.flatnonzero(self.spectrum_id == spectrum_id)[:1]
        if not rows.size:
            message = f"no spectrum {spectrum_id} among these {len(self)}"
            raise UsageError(message)
        return self[int(rows[0]) : int(rows[0]) + 1]

    def __getitem__(self, rows: slice | NDArray[np.int64]) -> ModelledSpectra:
        parts = {f.name: getattr(self, f.name) for f in fields(self)}
        return ModelledSpectra(**{name: part if name == "wavelength" else part[rows] for name, part in parts.items()})

    @classmethod
    def together(cls, parts: Iterable[ModelledSpectra]) -> ModelledSpectra:
        """Return the spectra of several parts, at least one, in their order."""
        some = list(parts)
        joined = {f.name: np.concatenate([getattr(part, f.name) for part in some]) for f in fields(cls)}
        return cls(**joined | {"wavelength": some[0].wavelength})

    def write(self, path: str | Path) -> None:
        """Write a file as `write_spectra` does."""
        write_spectra([self], path)


def check_spectra_output(path: str | Path) -> Path:
    """Refuse a file for spectra that cannot be written, before any work is done.

    Raises:
        UsageError: another suffix, no such folder, or no permission.
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        message = f"cannot write spectra to {path.name!r}: its name must end in {' or '.join(SUFFIXES)}"
        raise UsageError(message)
    check_folder(path)
    return path


def write_spectra(
    parts: Iterable[ModelledSpectra], path: str | Path, *, provenance: Mapping[str, str] | None = None
) -> int:
    """Write spectra and models, in the memory of one part, and return how many.

    ``.fits``: one binary table per star, a row per pixel, with the columns wavelength, flux, error, continuum, model,
    residual and mask, as the IVOA's spectrum data model has them: TOPCAT and SPLAT open it, and specutils with
    ``Spectrum.read(path, hdu=1, format="tabular-fits")``. ``.parquet``: one row per star, each of these a list.

    Args:
        parts: spectra in the order of the file.
        path: file to write; a file of that name is replaced.
        provenance: names and texts that the file keeps.

    Raises:
        UsageError: as `check_spectra_output`.
    """
    path = check_spectra_output(path)
    kept = dict(provenance or {})
    with replacing(path) as file:
        return (_write_fits if path.suffix.lower() == ".fits" else _write_parquet)(parts, kept, file)


def _pixels(spectra: ModelledSpectra, row: int) -> dict[str, NDArray[Any]]:
    """Return the columns of one star's table, ``(pixel,)``."""
    star = {name: getattr(spectra, name)[row] for name in _ABOUT if name not in ("wavelength", "residual")}
    star |= {
        "wavelength": spectra.wavelength,
        "residual": np.where(star["mask"] == 0, star["flux"] - star["model"], np.nan),
    }
    return {name: star[name] for name in _ABOUT}


def _write_fits(parts: Iterable[ModelledSpectra], provenance: Mapping[str, str], file: Any) -> int:
    from astropy.io import fits

    primary = fits.PrimaryHDU()
    for name, text in provenance.items():
        primary.header.add_history(ascii_text(f"{name} = {text}"))
    file.write(_bytes([primary]))
    count = 0
    for part in parts:
        for row in range(len(part)):
            file.write(_bytes([fits.PrimaryHDU(), _star_table(part, row)])[_BLOCK:])
            count += 1
    return count


def _star_table(part: ModelledSpectra, row: int) -> Any:
    from astropy.io import fits

    kinds = {"wavelength": "D", "mask": "B"}
    star = _pixels(part, row)
    columns = [
        fits.Column(name, kinds.get(name, "E"), unit=_ABOUT[name][0] or None, array=array)
        for name, array in star.items()
    ]
    number = int(part.spectrum_id[row])
    table = fits.BinTableHDU.from_columns(columns, name=f"SPECTRUM_{number}")
    table.header["SPECID"] = (number, "spectrum_id of the table of labels")
    table.header["OBJECT"] = ascii_text(str(part.name[row]))[:60]
    table.header["VOCLASS"] = ("Spectrum V1.2", "IVOA data model")
    for place, name in enumerate(star, start=1):
        table.header[f"TUCD{place}"] = _ABOUT[name][1]
        table.header[f"TCOMM{place}"] = _ABOUT[name][2]
        if name in _UTYPES:
            table.header[f"TUTYP{place}"] = _UTYPES[name]
    table.add_checksum(when="")
    return table


def _bytes(units: list[Any]) -> bytes:
    from astropy.io import fits

    content = io.BytesIO()
    fits.HDUList(units).writeto(content)
    return content.getvalue()


def _write_parquet(parts: Iterable[ModelledSpectra], provenance: Mapping[str, str], file: Any) -> int:
    import pyarrow as pa

    number = [pa.field("spectrum_id", pa.int64()), pa.field("name", pa.string())]
    kinds = {"wavelength": pa.float64(), "mask": pa.uint8()}
    for name, (unit, ucd, text) in _ABOUT.items():
        about = {key: value for key, value in (("unit", unit), ("ucd", ucd), ("description", text)) if value}
        number.append(pa.field(name, pa.list_(kinds.get(name, pa.float32())), metadata=about))
    schema = pa.schema(number, metadata=dict(provenance))
    count = 0
    with parquet_writer(file, schema) as writer:
        for part in parts:
            stars = [_pixels(part, row) for row in range(len(part))]
            columns = [pa.array(part.spectrum_id), pa.array(part.name.astype(object), pa.string())]
            columns += [pa.array([star[name] for star in stars], schema.field(name).type) for name in _ABOUT]
            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
            count += len(part)
    return count
