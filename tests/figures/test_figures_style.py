"""Figures look the same whatever the user's matplotlib settings say, and leave these as they were."""

import os
import subprocess
import sys

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot

from stargap.figures.style import png
from stargap.figures.survey import snr_figure

SNR = np.geomspace(3, 90, 200)
HOSTILE = {
    "text.usetex": True,
    "savefig.dpi": 17,
    "savefig.facecolor": "black",
    "axes.prop_cycle": matplotlib.cycler(color=["red"]),
    "font.family": ["no such font"],
    "figure.constrained_layout.use": False,
    "lines.linewidth": 30,
}


def picture():
    return png(snr_figure(SNR, SNR, title="a_b & $c"), dpi=40)


def test_settings_of_the_user_do_not_reach_a_figure():
    plain = picture()
    with matplotlib.rc_context(HOSTILE):
        assert picture() == plain
        assert all(matplotlib.rcParams[name] == value for name, value in HOSTILE.items())
    assert pyplot.get_fignums() == [], "pyplot does not know of our figures"


@pytest.mark.parametrize("backend", ["module://matplotlib_inline.backend_inline", "TkAgg"])
def test_a_backend_that_is_not_there_costs_no_picture(backend, tmp_path):
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nlines.linewidth: 30\nnonsense\n")
    code = """
import os
from stargap.figures.recovery import recovery_figure
from stargap.figures.style import png
import numpy as np
none = {f"{mark}{name}": np.empty(0) for name in ("rv", "teff", "logg", "m_h") for mark in ("", "e_")}
png(recovery_figure(none, np.empty((0, 4)), np.empty(0), np.empty(0)), dpi=20)
import matplotlib
print(os.environ["MPLBACKEND"], matplotlib.rcParams["text.usetex"])
"""
    environment = {**os.environ, "MPLBACKEND": backend, "MPLCONFIGDIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split("\n")[0] == f"{backend} True"
