"""Spectra that are not usable M dwarfs: other sources, and observations that went wrong."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np
from numpy.typing import NDArray

from stargap.mock.instrument import planck
from stargap.pixels import SPEED_OF_LIGHT

__all__ = ["JUNK", "SOURCES", "make_junk"]

Array = NDArray[np.float64]
"""float64 ``(pixel,)``."""

LEVEL = (7450.0, 7550.0)
"""Wavelengths (A) at which a source is as bright as the dwarf that it replaces."""
SMOOTHING = 150
"""Pixels of the running mean that takes the shape of a dwarf's spectrum off its noise."""
ANGSTROM_PER_KMS = 1.0 / SPEED_OF_LIGHT
"""Width (A) per A of wavelength that a velocity dispersion of 1 km/s gives to a line."""

COOL_LINES: Final = (
    (4862.7, 1.2), (5168.8, 2.0), (5174.1, 2.4), (5185.0, 2.8), (5270.9, 2.2), (5329.5, 1.6), (5407.3, 1.2),
    (5891.6, 2.2), (5897.6, 1.8), (6104.4, 0.25), (6123.9, 0.35), (6138.3, 0.30), (6163.9, 0.40), (6193.3, 0.25),
    (6231.0, 0.25), (6254.3, 0.20), (6302.7, 0.20), (6337.1, 0.20), (6360.0, 0.25), (6394.0, 0.25), (6401.8, 0.25),
    (6440.9, 0.35), (6464.4, 0.40), (6495.6, 0.75), (6564.6, 1.10), (6594.7, 0.20), (6644.9, 0.10), (6679.8, 0.20),
    (6719.5, 0.15), (7124.1, 0.10), (7328.2, 0.20), (7391.4, 0.10), (7414.0, 0.12), (7447.8, 0.12), (7513.1, 0.20),
    (7588.3, 0.12), (7701.1, 0.40), (7750.4, 0.15), (7782.7, 0.15), (7835.0, 0.12), (7939.3, 0.12), (7948.0, 0.15),
    (8050.0, 0.15), (8087.0, 0.12), (8196.9, 0.40), (8329.3, 0.35), (8389.5, 0.40), (8437.0, 0.25), (8470.7, 0.30),
    (8500.4, 1.30), (8516.4, 0.45), (8544.4, 3.10), (8584.6, 0.20), (8613.8, 0.20), (8664.5, 2.60), (8677.1, 0.25),
    (8691.0, 0.50), (8738.6, 0.25), (8759.7, 0.20), (8809.2, 0.55), (8826.6, 0.50), (8840.8, 0.20),
)  # fmt: skip
"""Vacuum wavelengths and equivalent widths (A) of lines of a K2 dwarf: Ca II, Mg I, Na I, K I, H-alpha, Fe I, Ca I."""
TITANIUM_OXIDE: Final = ((6160.0, 0.5), (6652.0, 0.5), (7055.0, 1.0), (7590.0, 0.6), (8434.0, 0.4), (8862.0, 0.4))
"""Heads of bands (A) and their relative strengths; they degrade to the red."""
LAMP_LINES: Final = (
    (6031.7, 3), (6076.0, 4), (6098.0, 5), (6145.0, 7), (6165.3, 5), (6219.0, 6), (6268.2, 5), (6306.5, 5),
    (6336.2, 6), (6384.8, 7), (6404.0, 10), (6508.3, 8), (6534.7, 6), (6600.8, 5), (6680.1, 7), (6718.9, 4),
    (6931.4, 5), (6967.4, 7), (7034.4, 8), (7069.2, 5), (7149.0, 3), (7247.2, 4), (7274.9, 5), (7386.0, 7),
    (7440.9, 3), (7505.9, 8), (7516.7, 6), (7637.2, 10), (7726.3, 6), (7950.4, 6), (8008.4, 4), (8106.0, 8),
    (8117.5, 9), (8266.8, 4), (8302.6, 3), (8379.9, 4), (8410.5, 5), (8426.9, 7), (8497.7, 3), (8523.8, 5),
    (8593.6, 3), (8656.7, 3), (8670.3, 3), (8783.8, 3), (8856.3, 2),
)  # fmt: skip
"""Vacuum wavelengths (A) and relative strengths of neon and argon."""
NIGHT_SKY: Final = (
    5891.6, 6302.0, 6365.5, 6500.5, 6534.8, 6555.4, 6836.1, 6865.8, 6902.7, 6925.1, 6950.8, 7278.3, 7318.3, 7331.3,
    7342.9, 7360.7, 7371.3, 7394.2, 7403.7, 7526.0, 7573.9, 7717.7, 7726.7, 7752.8, 7762.9, 7782.3, 7796.1, 7810.3,
    7823.3, 7843.4, 7851.9, 7855.5, 7872.2, 7892.9, 7915.9, 7923.1, 7951.6, 7966.9, 7995.7, 8016.4, 8028.0, 8064.3,
    8105.5, 8290.8, 8301.1, 8313.0, 8346.9, 8355.1, 8367.1, 8384.6, 8401.5, 8417.2, 8432.4, 8454.7, 8467.7, 8495.5,
    8507.0, 8541.0, 8551.1, 8591.2, 8657.8, 8763.0, 8769.8, 8780.5, 8793.2, 8812.5, 8829.6, 8838.8, 8852.1, 8870.2,
    8888.3, 8905.7, 8922.1, 8945.7, 8960.5, 8990.9,
)  # fmt: skip
"""Vacuum wavelengths (A) of Na D, [O I] and OH."""


