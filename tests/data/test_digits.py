import numpy as np
from sklearn.datasets import load_digits

import equifuse as ef
from equifuse.data import digits


def test_shape_of_the_set():
    dataset = ef.datasets.load("digits")
    assert dataset.dims == {"pixels": 64, "fourier": 40, "zernike": 47, "profiles": 48, "morphology": 12}
    assert {part: len(split) for part, split in dataset.splits.items()} == {"train": 1079, "val": 359, "test": 359}
    assert dataset.task == "classification"
    assert dataset.classes == tuple("0123456789")
    assert dataset.fingerprint() == ef.datasets.load("digits").fingerprint()


def test_split_is_stratified_and_holds_every_image_once():
    dataset = ef.datasets.load("digits")
    pixels = np.concatenate([split.inputs["pixels"] for split in dataset.splits.values()])
    everything = load_digits().data
    order, expected = np.lexsort(pixels.T), np.lexsort(everything.T)
    np.testing.assert_array_equal(pixels[order] * 16, everything[expected])
    for split in dataset.splits.values():
        share = np.bincount(split.target) / len(split)
        np.testing.assert_allclose(share, 0.1, atol=0.01)


def test_views_have_the_invariances_they_are_named_for():
    images = load_digits().images[:40] / 16
    turned = np.rot90(images, axes=(1, 2))
    shifted = np.roll(images, (2, 3), axis=(1, 2))
    np.testing.assert_allclose(digits.zernike(turned), digits.zernike(images), atol=1e-10)
    np.testing.assert_allclose(digits.fourier(shifted), digits.fourier(images), atol=1e-10)
    assert np.abs(digits.fourier(turned) - digits.fourier(images)).max() > 0.1
    np.testing.assert_allclose(digits.profiles(images)[:, :8], images.sum(2))


def test_zernike_polynomials_are_the_textbook_ones():
    rho = np.linspace(0, 1, 7)
    np.testing.assert_allclose(digits._radial(2, 0, rho), 2 * rho**2 - 1)
    np.testing.assert_allclose(digits._radial(4, 0, rho), 6 * rho**4 - 6 * rho**2 + 1)
    np.testing.assert_allclose(digits._radial(5, 1, rho), 10 * rho**5 - 12 * rho**3 + 3 * rho)
    np.testing.assert_allclose(digits._radial(12, 4, np.ones(1)), 1)


def test_morphology_counts_holes_and_strokes():
    ring = np.zeros((1, 8, 8))
    ring[0, 2:6, 2:6] = 1
    ring[0, 3:5, 3:5] = 0
    names = digits.morphology(ring)[0]
    area, _, strokes, holes = names[:4]
    assert (area, strokes, holes) == (12, 1, 1)
