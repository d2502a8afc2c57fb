import matplotlib.pyplot as plt
import numpy as np
import pytest

from deepspot.pl._alignment import alignment as draw
from deepspot.tl._alignment.align import align
from deepspot.tl._alignment.moves import SYMMETRIES


@pytest.fixture(scope="module")
def result():
    """Measured spots one spot too far down and mirrored left-right."""
    rng = np.random.default_rng(0)
    um = np.column_stack([part.ravel() for part in np.meshgrid(np.arange(9), np.arange(9))]) * 100.0
    predicted = rng.normal(size=(81, 10))
    image = predicted.reshape(9, 9, 10)
    measured = image[:-1, ::-1].reshape(72, 10)
    return align(measured, um[9:], predicted, um, max_shift=2)


def test_eight_maps_show_r_of_each_move(result):
    axes = draw(result)
    assert [ax.get_title() for ax in axes] == list(SYMMETRIES)
    for ax, symmetry in zip(axes, SYMMETRIES, strict=True):
        (image,) = ax.images
        moves = result.table[result.table["symmetry"] == symmetry].sort_values(["dy_um", "dx_um"])
        np.testing.assert_array_equal(image.get_array().filled(np.nan).ravel(), moves["r"])
        assert image.get_clim() == axes[0].images[0].get_clim()


def test_upward_shifts_are_positive(result):
    image = draw(result)[1].images[0]
    left, right, bottom, top = image.get_extent()
    assert (left, right, bottom, top) == (-2.25, 2.25, -2.25, 2.25)
    assert image.origin == "upper"
    row, column = np.unravel_index(np.argmax(image.get_array()), image.get_array().shape)
    assert (row, column) == (2, 4)


def test_the_best_move_and_the_spots_as_they_are_are_marked(result):
    axes = draw(result)
    assert [len(ax.lines) for ax in axes] == [1, 1, 0, 0, 0, 0, 0, 0]
    assert axes[0].lines[0].get_xydata().tolist() == [[0, 0]]
    np.testing.assert_allclose(axes[1].lines[0].get_xydata(), [[0, 1]])
    assert axes[1].title.get_fontweight() == "bold"


def test_the_title_is_the_verdict(result):
    title = draw(result)[0].figure.get_suptitle()
    assert title.replace("\n", " ") == repr(result)
    assert "mirrored left-right and then moved 100 µm up" in title


def test_draws_into_given_axes(result):
    _, given = plt.subplots(2, 4)
    assert draw(result, ax=given) == list(given.ravel())


def test_another_number_of_axes_is_refused(result):
    _, given = plt.subplots(1, 3)
    with pytest.raises(ValueError, match=r"8 axes.*got 3"):
        draw(result, ax=given)
