"""Batched Levenberg-Marquardt against scipy, problem by problem, and its laws (ROBUSTNESS cases 24-28)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import least_squares, lsq_linear

from stargap.fit.linear import bounded_step
from stargap.fit.optimise import LeastSquares, Status, levenberg_marquardt

PIXELS = 101
X = torch.linspace(0.0, 1.0, PIXELS, dtype=torch.float64)
SIGMA = 0.02


@dataclass(frozen=True)
class Problem:
    """A curve with its derivatives, ``parameters (slot, k) -> (slot, pixel), (slot, k, pixel)``."""

    curve: Callable[[torch.Tensor], tuple[torch.Tensor, torch.Tensor]]
    truth: tuple[float, ...]
    spread: tuple[float, ...]
    start: tuple[float, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]

    def data(self, count: int, seed: int = 0) -> torch.Tensor:
        """Curves around the truth with noise, ``(count, pixel)``."""
        rng = np.random.default_rng(seed)
        parameters = np.array(self.truth) + np.array(self.spread) * rng.uniform(-1, 1, (count, len(self.truth)))
        noise = torch.as_tensor(rng.normal(0, SIGMA, (count, PIXELS)))
        return self.curve(torch.as_tensor(parameters))[0] + noise

    def evaluate(self, parameters: torch.Tensor, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.curve(parameters)

    def fit(self, data: torch.Tensor, **options) -> LeastSquares:
        count = options.pop("problems", len(data))
        start = torch.tensor(self.start, dtype=torch.float64).expand(count, -1)
        defaults = {"weight": torch.full_like(data, SIGMA**-2), "start": start, **self.bounds}
        evaluate = options.pop("evaluate", self.evaluate)
        return levenberg_marquardt(evaluate, data, **(defaults | options))

    @property
    def bounds(self) -> dict[str, torch.Tensor]:
        sides = {"lower": self.lower, "upper": self.upper}
        return {side: torch.tensor(values, dtype=torch.float64) for side, values in sides.items()}


def decay(p):
    a, b, c = p.T[:, :, None]
    fall = torch.exp(-b * X)
    return a * fall + c, torch.stack([fall, -a * X * fall, torch.ones_like(fall)], dim=1)


def ratio(p):
    a, b, c = p.T[:, :, None]
    below = 1 + c * X
    m = (a + b * X) / below
    return m, torch.stack([1 / below, X / below, -m * X / below], dim=1)


def badly_scaled(p):
    a, b = p.T[:, :, None]
    fall = torch.exp(-b * 1e5 * X)
    return a / 1e4 * fall, torch.stack([fall / 1e4, -1e5 * X * a / 1e4 * fall], dim=1)


PROBLEMS = {
    "exponential": Problem(decay, (2, 3, 0.5), (0.5, 1, 0.2), (1, 1, 0), (0, 0.1, -2), (10, 20, 2)),
    "exponential at a bound": Problem(decay, (2, 3, 0.5), (0.1, 0.2, 0.1), (1, 1, 0), (0, 0.1, -2), (10, 2.9, 0.5)),
    "rational": Problem(ratio, (1, 0.5, 3), (0.2, 0.3, 1), (0.5, 1, 1), (-5, -5, 0), (5, 20, 30)),
    "rational at a bound": Problem(ratio, (1, 2, 3), (0.1, 0.2, 0.2), (0.5, 1, 1), (0, 0, 0), (1.0, 20, 2.8)),
    "badly scaled": Problem(badly_scaled, (2e4, 3e-5), (5e3, 5e-6), (1e4, 1e-5), (0, 0), (1e6, 1e-3)),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_agrees_with_scipy_problem_by_problem(name):
    problem = PROBLEMS[name]
    data = problem.data(20)
    fit = problem.fit(data)
    assert set(fit.status.tolist()) == {int(Status.CONVERGED)}
    unit = np.abs(problem.truth)  # scipy's steps want parameters of about 1
    lower, upper = np.array(problem.lower) / unit, np.array(problem.upper) / unit
    on_a_bound = 0
    for row, values in enumerate(data.numpy()):

        def residual(theta, values=values):
            return (problem.curve(torch.as_tensor(theta * unit)[None])[0][0].numpy() - values) / SIGMA

        tight = {"xtol": 1e-14, "ftol": 1e-14, "gtol": 1e-12, "jac": "3-point", "method": "dogbox"}
        best = least_squares(residual, problem.start / unit, bounds=(lower, upper), **tight)
        ours = fit.parameters[row].numpy() / unit
        free = (best.x > lower) & (best.x < upper)
        on_a_bound += not free.all()
        jacobian = best.jac[:, free]
        error = np.sqrt(np.diag(np.linalg.inv(jacobian.T @ jacobian)))
        np.testing.assert_array_equal(ours[~free], best.x[~free])
        # converged: the next step is below 0.01 standard errors
        assert (np.abs(ours - best.x)[free] < 0.02 * error).all()
        assert fit.chi2[row].item() == pytest.approx(2 * best.cost, abs=0.02**2)
    assert (on_a_bound > 3) == ("bound" in name)


@pytest.mark.parametrize("name", PROBLEMS)
@pytest.mark.parametrize("limit", [1, 2, 3, 40])
def test_result_is_consistent_with_its_parameters(name, limit):
    problem = PROBLEMS[name]
    data = problem.data(7)
    fit = problem.fit(data, max_iterations=limit)
    model, jacobian = problem.curve(fit.parameters)
    torch.testing.assert_close(fit.chi2, ((data - model) / SIGMA).square().sum(dim=1), rtol=1e-9, atol=0)
    torch.testing.assert_close(fit.hessian, jacobian @ jacobian.transpose(1, 2) / SIGMA**2, rtol=1e-9, atol=1e-6)
    assert (fit.parameters >= problem.bounds["lower"]).all()
    assert (fit.parameters <= problem.bounds["upper"]).all()
    assert (fit.iterations >= 1).all()
    assert (fit.iterations <= limit).all()
    begin = ((data - problem.curve(torch.tensor([problem.start]).double())[0]) / SIGMA).square().sum(dim=1)
    assert (fit.chi2 <= begin * (1 + 2e-6 * limit)).all()  # rounding of float32 is let through, 2e-6 a step


def test_units_of_the_parameters_do_not_matter():
    problem = PROBLEMS["exponential"]
    unit = torch.tensor([2.0**20, 2.0**-30, 1.0], dtype=torch.float64)

    def evaluate(parameters, rows):
        model, jacobian = problem.curve(parameters / unit)
        return model, jacobian / unit[:, None]

    data = problem.data(8)
    plain = problem.fit(data)
    scaled = problem.fit(
        data,
        evaluate=evaluate,
        start=torch.tensor(problem.start, dtype=torch.float64).expand(8, -1) * unit,
        **{side: values * unit for side, values in problem.bounds.items()},
    )
    torch.testing.assert_close(scaled.parameters / unit, plain.parameters, rtol=1e-9, atol=1e-9)
    assert torch.equal(scaled.iterations, plain.iterations)


def test_pixels_of_weight_zero_have_no_say():
    problem = PROBLEMS["exponential"]
    data = problem.data(5)
    weight = torch.full_like(data, SIGMA**-2)
    weight[:, 10:20] = 0
    spoiled = data.clone()
    spoiled[:, 10:20] = 1e30 * torch.linspace(-1, 1, 10, dtype=torch.float64)
    assert same_bits(problem.fit(data, weight=weight), problem.fit(spoiled, weight=weight)) == []


def test_several_problems_can_share_a_row():
    problem = PROBLEMS["rational"]
    data = problem.data(3)
    rows = torch.tensor([2, 0, 2, 2, 1])
    shared = problem.fit(data, rows=rows, problems=5)
    assert same_bits(shared, problem.fit(data[rows])) == []


# --- how a fit ends ---------------------------------------------------------------------------------------------


def test_a_model_that_is_not_finite_at_the_start_ends_at_once():
    problem = PROBLEMS["exponential"]

    def broken(parameters, rows):
        model, jacobian = problem.curve(parameters)
        return torch.where(rows[:, None] == 1, torch.nan, model), jacobian

    data = problem.data(3)
    fit = problem.fit(data, evaluate=broken)
    codes = [Status.CONVERGED, Status.NOT_FINITE, Status.CONVERGED]
    assert fit.status.tolist() == [int(code) for code in codes]
    assert fit.iterations[1] == 1
    assert fit.parameters[1].tolist() == list(problem.start)
    assert fit.chi2[1] == torch.inf


def test_a_jacobian_that_is_not_finite_counts_too():
    problem = PROBLEMS["exponential"]

    def broken(parameters, rows):
        model, jacobian = problem.curve(parameters)
        return model, jacobian * torch.inf

    fit = problem.fit(problem.data(1), evaluate=broken)
    assert fit.status.tolist() == [int(Status.NOT_FINITE)]


def test_steps_into_a_region_that_is_not_finite_are_taken_back():
    def logarithm(parameters, rows):
        return parameters.log() * (1 + X), (1 + X) / parameters[:, :, None]

    data = (0.0 * X)[None]  # the first Gauss-Newton step from 5 leads to -3
    bounds = {"lower": torch.tensor([-10.0]), "upper": torch.tensor([10.0])}
    start = torch.tensor([[5.0]], dtype=torch.float64)
    fit = levenberg_marquardt(logarithm, data, torch.full_like(data, 1e4), start, **bounds)
    assert fit.status.tolist() == [int(Status.CONVERGED)]
    error = 1 / np.sqrt(1e4 * float((1 + X).square().sum()))
    assert fit.parameters.item() == pytest.approx(1.0, abs=0.02 * error)


def test_too_few_iterations_say_so_and_keep_the_best_point():
    problem = PROBLEMS["exponential"]
    data = problem.data(6)
    fit = problem.fit(data, max_iterations=2)
    assert set(fit.status.tolist()) == {int(Status.TOO_MANY_ITERATIONS)}
    assert set(fit.iterations.tolist()) == {2}
    assert torch.isfinite(fit.parameters).all()


def test_a_wrong_jacobian_stalls_at_the_start():
    problem = PROBLEMS["exponential"]

    def backwards(parameters, rows):
        model, jacobian = problem.curve(parameters)
        return model, -jacobian

    fit = problem.fit(problem.data(2), evaluate=backwards)
    assert set(fit.status.tolist()) == {int(Status.STALLED)}
    assert fit.parameters.tolist() == [list(problem.start)] * 2


def test_a_strongly_correlated_fit_beside_a_bound_does_not_end_at_its_start():
    """The plain step leaves the box in both directions; clamping both would point uphill."""
    hessian = torch.tensor([[1e4, -9e3], [-9e3, 1e4]], dtype=torch.float64)
    jacobian = torch.linalg.cholesky(hessian).T
    data = torch.linalg.solve(jacobian.T, torch.tensor([-1e3, 1e4], dtype=torch.float64))
    lower, upper = torch.tensor([-1.0, -1.0]), torch.tensor([1.0, 0.05])

    def linear(parameters, rows):
        return parameters @ jacobian.T, jacobian.T.expand(len(parameters), 2, 2)

    start = torch.zeros(1, 2, dtype=torch.float64)
    fit = levenberg_marquardt(linear, data[None], torch.ones(1, 2), start, lower=lower, upper=upper)
    best = lsq_linear(jacobian.numpy(), data.numpy(), bounds=(lower.double(), upper.double()), method="bvls")
    assert fit.status.tolist() == [int(Status.CONVERGED)]
    np.testing.assert_allclose(fit.parameters[0], best.x, atol=1e-4)
    assert fit.chi2.item() == pytest.approx(2 * best.cost, rel=1e-6)


# --- batches ----------------------------------------------------------------------------------------------------


def same_bits(one, other, rows=slice(None), other_rows=slice(None)):
    """Names of the fields in which two results differ by a bit."""
    return [
        f.name
        for f in fields(LeastSquares)
        if not torch.equal(getattr(one, f.name)[rows], getattr(other, f.name)[other_rows])
    ]


def test_no_problems_give_an_empty_result():
    fit = PROBLEMS["exponential"].fit(torch.zeros(0, PIXELS, dtype=torch.float64))
    assert fit.parameters.shape == (0, 3)
    assert fit.hessian.shape == (0, 3, 3)
    assert fit.chi2.shape == fit.status.shape == fit.iterations.shape == (0,)


def single(problem):
    """The problem with float32 curves, whose products round most visibly."""

    def curve(parameters):
        model, jacobian = problem.curve(parameters)
        return model.float(), jacobian.float()

    return Problem(curve, problem.truth, problem.spread, problem.start, problem.lower, problem.upper)


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_problem_alone_gives_the_same_bits_as_in_a_batch(name):
    problem = single(PROBLEMS[name])
    data = problem.data(150).float()
    whole = problem.fit(data)
    for row in (0, 1, 63, 64, 149):
        alone = problem.fit(data[row : row + 1])
        assert same_bits(alone, whole, slice(None), slice(row, row + 1)) == []


@pytest.mark.parametrize("name", PROBLEMS)
def test_order_does_not_matter(name):
    problem = single(PROBLEMS[name])
    data = problem.data(150).float()
    whole = problem.fit(data)
    for seed in range(3):
        order = torch.as_tensor(np.random.default_rng(seed).permutation(150))
        assert same_bits(problem.fit(data[order]), whole, slice(None), order) == []


@pytest.mark.parametrize("trouble", ["nan model", "huge data", "no weight", "far away"])
def test_a_bad_neighbour_changes_nothing(trouble):
    problem = single(PROBLEMS["exponential"])
    data = problem.data(70).float()
    weight = torch.full_like(data, SIGMA**-2)
    clean = problem.fit(data)
    bad = 5
    broken, spoiled = data.clone(), weight.clone()
    if trouble == "huge data":
        broken[bad] = 1e18
    elif trouble == "no weight":
        spoiled[bad] = 0.0
    elif trouble == "far away":
        broken[bad] = torch.linspace(-100, 100, PIXELS)

    def evaluate(parameters, rows):
        model, jacobian = problem.curve(parameters)
        poison = (rows == bad) & (trouble == "nan model")
        return torch.where(poison[:, None], torch.nan, model), jacobian

    fit = problem.fit(broken, evaluate=evaluate, weight=spoiled)
    others = torch.arange(70) != bad
    assert same_bits(fit, clean, others, others) == []


@pytest.mark.parametrize("slots", [1, 7, 64, 200])
def test_the_number_of_slots_moves_a_result_by_less_than_a_hundredth_of_its_error(slots):
    problem = PROBLEMS["rational"]
    data = problem.data(70)
    whole, other = problem.fit(data), problem.fit(data, slots=slots)
    error = torch.linalg.inv(whole.hessian).diagonal(dim1=1, dim2=2).sqrt()
    assert ((whole.parameters - other.parameters).abs() < 0.01 * error).all()
    assert torch.equal(whole.status, other.status)


# --- the step within bounds -------------------------------------------------------------------------------------


@st.composite
def quadratics(draw, size=None):
    """A positive definite matrix, a gradient and a box around 0."""
    k = draw(st.integers(1, 4)) if size is None else size
    number = st.floats(-2, 2, allow_subnormal=False)
    side = st.one_of(st.just(0.0), st.floats(0.01, 3), st.just(1e6))
    root = np.array(draw(st.lists(number, min_size=k * k, max_size=k * k))).reshape(k, k)
    gradient = np.array(draw(st.lists(st.floats(-10, 10), min_size=k, max_size=k)))
    low = -np.array(draw(st.lists(side, min_size=k, max_size=k)))
    high = np.array(draw(st.lists(side, min_size=k, max_size=k)))
    return root.T @ root + 0.05 * np.eye(k), gradient, low, high


def one_step(hessian, gradient, low, high):
    return bounded_step(*(torch.as_tensor(value)[None] for value in (hessian, gradient, low, high)))[0].numpy()


def height(hessian, gradient, step):
    return step @ hessian @ step / 2 - gradient @ step


@given(quadratics())
@settings(deadline=None, max_examples=150)
def test_bounded_step_is_the_best_of_the_box(quadratic):
    hessian, gradient, low, high = quadratic
    step = one_step(*quadratic)
    assert (step >= low).all()
    assert (step <= high).all()
    root = np.linalg.cholesky(hessian).T
    target = np.linalg.solve(root.T, gradient)
    wide = high > low  # scipy wants room between the bounds
    best = np.zeros_like(step)
    if wide.any():
        best[wide] = lsq_linear(root[:, wide], target, (low[wide], high[wide]), method="bvls", tol=1e-14).x
    scale = 1 + gradient @ np.linalg.solve(hessian, gradient)
    assert height(hessian, gradient, step) <= height(hessian, gradient, best) + 1e-9 * scale


@given(quadratics())
@settings(deadline=None, max_examples=50)
def test_bounded_step_never_points_uphill(quadratic):
    hessian, gradient, _, _ = quadratic
    step = one_step(*quadratic)
    scale = 1 + gradient @ np.linalg.solve(hessian, gradient)
    assert gradient @ step >= -1e-9 * scale
    assert height(hessian, gradient, step) <= 1e-9 * scale


@given(quadratics())
@settings(deadline=None, max_examples=50)
def test_bounded_step_is_newtons_where_there_is_room(quadratic):
    hessian, gradient, _, _ = quadratic
    newton = np.linalg.solve(hessian, gradient)
    room = np.abs(newton) + 1.0
    np.testing.assert_allclose(one_step(hessian, gradient, -room, room), newton, rtol=1e-9, atol=1e-12)


@given(quadratics())
@settings(deadline=None, max_examples=50)
def test_bounded_step_clamps_uncoupled_parameters(quadratic):
    hessian, gradient, low, high = quadratic
    diagonal = np.diag(hessian)
    step = one_step(np.diag(diagonal), gradient, low, high)
    np.testing.assert_allclose(step, np.clip(gradient / diagonal, low, high), rtol=1e-12, atol=1e-12)


@given(st.lists(quadratics(3), min_size=2, max_size=6))
@settings(deadline=None, max_examples=25)
def test_bounded_steps_of_a_batch_are_those_of_its_rows(rows):
    stacked = [torch.as_tensor(np.stack(parts)) for parts in zip(*rows, strict=True)]
    together = bounded_step(*stacked)
    for step, row in zip(together, rows, strict=True):
        np.testing.assert_array_equal(step, one_step(*row))
