"""The weight map against its formula, by distances between all pairs of pixels, and by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from training.tasks.weight_map import border_weight_map, class_balance, two_nearest_cells


def random_cells(seed: int, height: int = 48, width: int = 60, number: int = 6) -> np.ndarray:
    """Draw discs that may overlap, touch and reach over the edge."""
    generator = np.random.default_rng(seed)
    rows, columns = np.indices((height, width))
    instances = np.zeros((height, width), dtype=np.int32)
    for cell in range(1, number + 1):
        row, column, radius = generator.uniform((0, 0, 1), (height, width, 7))
        instances[(rows - row) ** 2 + (columns - column) ** 2 < radius**2] = cell
    return instances


def distances_by_brute_force(instances: np.ndarray) -> np.ndarray:
    """Measure from every pixel to every pixel of every cell; sorted, the first axis counts the cells."""
    rows, columns = np.indices(instances.shape)
    distances = []
    for cell in set(instances.ravel().tolist()) - {0}:
        of_rows, of_columns = np.nonzero(instances == cell)
        squares = (rows[..., None] - of_rows) ** 2 + (columns[..., None] - of_columns) ** 2
        distances.append(np.sqrt(squares.min(-1)))
    return np.sort(distances, axis=0)


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize(("w_0", "sigma"), [(10.0, 5.0), (3.0, 1.2)])
def test_it_is_the_formula(seed, w_0, sigma):
    instances = random_cells(seed)
    d_1, d_2 = distances_by_brute_force(instances)[:2]
    w_c = class_balance(np.bincount((instances > 0).ravel(), minlength=2))[(instances > 0).astype(int)]
    found = border_weight_map(instances, w_c, w_0, sigma)
    assert (found.shape, found.dtype) == (instances.shape, np.float32)
    expected = w_c + w_0 * np.exp(-((d_1 + d_2) ** 2) / (2 * sigma**2))
    np.testing.assert_allclose(found, expected, rtol=2e-7, atol=1e-7 * w_0)


@pytest.mark.parametrize("seed", range(3))
def test_distances_within_reach_are_exact(seed):
    instances, reach = random_cells(seed, number=15), 6.5
    found = two_nearest_cells(instances, reach)
    for distance, expected in zip(found, distances_by_brute_force(instances)[:2], strict=True):
        is_near = expected <= reach
        assert 0.1 < is_near.mean() < 0.95
        np.testing.assert_array_equal(distance[is_near], expected[is_near])
        assert (distance[~is_near] > reach).all()


def test_what_is_left_out_is_below_the_tolerance():
    """Two cells a picture apart: the crops end between them, where the formula gives next to nothing."""
    instances = np.zeros((3, 120), dtype=int)
    instances[:, 0], instances[:, -1] = 1, 2
    border = border_weight_map(instances, class_weights=0.0)
    assert border[1, 60] == 0
    assert math.exp(-(119**2) / 50) < 1e-7
    assert border.max() < 1e-7 * 10


def test_by_hand():
    """In a row, d_1 + d_2 is the same everywhere between two cells, and grows beyond them."""
    instances = np.array([[0, 7, 7, 0, 0, 3, 0]])
    sums = np.array([1 + 5, 0 + 4, 0 + 3, 1 + 2, 2 + 1, 0 + 3, 1 + 4])
    np.testing.assert_allclose(border_weight_map(instances)[0], 1 + 10 * np.exp(-(sums**2) / 50), rtol=1e-6)
    touching = border_weight_map(np.array([[1, 2]]), w_0=4.0, sigma=2.0)
    np.testing.assert_allclose(touching, np.full((1, 2), 1 + 4 * math.exp(-1 / 8)), rtol=1e-6)


def test_three_cells_by_hand():
    """The third nearest cell has no say, and a cell may lie in two pieces."""
    instances = np.array([[1, 0, 0, 2, 0, 3, 0, 0, 1]])
    nearest, second = two_nearest_cells(instances, 20.0)
    assert nearest.tolist() == [[0, 1, 1, 0, 1, 0, 1, 1, 0]]
    assert second.tolist() == [[3, 2, 2, 2, 1, 2, 2, 2, 3]]


@pytest.mark.parametrize("instances", [np.zeros((4, 5), dtype=int), np.eye(5, dtype=int), np.ones((4, 5), dtype=int)])
def test_fewer_than_two_cells_have_no_border(instances):
    np.testing.assert_array_equal(border_weight_map(instances, 0.5), np.full(instances.shape, 0.5, dtype=np.float32))


def test_numbers_of_cells_are_names_only():
    instances = random_cells(0)
    names = np.array([0, 10**9, 5, 2, 70_000, 12, 3])
    np.testing.assert_array_equal(border_weight_map(names[instances]), border_weight_map(instances))
    # No background at all, and unsigned numbers.
    full = np.array([[1, 1, 2], [1, 2, 2]], dtype=np.uint8)
    expected = 1 + 10 * np.exp(-(distances_by_brute_force(full).sum(0) ** 2) / 50)
    np.testing.assert_allclose(border_weight_map(full), expected, rtol=1e-6)


def test_classes_are_balanced():
    labels = np.array([[0, 0, 0], [0, 0, 1]])
    weights = class_balance(np.bincount(labels.ravel()))
    np.testing.assert_allclose(weights, [6 / (2 * 5), 6 / 2])
    np.testing.assert_allclose(weights[labels].mean(), 1, rtol=1e-6)
    # A class that does not occur changes nothing for the others.
    np.testing.assert_allclose(class_balance(np.array([5, 0, 1])), [0.6, 1, 3])
    np.testing.assert_array_equal(class_balance(np.array([4, 0])), [1, 1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"instances": np.zeros((2, 3, 3), dtype=int)}, r"instances must be integers >= 0 of shape \(height, width\)"),
        ({"instances": np.zeros((3, 3))}, r"instances must be integers >= 0"),
        ({"instances": np.full((3, 3), -1)}, r"instances must be integers >= 0"),
        ({"class_weights": np.ones(2)}, r"class_weights must be a number or of shape \(3, 3\), got \(2,\)"),
        ({"sigma": 0.0}, r"w_0=10.0 must be at least 0 and sigma=0.0 above 0"),
        ({"w_0": -1.0}, r"w_0=-1.0 must be at least 0"),
    ],
)
def test_impossible_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        border_weight_map(**{"instances": np.zeros((3, 3), dtype=int), **arguments})


@pytest.mark.parametrize("counts", [np.array([0, 0]), np.array([-1, 2]), np.array([0.5])])
def test_counts_that_are_none_are_refused(counts):
    with pytest.raises(ValueError, match=r"num_pixels must be integers of at least 0, not all 0"):
        class_balance(counts)
