"""What headers of a simulated survey's files say: when, where and under what name, and what its pipeline found."""

from __future__ import annotations

from dataclasses import replace
from datetime import date, timedelta
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stargap.labels import TEFF
from stargap.mock.instrument import CHUNK
from stargap.mock.spectrographs import Instrument
from stargap.mock.targets import MOST_EXPOSURES
from stargap.pixels import SPEED_OF_LIGHT
from stargap.spectra.spectrum import Facts

__all__ = ["SUBTYPES", "described", "observed_as"]

Columns = dict[str, Any]

SUBTYPES = ([2800.0, 3050.0, 3200.0, 3400.0, 3550.0, 3680.0, 3850.0], [6, 5, 4, 3, 2, 1, 0])
FIRST_DESI, FIRST_SDSS = 39_627_640_000_000_000, 54_000_000
"""Identifiers of the first star: DESI's TARGETID and SDSS-V's sdss_id."""
FIRST_TILE = 80_000


def observed_as(instrument: Instrument, chunk: int, star: int, exposure: int, spectrograph: int, fibre: int) -> Facts:
    """Return under what name a star was observed; each chunk has a plate, or tile, of its own each night.

    ``path`` is that of the file in the survey's folders.

    Args:
        instrument: that observed it.
        chunk: number of the stars simulated together.
        star: its number in the survey.
        exposure: from 0.
        spectrograph: LAMOST's, from 1.
        fibre: from 1.

    Example:
        >>> for name in ("lamost", "desi", "sdss-v"):
        ...     print(observed_as(name, 0, 7, 0, 3, 12).path)
        20120314/SIM00000V1/spec-56000-SIM00000V1_sp03-012.fits.gz
        080001/20210515/coadd-0-80001-thru20210515.fits
        00000/mwmVisit-0.6.0-54000007.fits
    """
    plate = 1 + chunk * MOST_EXPOSURES + exposure
    lmjd = (56000 if instrument == "lamost" else 59349) + (37 * chunk + 211 * exposure) % 3600
    day = date(1858, 11, 17) + timedelta(days=lmjd)
    if instrument == "desi":
        tile, target = FIRST_TILE + plate, FIRST_DESI + star
        return Facts(
            path=f"{tile:06d}/{day:%Y%m%d}/coadd-0-{tile}-thru{day:%Y%m%d}.fits",
            layout="desi",
            target_id=target,
            designation=f"DESI {target}",
            plan_id=str(tile),
            lmjd=lmjd,
            fiber=star % CHUNK,
            exposure=1000.0,
        )
    if instrument == "sdss-v":
        target = FIRST_SDSS + star
        return Facts(
            path=f"{star // 1000:05d}/mwmVisit-0.6.0-{target}.fits",
            layout="sdss-mwm",
            release="v6_1_3",
            target_id=target,
            designation=f"SDSS_ID {target}",
            plan_id=str(100_000 + plate),
            lmjd=lmjd,
            exposure=3600.0,
        )
    plan = f"SIM{chunk:05d}V{exposure + 1}"
    layout, release = (("lamost-image", "LAMOST DR7"), ("lamost-table", "LAMOST DR10"))[plate % 2]
    return Facts(
        path=f"{day:%Y%m%d}/{plan}/spec-{lmjd}-{plan}_sp{spectrograph:02d}-{fibre:03d}.fits.gz",
        layout=layout,
        release=release,
        obsid=plate * 100_000 + spectrograph * 1000 + fibre,
        snr_source="header",
        object_class="STAR",
        plan_id=plan,
        lmjd=lmjd,
        spectrograph=spectrograph,
        fiber=fibre,
        date_obs=f"{day}T14:00:00",
        exposure=5400.0,
        helio_rv=0.0,
    )


def described(facts: Facts, target: Columns, row: int, unit: NDArray[np.float64], *, masked: bool) -> Facts:
    """Return facts with the position, and the subclass and redshift of LAMOST's pipeline with their errors.

    Positions of LAMOST are of the night and 0.1 arcsec off, those of the others Gaia's at 2016.0.

    Args:
        facts: as `observed_as` gives them.
        target: as `stargap.mock.targets` draws them.
        row: of the target.
        unit: normal numbers ``(3,)``.
        masked: whether the fibre is.
    """
    if not facts.layout.startswith("lamost"):
        ra, dec = _moved(target, row, 0.0, np.zeros(2))
        return replace(facts, ra=ra, dec=dec)
    ra, dec = _moved(target, row, ((facts.lmjd or 0) - 57388.5) / 365.25, unit[:2] * 0.1)
    redshift = target["rv"][row] / SPEED_OF_LIGHT + 2e-5 * unit[2]
    return replace(
        facts,
        designation=_designation(ra, dec),
        ra=ra,
        dec=dec,
        subclass=f"dM{round(float(np.interp(target['labels'][row, TEFF], *SUBTYPES)))}",
        fiber_mask=int(masked),
        pipeline_z=round(float(redshift), 8) if target["z_known"][row] else None,
    )


def _moved(target: Columns, row: int, years: float, offset: NDArray[np.float64]) -> tuple[float, float]:
    """Position (deg) `years` after 2016.0, with an error of `offset` (arcsec)."""
    along, up = (
        target[name][row] * years / 1000.0 + shift for name, shift in zip(("pmra", "pmdec"), offset, strict=True)
    )
    dec = float(target["dec"][row])
    ra = (float(target["ra"][row]) + along / 3600.0 / np.cos(np.radians(dec))) % 360.0
    return round(float(ra), 7), round(float(dec + up / 3600.0), 7)


def _designation(ra: float, dec: float) -> str:
    hours, degrees = ra / 15.0, abs(dec)

    def parts(value: float, digits: int) -> str:
        whole = int(value * 3600 * 10**digits)
        seconds, fraction = divmod(whole, 10**digits)
        return f"{seconds // 3600:02d}{seconds // 60 % 60:02d}{seconds % 60:02d}.{fraction:0{digits}d}"

    return f"J{parts(hours, 2)}{'-' if dec < 0 else '+'}{parts(degrees, 1)}"
