"""The shared vocabulary: flags, pixel grids, labels, errors."""

from __future__ import annotations

import pickle
from dataclasses import FrozenInstanceError, asdict, fields, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stargap.errors import ModelError, SpectrumError, StargapError, UsageError
from stargap.flags import FLAG_COLUMNS, NULL_LABELS, Flag
from stargap.labels import A_M, LABELS, LOGG, M_H, TEFF, UNITS, alpha_relation
from stargap.pixels import (
    LOG_LAMBDA,
    PAPER,
    SPEED_OF_LIGHT,
    STARGAP,
    WINDOWS,
    LogLambdaGrid,
    Window,
    air_to_vacuum,
    grid_for,
)

few = settings(max_examples=60, derandomize=True, deadline=None, database=None)

# ---- flags


def test_every_flag_has_its_own_bit_none_of_the_users_and_its_own_sentence():
    for kind in FLAG_COLUMNS.values():
        members = list(kind.__members__.values())
        assert len({flag.value for flag in members}) == len({flag.sentence for flag in members}) == len(members)
        for flag in kind:
            assert flag.value.bit_count() == 1, flag
            assert flag.value < 1 << 24 or 1 << 32 <= flag.value < 1 << 63, flag
            assert len(flag.sentence.split()) >= 2, flag
            assert flag.sentence == flag.sentence.strip()
            assert ";" not in flag.sentence, "sentences are joined by it"
            assert not flag.sentence.endswith(".")


@few
@given(flags=st.sets(st.sampled_from(list(Flag))), users=st.sets(st.integers(24, 31)))
def test_the_text_holds_the_sentences_of_the_bits_that_are_set_and_no_other(flags, users):
    bits = sum(flags) + sum(1 << bit for bit in users)
    wanted = {flag.sentence for flag in flags} | {f"user bit {bit}" for bit in users}
    for number in (bits, np.int64(bits)):
        text = Flag.describe(number)
        assert (set(text.split("; ")) if text else set()) == wanted
        assert len(text.split("; ")) == max(len(wanted), 1)


def test_an_unknown_bit_is_named_by_its_number():
    free = next(bit for bit in (*range(24), *range(32, 63)) if not any(flag.value == 1 << bit for flag in Flag))
    assert str(free) in Flag.describe(1 << free)


def test_a_bit_that_is_not_the_users_is_not_called_theirs():
    free = next(bit for bit in (*range(24), *range(32, 63)) if not any(flag.value == 1 << bit for flag in Flag))
    assert "user" not in Flag.describe(1 << free)


def test_rows_without_labels_are_unread_unselected_or_have_too_few_pixels():
    assert NULL_LABELS == Flag.UNREADABLE | Flag.TOO_FEW_PIXELS | Flag.NOT_SELECTED
    assert not NULL_LABELS & (Flag.LOW_SN | Flag.ACTIVE | Flag.BAD_FIT | Flag.NOT_CONVERGED)


# ---- the log-lambda grid


def test_the_log_lambda_grid_is_log_linear_with_lamost_s_step():
    wave = LOG_LAMBDA.wavelength
    assert wave.dtype == np.float64
    assert wave.shape == (LOG_LAMBDA.count,) == (1891,)
    np.testing.assert_allclose(np.diff(np.log10(wave)), 1e-4, rtol=0, atol=4e-16 * 4)
    for pixel, log in ((0, 3.7690), (310, 3.8), (1310, 3.9), (1890, 3.9580)):
        assert wave[pixel] == pytest.approx(10**log, rel=1e-14)


def test_the_log_lambda_grid_holds_the_support_of_every_star_in_reach():
    # Twice the fastest stars of the Galaxy: 1500 km/s both ways.
    for grid in (STARGAP, PAPER):
        assert LOG_LAMBDA.wavelength[0] < grid.support[0] * (1 - 1500 / SPEED_OF_LIGHT)
        assert LOG_LAMBDA.wavelength[-1] > grid.support[-1] * (1 + 1500 / SPEED_OF_LIGHT)


def test_about_1712_native_pixels_lie_under_the_rest_frame_grid():
    inside = (LOG_LAMBDA.wavelength >= 6000) & (LOG_LAMBDA.wavelength <= 8900)
    assert inside.sum() == pytest.approx(1712, abs=1)


def test_half_pixels_meet_and_a_pixel_is_69_km_s():
    wave = LOG_LAMBDA.wavelength
    np.testing.assert_allclose(wave[:-1] * LOG_LAMBDA.ratio, wave[1:] / LOG_LAMBDA.ratio, rtol=1e-14)
    assert LOG_LAMBDA.velocity_step == pytest.approx((wave[1] / wave[0] - 1) * SPEED_OF_LIGHT, rel=1e-9)
    assert LOG_LAMBDA.velocity_step == pytest.approx(69.03, abs=0.01)