def _lines(wave: Array, lines: tuple[tuple[float, float], ...], resolution: float, broadening: float = 0.0) -> Array:
    """Sum of Gaussians of the areas given (A), with the width of the fibre and of a velocity dispersion (km/s)."""
    total = np.zeros_like(wave)
    for centre, area in lines:
        sigma = centre * np.hypot(1.0 / (2.3548 * resolution), broadening * ANGSTROM_PER_KMS)
        near = slice(*np.searchsorted(wave, (centre - 6 * sigma, centre + 6 * sigma)))
        total[near] += area / (sigma * np.sqrt(2 * np.pi)) * np.exp(-0.5 * ((wave[near] - centre) / sigma) ** 2)
    return total


def _cool_star(
    wave: Array, teff: float, lines: float, calcium: float, oxide: float, resolution: float, broadening: float = 0.0
) -> Array:
    """Spectrum at rest of a star hotter than M dwarfs: strengths of metal lines, of Ca II, and depth of TiO at 7055 A.

    Every line is an exponential of Gaussians, so that deep lines saturate; a forest of faint ones, the same for all
    stars, stands for the rest.
    """
    forest = np.random.default_rng(31)
    faint = tuple(zip(forest.uniform(4500.0, 9100.0, 700), forest.exponential(0.06, 700), strict=True))
    strong = tuple((w, a * (calcium if 8490 < w < 8670 and a > 1 else lines)) for w, a in COOL_LINES)
    depth = _lines(wave, strong, resolution, broadening) + lines * _lines(wave, faint, resolution, broadening)
    for head, strength in TITANIUM_OXIDE:
        beyond = wave - head
        edge = 1.0 / (1.0 + np.exp(np.clip(-beyond / 4.0, -50.0, 50.0)))
        depth += -np.log1p(-oxide) * strength * edge * np.exp(-beyond.clip(0.0) / 70.0)
    return planck(wave, np.array(teff)) * np.exp(-depth)


def _early_k(rng: np.random.Generator, rest: Array, resolution: float) -> Array:
    teff = rng.uniform(4750.0, 5300.0)
    cool = (5300.0 - teff) / 550.0
    return _cool_star(rest, teff, 0.7 + 0.4 * cool + rng.normal(0, 0.1), rng.uniform(0.9, 1.2), 0.02 * cool, resolution)


