"""What LAMOST's headers say of a spectrum, in every release."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from stargap.spectra.readers.cards import card, fact_angle, fact_int, fact_number, fact_text
from stargap.spectra.readers.plain import Header
from stargap.spectra.spectrum import Facts

__all__ = ["lamost_facts"]


def lamost_facts(header: Header, path: str | Path, layout: str) -> Facts:
    """Return the facts of a low-resolution file from its primary header.

    S/N comes from the cards SNRU .. SNRZ, or SN_U .. SN_Z of DR1 (which stop at 99); a band that is missing (-9999) is
    None. Sentinels (-9999, -999, blank, NULL, NaN), coordinates off the sphere and a negative OBSID are None.

    Args:
        header: of HDU 0.
        path: of the file.
        layout: see `Facts`.
    """
    value = partial(card, header)
    prefix = next((p for p in ("SNR", "SN_") if any(p + band in header for band in "UGRIZ")), None)
    cards = {f"snr_{band.lower()}": f"{prefix}{band}" for band in "UGRIZ"} if prefix else {}
    snr: dict[str, Any] = {name: fact_number(value(key)) for name, key in cards.items()}
    designation = fact_text(value("DESIG"))
    return Facts(
        path=str(path),
        layout=layout,
        release=fact_text(value("DATA_V")),
        obsid=fact_int(value("OBSID"), least=0),
        designation=designation and designation.removeprefix("LAMOST ").strip(),
        ra=fact_angle(value("RA"), 0, 360),
        dec=fact_angle(value("DEC"), -90, 90),
        snr_source="header" if prefix else None,
        subclass=fact_text(value("SUBCLASS")),
        object_class=fact_text(value("CLASS")),
        plan_id=fact_text(value("PLANID")),
        lmjd=fact_int(value("LMJD")),
        spectrograph=fact_int(value("SPID")),
        fiber=fact_int(value("FIBERID")),
        date_obs=fact_text(value("DATE-OBS")),
        exposure=fact_number(value("EXPTIME")),
        fiber_mask=fact_int(value("FIBERMAS" if "FIBERMAS" in header else "FIB_MASK"), least=0),
        pipeline_z=fact_number(value("Z")),
        helio_rv=fact_number(value("HELIO_RV")),
        **snr,
    )
