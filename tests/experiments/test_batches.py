"""Batches depend on (seed, epoch, image) only."""

import numpy as np
import pytest

from experiments.batches import augmented, batches


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, size=(50, 6, 5, 3), dtype=np.uint8)


def test_an_epoch_is_a_permutation(images):
    labels = np.arange(50)
    options = {"batch_size": 10, "augment": False}
    drawn = list(batches(images, labels, seed=1, epoch=2, **options))
    order = np.concatenate([y for _, y in drawn])
    assert sorted(order) == list(labels)
    np.testing.assert_array_equal(np.concatenate([x for x, _ in drawn]), images[order])
    other = np.concatenate([y for _, y in batches(images, labels, seed=1, epoch=3, **options)])
    assert not np.array_equal(order, other)


def test_starting_late_gives_the_same_batches(images):
    options = {"batch_size": 8, "seed": 3, "epoch": 5, "augment": True}
    whole = list(batches(images, np.arange(50), **options))
    rest = list(batches(images, np.arange(50), start=4, **options))
    assert len(whole) == 6
    assert len(rest) == 2
    for (x, y), (late_x, late_y) in zip(whole[4:], rest, strict=True):
        np.testing.assert_array_equal(x, late_x)
        np.testing.assert_array_equal(y, late_y)


def test_augmentation_shifts_and_mirrors(images):
    rng = np.random.default_rng(1)
    shifts, mirrored = rng.integers(0, 9, size=(50, 2)), rng.integers(0, 2, size=50).astype(bool)
    found = augmented(images, shifts=shifts, mirrored=mirrored)
    for image, (down, right), mirror, result in zip(images, shifts, mirrored, found, strict=True):
        expected = np.zeros_like(image)
        for row in range(6):
            for column in range(5):
                from_row, from_column = row + down - 4, column + right - 4
                if 0 <= from_row < 6 and 0 <= from_column < 5:
                    expected[row, 4 - column if mirror else column] = image[from_row, from_column]
        np.testing.assert_array_equal(result, expected)