def _k_giant(rng: np.random.Generator, rest: Array, resolution: float) -> Array:
    teff = rng.uniform(4000.0, 4800.0)
    cool = (4800.0 - teff) / 800.0
    return _cool_star(rest, teff, 1.0 + 0.4 * cool, rng.uniform(1.3, 1.7), 0.01 + 0.07 * cool**2, resolution)


def _galaxy(rng: np.random.Generator, rest: Array, resolution: float) -> Array:
    broad = rng.uniform(150.0, 250.0)
    stars = _cool_star(rest, 4900.0, 1.0, 1.2, 0.03, resolution, broad)
    stars /= np.interp(6600.0, rest, stars)
    if rng.random() < 0.6:
        halpha = rng.lognormal(np.log(12.0), 0.7)
        ratios = ((4862.7, 0.3), (5008.2, 0.4), (6302.0, 0.05), (6549.9, 0.12), (6564.6, 1.0), (6585.3, 0.37))
        sulphur = ((6718.3, 0.2), (6732.7, 0.17))
        stars += _lines(rest, tuple((w, halpha * r) for w, r in ratios + sulphur), resolution, 0.5 * broad)
    return stars


def _white_dwarf(rng: np.random.Generator, rest: Array, resolution: float) -> Array:
    flux = planck(rest, np.array(rng.uniform(7000.0, 20000.0)))
    if rng.random() < 0.7:
        core, wings = rng.uniform(8.0, 15.0), rng.uniform(40.0, 80.0)
        for line, depth in ((4862.7, 0.4), (6564.6, rng.uniform(0.15, 0.35))):
            flux *= 1 - depth * (
                0.4 * np.exp(-0.5 * ((rest - line) / core) ** 2) + 0.6 / (1 + ((rest - line) / wings) ** 2)
            )
    return flux


def _lamp(rng: np.random.Generator, rest: Array, resolution: float) -> Array:
    height = rng.lognormal(np.log(1.5), 0.5)
    lines = tuple((w, height * h * rng.uniform(0.7, 1.3)) for w, h in LAMP_LINES)
    return 1.0 + _lines(rest, lines, resolution)


def _missing_arm(rng: np.random.Generator, wave: Array, flux: Array, ivar: Array, clean: Array) -> tuple[Array, Array]:
    """The red arm lost, half of it lost, or only noise in it."""
    flux, ivar = flux.copy(), ivar.copy()
    loss = rng.integers(3)
    if loss == 2:
        return flux - np.where(wave > 5900.0, clean, 0.0), ivar
    middle = rng.uniform(7200.0, 7600.0)
    lost = wave > 5900.0 if loss == 0 else ((wave > middle) if rng.random() < 0.5 else (wave > 5900) & (wave < middle))
    flux[lost], ivar[lost] = 0.0, 0.0
    return flux, ivar


def _bad_sky(rng: np.random.Generator, wave: Array, flux: Array, ivar: Array, clean: Array) -> tuple[Array, Array]:
    """Night-sky lines added or over-subtracted, 0.4 to 2 times as high as the star is bright."""
    heights = rng.uniform(0.2, 1.0, len(NIGHT_SKY))
    sky = _lines(wave, tuple(zip(NIGHT_SKY, 5.0 * heights, strict=True)), 1800.0)
    return flux + rng.choice([-1.0, 1.0]) * rng.uniform(0.4, 2.0) * np.median(clean[wave > 5900.0]) * sky, ivar