def test_another_log_lambda_grid():
    small = LogLambdaGrid(first=40000, count=3, step=1e-4)
    assert small.wavelength == pytest.approx([10_000.0, 10_000 * 10**1e-4, 10_000 * 10**2e-4], rel=1e-14)


# ---- the rest-frame grids

METHOD_WINDOWS = [(6270, 6330), (6546, 6586), (6700, 6725), (6850, 6885), (7150, 7350), (7587, 7687), (8100, 8240)]


def test_the_windows_are_those_of_the_method():
    assert [(window.low, window.high) for window in WINDOWS] == METHOD_WINDOWS
    assert STARGAP.windows == PAPER.windows == WINDOWS
    rest = [(window.low, window.high) for window in WINDOWS if window.frame == "rest"]
    assert rest == [(6546, 6586), (6700, 6725)]
    assert all(window.cause for window in WINDOWS)


@pytest.mark.parametrize("grid", [STARGAP, PAPER], ids=lambda grid: grid.name)
def test_the_grid_is_2901_pixels_of_1_angstrom(grid):
    assert np.array_equal(grid.wavelength, np.arange(6000.0, 8901.0))
    assert np.array_equal(grid.support[grid.inner], grid.wavelength)
    assert grid.support[0] == 6000 - grid.margin
    assert grid.support[-1] == 8900 + grid.margin
    assert grid.smoothing == 30.0
    assert grid_for(grid.name) is grid


def test_the_presets_differ_where_the_method_says():
    differ = {field.name for field in fields(STARGAP) if getattr(STARGAP, field.name) != getattr(PAPER, field.name)}
    assert differ == {
        "name",
        "margin",
        "windows_follow_star",
        "windows_in_smoother",
        "model_sees_weights",
        "native_errors",
    }
    assert (STARGAP.margin, PAPER.margin) == (90.0, 0.0)
    assert (STARGAP.windows_follow_star, STARGAP.windows_in_smoother) == (False, False)
    assert (STARGAP.model_sees_weights, STARGAP.native_errors) == (True, True)


def test_the_mask_is_closed_and_goes_by_the_frame():
    edges = np.array([6545.9, 6546.0, 6566.0, 6586.0, 6586.1])
    assert STARGAP.window_mask(edges, "rest").tolist() == [False, True, True, True, False]
    assert not STARGAP.window_mask(edges, "observed").any()
    assert PAPER.window_mask(edges, "rest").tolist() == [False, True, True, True, False]
    for low, high in METHOD_WINDOWS:
        inside = np.array([low, 0.5 * (low + high), high])
        ours = STARGAP.window_mask(inside, "rest").astype(int) + STARGAP.window_mask(inside, "observed")
        assert ours.tolist() == [1, 1, 1]
        assert PAPER.window_mask(inside, "rest").all()
        assert not PAPER.window_mask(inside, "observed").any()
    share = [STARGAP.window_mask(STARGAP.wavelength, frame).sum() for frame in ("rest", "observed")]
    assert share == [41 + 26, 61 + 36 + 201 + 101 + 141]
    assert PAPER.window_mask(PAPER.wavelength, "rest").sum() == sum(share)
    assert STARGAP.window_mask(np.zeros((2, 3)), "rest").shape == (2, 3)


CHANGES = {
    "name": "paper", "start": 5999.0, "stop": 8901.0, "step": 0.5, "margin": 91.0, "smoothing": 31.0,
    "windows": WINDOWS[:-1], "windows_follow_star": True, "windows_in_smoother": True, "model_sees_weights": False,
    "native_errors": False, "least_kernel_weight": 0.2,
}  # fmt: skip
WINDOW_CHANGES = {"low": 6545.0, "high": 6587.0, "frame": "observed", "cause": "something else"}


@pytest.mark.parametrize("field", [field.name for field in fields(STARGAP)])
def test_any_change_of_the_grid_changes_its_digest(field):
    assert getattr(STARGAP, field) != CHANGES[field]
    assert replace(STARGAP, **{field: CHANGES[field]}).digest != STARGAP.digest


@pytest.mark.parametrize("field", [field.name for field in fields(Window)])
def test_any_change_of_a_window_changes_the_digest(field):
    changed = (WINDOWS[0], replace(WINDOWS[1], **{field: WINDOW_CHANGES[field]}), *WINDOWS[2:])
    assert changed[1] != WINDOWS[1]
    assert replace(STARGAP, windows=changed).digest != STARGAP.digest


def test_a_digest_is_the_same_for_equal_grids():
    assert replace(STARGAP).digest == STARGAP.digest
    assert STARGAP.digest != PAPER.digest
    assert len(STARGAP.digest) == 16
    int(STARGAP.digest, 16)
    assert replace(STARGAP, windows=tuple(Window(**asdict(window)) for window in WINDOWS)).digest == STARGAP.digest


