import numpy as np
import pytest
import squidpy as sq
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, Labels2DModel

import deepspot as ds
from deepspot._image.stains import estimate_stains, stain_normalizer
from deepspot._image.tiles import pyramid_levels
from deepspot._spatial.geometry import STAINS
from deepspot.datasets._toy.image import stain_colors
from deepspot.errors import InputError

REFERENCE = STAINS["macenko"]
SIZE = {"n_rows": 5, "n_cols": 6, "seed": 3}


@pytest.fixture(scope="module")
def laboratories():
    """The same tissue with the stains of two laboratories, as pyramids."""
    slides = [ds.datasets.toy(1, stain_shift=shift, **SIZE)["P1_S1"] for shift in (0.0, 1.0)]
    return [pyramid_levels(slide, "P1_S1_image") for slide in slides]


def pixels(pyramid):
    return pyramid[0].transpose("y", "x", "c").to_numpy()


def angles(found, truth):
    unit = truth / np.linalg.norm(truth, axis=1, keepdims=True)
    return np.degrees(np.arccos(np.clip((found * unit).sum(axis=1), -1, 1)))


def densities(image):
    return -np.log((image.reshape(-1, 3) + 1.0) / 256)


def test_the_stains_that_were_drawn_are_found(laboratories):
    for shift, pyramid in zip((0.0, 1.0), laboratories, strict=True):
        truth = stain_colors(np.random.default_rng([SIZE["seed"], 3, 1]), shift)
        light = densities(pixels(pyramid)) - truth[2]
        stains, _ = estimate_stains(light, REFERENCE, "The image")
        assert angles(stains, truth[:2]).max() < 8


def test_the_stains_are_those_of_squidpy(laboratories):
    image = pixels(laboratories[1])
    tissue = (densities(image) > 0.15).all(axis=1).reshape(image.shape[:2])
    sdata = SpatialData(
        images={"image": Image2DModel.parse(image.transpose(2, 0, 1), dims=("c", "y", "x"))},
        labels={"image_tissue": Labels2DModel.parse(tissue.astype(np.int32), dims=("y", "x"))},
    )
    theirs = sq.experimental.im.fit_stain_reference(sdata, "image", method="macenko").stain_matrix[:, :2].T
    ours, _ = estimate_stains(densities(image), REFERENCE, "The image")
    assert angles(ours, theirs).max() < 5


def test_slides_of_two_laboratories_become_alike(laboratories):
    before = [pixels(pyramid).astype(float) for pyramid in laboratories]
    after = [
        stain_normalizer(pyramid, 1.0, REFERENCE, "The image")(pixels(pyramid)).astype(float)
        for pyramid in laboratories
    ]
    tissue = (before[0] < 220).any(axis=2)
    changed = np.abs(before[0] - before[1])[tissue].mean()
    assert np.abs(after[0] - after[1])[tissue].mean() < 0.5 * changed
    glass = (before[0] > 240).all(axis=2)
    assert after[0][glass].mean() > 248


def test_the_estimate_does_not_depend_on_resolution(laboratories):
    fine = np.repeat(np.repeat(pixels(laboratories[1]), 2, axis=0), 2, axis=1)
    fine = [Image2DModel.parse(fine.transpose(2, 0, 1), dims=("c", "y", "x"), chunks=(3, 300, 500))]
    one, two = (
        stain_normalizer(pyramid, mpp, REFERENCE, "The image").matrix
        for pyramid, mpp in ((laboratories[1], 1.0), (fine, 0.5))
    )
    np.testing.assert_allclose(one, two, atol=0.05)


@pytest.mark.parametrize(
    ("density", "match"),
    [
        (np.zeros((5_000, 3)), "too little stained tissue"),
        (np.random.default_rng(0).uniform(0.2, 2, (5_000, 1)) * [[0.3, 0.8, 0.5]], "apart"),
        (
            np.random.default_rng(0).uniform(3, 9, (5_000, 2)) @ np.array([[1.0, 0.05, 0.05], [0.05, 0.05, 1.0]]),
            "colors of hematoxylin and eosin",
        ),
    ],
)
def test_other_colors_are_refused(density, match):
    with pytest.raises(InputError, match=match):
        estimate_stains(density, REFERENCE, "The image")