def _wrong_flux(rng: np.random.Generator, wave: Array, flux: Array, ivar: Array, clean: Array) -> tuple[Array, Array]:
    """Ripples of 30 to 110 A left by the flux calibration, or pieces of the spectrum in the wrong places."""
    if rng.random() < 0.5:
        waves = [np.cos(2 * np.pi * (wave / rng.uniform(30.0, 110.0) + rng.random())) for _ in range(3)]
        factor = np.exp(rng.uniform(0.15, 0.4) * np.sum(waves, axis=0) / np.sqrt(1.5))
        return flux * factor, ivar / factor**2
    red = np.flatnonzero(wave > 5900.0)
    pieces = np.array_split(red, rng.integers(6, 14))
    order = rng.permutation(len(pieces))
    while (order == np.arange(len(pieces))).mean() > 0.3:
        order = rng.permutation(len(pieces))
    moved = np.concatenate([pieces[i] for i in order])
    flux, ivar = flux.copy(), ivar.copy()
    flux[red], ivar[red] = flux[moved], ivar[moved]
    return flux, ivar


SOURCES: Final[dict[str, Callable[[np.random.Generator, Array, float], Array]]] = {
    "galaxy": _galaxy,
    "white_dwarf": _white_dwarf,
    "lamp": _lamp,
    "k_giant": _k_giant,
    "early_k": _early_k,
}
"""Kinds that are another source of light."""
FAULTS: Final[dict[str, Callable[[np.random.Generator, Array, Array, Array, Array], tuple[Array, Array]]]] = {
    "missing_arm": _missing_arm,
    "bad_sky": _bad_sky,
    "wrong_flux": _wrong_flux,
}
JUNK: Final = (*FAULTS, *SOURCES)
"""Kinds of junk; the first three are M dwarfs whose observation went wrong."""


def make_junk(
    kind: str,
    wavelength: Array,
    flux: NDArray[np.float32],
    ivar: NDArray[np.float32],
    clean: NDArray[np.float32],
    *,
    rv: float,
    resolution: float,
    seed: int | list[int],
) -> tuple[Array, Array]:
    """Turn the observation of an M dwarf into junk.

    Faults spoil the dwarf's spectrum. Another source takes the dwarf's place and inherits its noise: what the
    observation added to the dwarf (noise, sky residuals, defects), in proportion to the smooth shapes of the two, so
    that S/N stays what it was. The sources are sketches of their kinds: a galaxy of K stars at its redshift with
    emission lines in 60 %, white dwarfs of 7,000-20,000 K with broad or no Balmer lines, a lamp of neon and argon, K
    giants with strong Ca II and little TiO, K0-K3 dwarfs with less.

    Args:
        kind: one of ``JUNK``.
        wavelength: native pixels (A).
        flux: ``(pixel,)``, as `observe` returns it.
        ivar: ``(pixel,)``, 0 at bad pixels.
        clean: ``(pixel,)``, the dwarf's flux without noise.
        rv: of the source (km/s); of a galaxy, c times its redshift. A lamp has none.
        resolution: of the fibre.
        seed: of the junk's own properties.

    Returns:
        flux and ivar ``(pixel,)``.

    Example:
        >>> wave = np.linspace(5900.0, 9000.0, 1800)
        >>> one = np.ones(1800, dtype=np.float32)
        >>> flux, ivar = make_junk("lamp", wave, one, one, one, rv=0.0, resolution=1800.0, seed=1)
        >>> bool(flux.max() > 5 * np.median(flux)), bool((ivar > 0).all())
        (True, True)
    """
    rng = np.random.default_rng(seed)
    observed, weight, dwarf = (np.asarray(array, dtype=np.float64) for array in (flux, ivar, clean))
    if kind in FAULTS:
        return FAULTS[kind](rng, wavelength, observed, weight, dwarf)
    rest = wavelength / (1.0 if kind == "lamp" else 1.0 + rv / SPEED_OF_LIGHT)
    source = SOURCES[kind](rng, rest, resolution)
    source = source / np.median(source[(wavelength > LEVEL[0]) & (wavelength < LEVEL[1])])
    ratio = _smooth(source) / _smooth(dwarf).clip(0.02)
    return source + ratio * (observed - dwarf), weight / ratio**2


def _smooth(values: Array) -> Array:
    kernel = np.ones(SMOOTHING)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones_like(values), kernel, "same")
