import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from deepspot.encoders import EncoderCard
from deepspot.encoders._parts import pool, weights

WHOLE = EncoderCard(name="whole", dim=2)
CUT = EncoderCard(name="cut", dim=2, resize_px=256)


def test_cells_are_weighted_by_overlap():
    np.testing.assert_allclose(weights(6, 3, WHOLE), np.kron(np.eye(3), [0.5, 0.5]))
    third = 3 / 7  # a part is 7/3 cells wide
    expected = [
        [third, third, third / 3, 0, 0, 0, 0],
        [0, 0, third * 2 / 3, third, third * 2 / 3, 0, 0],
        [0, 0, 0, 0, third / 3, third, third],
    ]
    np.testing.assert_allclose(weights(7, 3, WHOLE), expected, atol=1e-6)


@given(cells=st.integers(1, 20), grid=st.integers(1, 6), cut=st.booleans())
def test_weights_sum_to_one_and_are_symmetric(cells, grid, cut):
    share = weights(cells, grid, CUT if cut else WHOLE)
    assert share.shape == (grid, cells)
    assert (share >= 0).all()
    np.testing.assert_allclose(share.sum(axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(share, share[::-1, ::-1], atol=1e-5)
    if not cut:  # the average over all parts is that over all cells
        np.testing.assert_allclose(share.mean(axis=0), 1 / cells, atol=1e-5)


def test_cropped_border_does_not_move_parts():
    """Of 256 px the network sees 16 to 240: the middle third begins at 85.3, that is 69.3 of 224 px or cell 4.95."""
    share = weights(16, 3, CUT)
    center = share @ (np.arange(16) + 0.5) / 16 * 224 + 16
    edges = np.array([16, 256 / 3, 512 / 3, 240])
    np.testing.assert_allclose(center, (edges[:-1] + edges[1:]) / 2, atol=0.3)
    assert (share > 0).sum(axis=1).tolist() == [5, 8, 5]
    assert (weights(16, 3, WHOLE) > 0).sum(axis=1).tolist() == [6, 6, 6]


def test_invisible_parts_are_refused():
    with pytest.raises(ValueError, match=r"'cut' sees 88% of a tile, and none of the outer of 16 × 16 sub-spots"):
        weights(14, 16, CUT)


def test_row_major_order():
    cells = torch.arange(36.0).view(1, 6, 6, 1).expand(2, 6, 6, 2)
    found = pool(cells, 3, WHOLE)
    assert found.shape == (2, 9, 2)
    assert found.dtype == torch.float32
    expected = [3.5 + 12 * row + 2 * col for row in range(3) for col in range(3)]
    np.testing.assert_allclose(found[1, :, 1], expected)


def test_half_precision_is_summed_in_single():
    cells = torch.full((1, 16, 16, 2), 1 + 2**-10, dtype=torch.float16)
    np.testing.assert_allclose(pool(cells, 3, WHOLE), 1 + 2**-10, rtol=1e-6)
