"""Print the extinction of M dwarfs in each passband over A_V: python docs/make_extinction_coefficients.py.

It takes dustapprox and dust_extinction (pip install dustapprox dust_extinction), which stargap itself does without:
the four numbers stand in src/stargap/photometry/extinction.py. Gaia's bands are those of the Gaia team's own fits for
the main sequence (Riello et al. 2021; Fitzpatrick et al. 2019's law with Kurucz atmospheres down to 3500 K, at
A0 = 0.3 mag, where A0 is A_V within 1 %). Their Ks (0.19) is far above every other law, so Ks is the mean of Gordon et
al. (2023) and Fitzpatrick (1999) at 2.159 microns, R_V = 3.1.
"""

from __future__ import annotations

import argparse

import astropy.units as u


def main() -> None:
    """Print the coefficients at 3500 K, and how they change to 4000 K."""
    argparse.ArgumentParser(description=__doc__).parse_args()

    from dust_extinction.parameter_averages import F99, G23
    from dustapprox.literature.edr3 import edr3_ext

    gaia = edr3_ext()
    for name in ("G", "BP", "RP"):
        cool, hot = (float(gaia.from_teff(f"k{name}", teff, 0.3, flavor="ms")[0]) for teff in (3500.0, 4000.0))
        print(f"{name}: {cool:.3f} at 3500 K, {hot:.3f} at 4000 K")
    laws = [float(law(Rv=3.1)(2.159 * u.micron)) for law in (G23, F99)]
    print(f"Ks: {sum(laws) / 2:.3f} ({laws[0]:.3f} and {laws[1]:.3f})")


if __name__ == "__main__":
    main()
