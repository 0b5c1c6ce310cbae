"""Least squares of many rows against scipy, one by one."""

import numpy as np
import pytest
from scipy.optimize import least_squares as scipy_least_squares

from stargap.photometry.search import inverse_2x2, least_squares


def bent(labels, target):
    x, y = labels[..., 0], labels[..., 1]
    return np.stack([x + 0.3 * y**2 - target[..., 0], y - 0.2 * x**2 - target[..., 1], 0.5 * x * y], axis=-1)


def bent_slopes(labels):
    x, y = labels[..., 0], labels[..., 1]
    one = np.ones_like(x)
    return np.stack([np.stack([one, 0.6 * y], -1), np.stack([-0.4 * x, one], -1), np.stack([0.5 * y, 0.5 * x], -1)], -2)


@pytest.mark.parametrize("limits", [[[-9.0, -9.0], [9.0, 9.0]], [[-0.5, -0.4], [0.6, 0.5]]])
def test_as_scipy(limits):
    target = np.random.default_rng(0).normal(size=(50, 2))

    def model(labels, rows):
        return bent(labels, target[rows]), bent_slopes(labels)

    found = least_squares(model, np.zeros((50, 2)), np.array(limits), tolerance=np.full(2, 1e-6), iterations=200)
    assert found.converged.all()
    for row in range(50):
        theirs = scipy_least_squares(lambda x, row=row: bent(x, target[row]), [0, 0], bounds=limits, xtol=1e-12)
        ours = (bent(found.labels[row], target[row]) ** 2).sum()
        assert ours <= 2 * theirs.cost + 1e-4


def test_rows_do_not_know_of_each_other():
    target = np.random.default_rng(1).normal(size=(20, 2))

    def fit(some):
        def model(labels, rows):
            return bent(labels, target[some][rows]), bent_slopes(labels)

        ends = np.array([[-9.0, -9.0], [9.0, 9.0]])
        return least_squares(model, np.zeros((len(some), 2)), ends, tolerance=np.full(2, 1e-9)).labels

    together = fit(np.arange(20))
    np.testing.assert_array_equal(together[[3, 11]], fit(np.array([3, 11])))


def test_inverse():
    matrices = np.random.default_rng(2).normal(size=(10, 3, 2))
    square = np.swapaxes(matrices, 1, 2) @ matrices
    np.testing.assert_allclose(inverse_2x2(square), np.linalg.inv(square))