def test_grids_are_frozen():
    with pytest.raises(FrozenInstanceError):
        STARGAP.start = 5900.0
    with pytest.raises(FrozenInstanceError):
        WINDOWS[0].low = 0.0


@pytest.mark.parametrize(
    ("air", "vacuum"),
    [(6562.801, 6564.614), (5889.951, 5891.583), (8183.256, 8185.505), (8542.09, 8544.44), (7698.974, 7701.093)],
)
def test_vacuum_wavelengths_of_known_lines(air, vacuum):
    # H-alpha, Na D2, Na 8183, Ca II 8542 and K I 7699, as line lists give them in air and in vacuum.
    assert air_to_vacuum(air) == pytest.approx(vacuum, abs=0.006)


@pytest.mark.parametrize("air", [5900.0, 6500.0, 7500.0, 9000.0])
def test_the_refractive_index_is_that_of_ciddor(air):
    s2 = (1e4 / air) ** 2
    ciddor = 1 + 0.05792105 / (238.0185 - s2) + 0.00167917 / (57.362 - s2)
    # An index of 2.8e-4 with its own fits to the same air; the wavenumber in air or vacuum makes 1e-9.
    assert air_to_vacuum(air) / air - 1 == pytest.approx(ciddor - 1, abs=1e-8)


# ---- labels


def test_labels_and_their_places():
    assert LABELS == ("teff", "logg", "m_h", "a_m")
    assert [LABELS[place] for place in (TEFF, LOGG, M_H, A_M)] == list(LABELS)
    assert list(UNITS) == list(LABELS)
    assert UNITS["teff"] == "K"


@pytest.mark.parametrize(
    ("m_h", "a_m"),
    [(0.5, 0), (0.0, 0), (-0.25, 0.1), (-0.5, 0.2), (-0.75, 0.3), (-1.0, 0.4), (-1.5, 0.4), (-2.0, 0.4)],
)
def test_alpha_follows_the_metals_as_in_the_method(m_h, a_m):
    assert float(alpha_relation(m_h)) == pytest.approx(a_m, abs=1e-15)


@pytest.mark.parametrize("shape", [(), (3,), (2, 3), (0,)])
def test_the_relation_takes_any_shape(shape):
    for rounding in (0.0, 0.05):
        result = alpha_relation(np.zeros(shape), rounding=rounding)
        assert result.shape == shape
        assert result.dtype == np.float64
    assert alpha_relation([0, -1]).tolist() == [0.0, 0.4]


@few
@given(
    m_h=st.lists(st.floats(-5, 5), min_size=1, max_size=30),
    rounding=st.floats(1e-3, 0.2),
)
def test_rounding_moves_the_relation_by_0_28_of_its_width_at_most(m_h, rounding):
    sharp, round_ = alpha_relation(m_h), alpha_relation(m_h, rounding=rounding)
    # 0.4 ln 2 = 0.277 at a corner; the two corners pull in opposite directions.
    assert np.abs(round_ - sharp).max() <= 0.4 * np.log(2) * rounding + 1e-12
    assert (round_ >= -1e-12).all()
    assert (round_ <= 0.4 + 1e-12).all()


@pytest.mark.parametrize("rounding", [0.01, 0.05, 0.1])
def test_the_bound_is_reached_at_the_corners_and_the_slope_is_continuous(rounding):
    corners = np.array([0.0, -1.0])
    moved = alpha_relation(corners, rounding=rounding) - alpha_relation(corners)
    far = 0.4 * rounding * np.log1p(np.exp(-1 / rounding))
    np.testing.assert_allclose(moved, np.array([1, -1]) * (0.4 * np.log(2) * rounding - far), rtol=1e-9)
    m_h = np.arange(-2.5, 1.0, rounding / 100)
    slope = np.diff(alpha_relation(m_h, rounding=rounding)) / (rounding / 100)
    assert slope.max() < 1e-9
    assert slope.min() > -0.4 - 1e-9
    # The slope is a difference of two logistics of this width: it turns by at most 0.4 / 4 per width at a corner.
    assert np.abs(np.diff(slope)).max() <= 0.1 / 100 * (1 + 1e-6) + 1e-9


# ---- errors


def test_errors_have_one_base():
    for error in (UsageError, ModelError, SpectrumError):
        assert issubclass(error, StargapError)
    assert not issubclass(StargapError, ValueError | OSError)


def test_a_spectrum_error_keeps_its_parts_through_another_process(tmp_path):
    error = SpectrumError(tmp_path / "a.fits", "the file is empty")
    copied = pickle.loads(pickle.dumps(error))
    assert str(copied) == str(error) == f"{tmp_path / 'a.fits'}: the file is empty"
    assert (copied.path, copied.reason) == (str(tmp_path / "a.fits"), "the file is empty")
