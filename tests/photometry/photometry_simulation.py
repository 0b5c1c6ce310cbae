"""Stars made of the shipped relations, with every error that the likelihood knows of."""

import numpy as np

from stargap.photometry.extinction import COEFFICIENTS
from stargap.photometry.likelihood import Population
from stargap.photometry.surface import MASS_RATIOS, intrinsic_covariance, magnitude_table


def simulate(stars, *, seed=0, population=None, distance=(20, 300), ks=True):
    """Return a table, true labels (star, 3) and the component of each star."""
    rng = np.random.default_rng(seed)
    population = population or Population()
    teff = rng.uniform(2900, 3900, stars)
    m_h = np.clip(rng.normal(population.m_h_mean, population.m_h_width, stars), -0.55, 0.55)
    pair = rng.random(stars) < population.binary_fraction
    component = np.where(pair, rng.integers(1, len(MASS_RATIOS) + 1, stars), 0)
    values, _ = magnitude_table()(teff, m_h, component)
    labels = np.stack([teff, values[:, 4], m_h], axis=1)
    labels += rng.multivariate_normal(np.zeros(3), population.scatter(), stars)

    parsecs = rng.uniform(*distance, stars)
    e_parallax = rng.uniform(0.02, 0.2, stars)
    a_v = np.where(parsecs > 70, rng.uniform(0, 0.3, stars), 0.0)
    errors = np.array([0.003, 0.005, 0.005, np.hypot(0.025, 0.01)])
    magnitudes = values[:, :4] + rng.multivariate_normal(np.zeros(4), intrinsic_covariance(), stars)
    magnitudes += 5 * np.log10(parsecs / 10)[:, None] + a_v[:, None] * COEFFICIENTS
    magnitudes += rng.normal(size=magnitudes.shape) * errors
    seen = pair & (rng.random(stars) < 0.5)
    table = {f"{band}_mag": magnitudes[:, place] for place, band in enumerate(("g", "bp", "rp", "ks"))}
    table |= {f"e_{band}_mag": np.zeros(stars) for band in ("g", "bp", "rp")}
    table |= {
        "e_ks_mag": np.full(stars, 0.025),
        "parallax": 1000 / parsecs + rng.normal(size=stars) * e_parallax - 0.03,
        "e_parallax": e_parallax,
        "ruwe": np.where(seen, rng.uniform(1.6, 8, stars), np.exp(rng.normal(0.03, 0.08, stars))),
        "a_v": a_v + rng.normal(size=stars) * 0.05,
        "e_a_v": np.full(stars, 0.05),
    }
    if not ks:
        del table["ks_mag"], table["e_ks_mag"]
    return table, labels, component
