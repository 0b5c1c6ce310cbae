"""The barycentric correction from time, site and position in a header: apart, for astropy's coordinates load slowly."""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable

from astropy import units as u
from astropy.coordinates import Angle, EarthLocation, SkyCoord
from astropy.time import Time
from astropy.utils import iers

from stargap.spectra.readers.cards import card, fact_number, fact_text
from stargap.spectra.readers.plain import Header

__all__ = ["barycentric_velocity"]

SITES = {
    "APO": (-105.8203, 32.7803, 2788), "APACHE POINT": (-105.8203, 32.7803, 2788), "LCO": (-70.6919, -29.0146, 2380),
    "LAS CAMPANAS": (-70.6919, -29.0146, 2380), "MAGELLAN": (-70.6919, -29.0146, 2380),
    "KPNO": (-111.6, 31.9633, 2120), "KITT PEAK": (-111.6, 31.9633, 2120), "CTIO": (-70.815, -30.1653, 2215),
    "CERRO TOLOLO": (-70.815, -30.1653, 2215), "LICK": (-121.6429, 37.3414, 1290), "SHANE": (-121.6429, 37.3414, 1290),
    "PALOMAR": (-116.8633, 33.3567, 1706), "LA PALMA": (-17.8792, 28.7583, 2327), "ORM": (-17.8792, 28.7583, 2327),
    "INT": (-17.8792, 28.7583, 2327), "WHT": (-17.8792, 28.7583, 2327), "KECK": (-155.4747, 19.8260, 4160),
    "MAUNA KEA": (-155.4747, 19.8260, 4160), "PARANAL": (-70.4042, -24.6272, 2635), "VLT": (-70.4042, -24.6272, 2635),
    "ESO-VLT": (-70.4042, -24.6272, 2635), "LA SILLA": (-70.7345, -29.2567, 2400), "MMT": (-110.885, 31.6883, 2600),
    "FLWO": (-110.885, 31.6883, 2600), "LBT": (-109.889, 32.7013, 3221), "MCDONALD": (-104.0216, 30.6715, 2075),
    "CALAR ALTO": (-2.5468, 37.2236, 2168), "CAHA": (-2.5468, 37.2236, 2168), "SAAO": (20.8107, -32.3794, 1798),
    "SIDING SPRING": (149.0661, -31.2754, 1149), "SSO": (149.0661, -31.2754, 1149),
    "XINGLONG": (117.5755, 40.3934, 950), "LAMOST": (117.5755, 40.3934, 950), "GEMINI-NORTH": (-155.469, 19.8238, 4213),
    "GEMINI-SOUTH": (-70.7367, -30.2407, 2722), "SOAR": (-70.7337, -30.2380, 2713), "NOT": (-17.885, 28.7572, 2382),
    "ASIAGO": (11.5686, 45.8486, 1366), "OHP": (5.7122, 43.9317, 665), "CFHT": (-155.4694, 19.8253, 4204),
}  # fmt: skip
"""East longitude (deg), latitude (deg) and height (m) of observatories, by words that headers name them with."""


def barycentric_velocity(headers: Iterable[Header]) -> float | None:
    """Return the velocity of the observer towards the star (km/s), which is added to a measured one.

    Time is the middle of the exposure, from DATE-OBS (with its time), MJD-OBS or JD, and EXPTIME; the site is
    OBSGEO-X, -Y and -Z, SITELONG and SITELAT, or one of `SITES` that OBSERVAT, SITENAME or TELESCOP names; the position
    is RA and DEC, in degrees, or in hours and degrees with colons.

    Returns:
        None where one of the three is missing.

    Example:
        >>> from astropy.io import fits
        >>> header = fits.Header({"MJD-OBS": 58849.2, "RA": 150.0, "DEC": 20.0, "OBSERVAT": "KPNO"})
        >>> round(barycentric_velocity([header]), 1)
        21.7
    """
    found = [_pieces(header) for header in headers]
    time, site, star = (next((piece[k] for piece in found if piece[k] is not None), None) for k in range(3))
    if time is None or site is None or star is None:
        return None
    with warnings.catch_warnings(), iers.conf.set_temp("auto_download", False):
        warnings.simplefilter("ignore")
        with iers.conf.set_temp("iers_degraded_accuracy", "ignore"):
            velocity = star.radial_velocity_correction("barycentric", obstime=time, location=site).to_value(u.km / u.s)
    return float(velocity)


def _pieces(header: Header) -> tuple[Time | None, EarthLocation | None, SkyCoord | None]:
    return _time(header), _site(header), _star(header)


def _time(header: Header) -> Time | None:
    start = None
    text = fact_text(card(header, "DATE-OBS"))
    for key, kind in (("MJD-OBS", "mjd"), ("MJD", "mjd"), ("JD", "jd")):
        value = fact_number(card(header, key))
        if start is None and value is not None and value % 1:
            start = Time(value, format=kind, scale="utc")
    if start is None and text is not None:
        clock = fact_text(card(header, "TIME-OBS")) or fact_text(card(header, "UT"))
        stamp = text if "T" in text else f"{text}T{clock}" if clock else None
        try:
            start = None if stamp is None else Time(stamp, format="isot", scale="utc")
        except ValueError:
            return None
    exposure = fact_number(card(header, "EXPTIME")) or 0.0
    return None if start is None else start + exposure / 2 * u.s


def _site(header: Header) -> EarthLocation | None:
    geo = [fact_number(card(header, f"OBSGEO-{axis}")) for axis in "XYZ"]
    if None not in geo:
        return EarthLocation.from_geocentric(*geo, unit=u.m)
    longitude = fact_number(card(header, "SITELONG"))
    latitude = fact_number(card(header, "SITELAT"))
    if longitude is not None and latitude is not None:
        return EarthLocation.from_geodetic(longitude, latitude, fact_number(card(header, "SITEELEV")) or 0.0)
    for key in ("OBSERVAT", "SITENAME", "TELESCOP"):
        text = str(card(header, key) or "").upper()
        for name, place in SITES.items():
            if text and (name == text or name in text.replace("_", " ").split() or (len(name) > 4 and name in text)):
                return EarthLocation.from_geodetic(*place)
    return None


def _star(header: Header) -> SkyCoord | None:
    ra, dec = (card(header, key) for key in ("RA", "DEC"))
    if ra is None or dec is None:
        return None
    try:
        unit = u.hourangle if isinstance(ra, str) and ":" in ra else u.deg
        angles = Angle(ra, unit), Angle(dec, u.deg)
    except (ValueError, TypeError, u.UnitsError):
        return None
    inside = all(math.isfinite(angle.deg) for angle in angles) and abs(angles[1].deg) <= 90
    return SkyCoord(*angles) if inside else None
