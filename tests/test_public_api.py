"""What ``import stargap`` offers: a few names, at no cost until they are used, and help that says everything."""

from __future__ import annotations

import inspect
import pydoc
import subprocess
import sys

import pytest

import stargap


def test_the_public_names_and_no_others_are_listed():
    assert dir(stargap) == sorted(stargap.__all__)
    for name in stargap.__all__:
        assert getattr(stargap, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'measures'"):
        _ = stargap.measures


def test_measure_is_a_plain_function_whose_help_is_complete():
    assert inspect.isfunction(stargap.measure)
    assert {"wavelength", "ivar", "settings", "model", "workers"} <= set(inspect.signature(stargap.measure).parameters)
    text = pydoc.render_doc(stargap.measure)
    for word in ("A unless it has a unit", "(star, pixel)", "km/s", "UsageError", "ModelError", ">>> import stargap"):
        assert word in text


def test_importing_the_package_and_printing_help_load_no_numerical_library():
    program = (
        "import sys, stargap; dir(stargap)\n"
        "from stargap.cli.main import main\n"
        "try: main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([name for name in ('torch', 'numpy', 'astropy', 'matplotlib', 'pydantic') if name in sys.modules])"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.splitlines()[-1] == "[]"


def test_reading_and_comparing_tables_loads_no_torch():
    program = (
        "import sys\n"
        "import stargap.tables.show, stargap.tables.validate, stargap.catalogue.publish, stargap.validation.compare\n"
        "import stargap.validation.binaries, stargap.photometry.tables\n"
        "print('torch' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert result.stdout.strip() == "False"
