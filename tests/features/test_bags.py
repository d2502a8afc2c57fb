from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_matrix

from deepspot._features.bags import Bags
from deepspot._features.feature_table import bags_of
from deepspot._spatial.geometry import NeighborRule


def bags(n, *, d=4, s=9, fill=0.0, subspots=True):
    ring = csr_matrix(np.roll(np.eye(n, dtype=bool), 1, axis=1))
    return Bags(np.full((n, d), fill, np.float32), np.full((n, s, d), fill, np.float16) if subspots else None, ring)


def test_size():
    assert len(bags(3)) == 3
    assert bags(3, d=5).dim == 5


def test_neighbors_do_not_cross_slides():
    both = Bags.concat([bags(3, fill=1), bags(2, fill=2)])
    assert len(both) == 5
    np.testing.assert_array_equal(both.spot[:, 0], [1, 1, 1, 2, 2])
    np.testing.assert_array_equal(both.subspots[:, 0, 0], [1, 1, 1, 2, 2])
    assert both.subspots.dtype == np.float16
    assert both.neighbors.dtype == bool
    np.testing.assert_array_equal(
        both.neighbors.toarray(),
        [[0, 1, 0, 0, 0], [0, 0, 1, 0, 0], [1, 0, 0, 0, 0], [0, 0, 0, 0, 1], [0, 0, 0, 1, 0]],
    )


def test_without_subspots():
    assert Bags.concat([bags(3, subspots=False), bags(2, subspots=False)]).subspots is None


def test_subspots_for_some_slides_only_are_refused():
    for pair in ([bags(3), bags(2, subspots=False)], [bags(3, subspots=False), bags(2)]):
        with pytest.raises(ValueError, match="Some slides have sub-spots and some have not"):
            Bags.concat(pair)


def test_inconsistent_shapes_are_refused():
    with pytest.raises(ValueError, match=r"`neighbors` must be of shape \(3, 3\), got \(2, 2\)"):
        Bags(np.zeros((3, 4)), None, csr_matrix((2, 2), dtype=bool))
    for wrong in ((2, 9, 4), (3, 9, 5)):
        with pytest.raises(ValueError, match=r"`subspots` must be of shape \(3, s, 4\)"):
            Bags(np.zeros((3, 4)), np.zeros(wrong), csr_matrix((3, 3), dtype=bool))


def test_empty_bags_are_refused():
    with pytest.raises(ValueError, match="`spot` is empty: a bag needs at least one spot"):
        Bags(np.zeros((0, 4)), None, csr_matrix((0, 0), dtype=bool))


def test_diagonal_of_neighbors_is_refused():
    with pytest.raises(ValueError, match="`neighbors` has entries on its diagonal"):
        Bags(np.zeros((2, 4)), None, csr_matrix(np.eye(2)))


def test_neighbors_become_boolean_without_stored_zeros():
    weights = csr_matrix((np.array([0.0, 0.0, 2.5]), ([0, 0, 1], [0, 1, 0])), shape=(2, 2))
    neighbors = Bags(np.zeros((2, 4)), None, weights).neighbors
    assert neighbors.dtype == bool
    assert neighbors.nnz == 1
    assert weights.nnz == 3


def test_bags_of_a_feature_table_have_neighbors_in_microns(slide, cheap_encoder):
    import deepspot as ds

    ds.pp.embed(slide, cheap_encoder)
    features = slide["mean_color_spots"]
    made = bags_of(slide, "mean_color_spots", "spots", NeighborRule(reach=101))
    np.testing.assert_array_equal(made.spot, features.X)
    np.testing.assert_array_equal(made.subspots, features.obsm["subspots"])
    # In a hexagonal array of 5 × 6 spots the inner ones have 6 neighbors.
    degree = np.asarray(made.neighbors.sum(axis=1)).ravel()
    assert degree.max() == 6
    assert degree.min() == 2
    assert bags_of(slide, "mean_color_spots", "spots", NeighborRule(reach=99)).neighbors.nnz == 0


def test_bags_of_a_feature_table_with_boxes(slide, cheap_encoder):
    import deepspot as ds

    ds.pp.embed(slide, cheap_encoder)
    made = bags_of(slide, "mean_color_spots", "spots", NeighborRule(kind="box", reach=1))
    array = slide["table"].obs[["array_row", "array_col"]].to_numpy()
    steps = np.abs(array[:, None] - array).max(axis=-1)
    np.testing.assert_array_equal(made.neighbors.toarray(), (steps <= 1) & (steps > 0))


def test_bags_of_some_spots_and_their_neighbors():
    whole = bags(6)
    whole = Bags(np.arange(24, dtype=np.float32).reshape(6, 4), whole.subspots, whole.neighbors, np.ones((6, 2)))
    part = whole.around(np.array([4, 0]))  # each is a neighbor of the one before it
    np.testing.assert_array_equal(part.spot[:, 0] / 4, [4, 0, 1, 5])
    assert part.subspots.shape == (4, 9, 4)
    assert part.position.shape == (4, 2)
    assert part.tiles is None
    np.testing.assert_array_equal(part.neighbors[:2].toarray(), [[0, 0, 0, 1], [0, 0, 1, 0]])


def ragged(sizes, *, d=4, s=None, seed=0):
    """Bags whose spots have these numbers of sub-spots, in padding for s of them."""
    n, s = len(sizes), max(sizes) if s is None else s
    present = np.arange(s) < np.array(sizes)[:, None]
    values = np.zeros((n, s, d), np.float16)
    rng = np.random.default_rng(seed)
    values[present] = rng.normal(size=(present.sum(), d))
    return Bags(rng.normal(size=(n, d)).astype(np.float32), values, bags(n, d=d).neighbors, present=present)


def test_present_must_fit_the_subspots():
    whole = ragged([2, 0, 3])
    with pytest.raises(ValueError, match="`present` says which `subspots` exist, but there are none"):
        replace(whole, subspots=None)
    for wrong in (whole.present[:, :2], whole.present.astype(int)):
        with pytest.raises(ValueError, match=r"`present` must be bool of shape \(3, 3\), got"):
            replace(whole, present=wrong)
    for filled in (1, np.nan):
        values = whole.subspots.copy()
        values[1, 1] = filled
        with pytest.raises(ValueError, match="not 0 in places where `present` is False"):
            replace(whole, subspots=values)
    with pytest.raises(ValueError, match="not 0 in places where `present` is False"):
        replace(whole, present=~whole.present)


def test_sets_of_different_size_are_padded_alike():
    few, many, all_there = ragged([1, 2]), ragged([3, 0]), bags(2, s=2, fill=1)
    both = Bags.concat([few, many, all_there])
    assert both.subspots.shape == (6, 3, 4)
    assert both.subspots.dtype == np.float16
    assert both.present.sum(axis=1).tolist() == [1, 2, 3, 0, 2, 2]
    np.testing.assert_array_equal(both.subspots[:2, :2], few.subspots)
    assert Bags.concat([all_there, all_there]).present is None
    with pytest.raises(ValueError, match="Some slides have sub-spots and some have not"):
        Bags.concat([few, bags(2, subspots=False)])


def test_sets_around_some_spots():
    whole = ragged([1, 2, 0, 4, 2, 3])
    part = whole.around(np.array([4, 0]))
    np.testing.assert_array_equal(part.present, whole.present[[4, 0, 1, 5]])
    np.testing.assert_array_equal(part.subspots, whole.subspots[[4, 0, 1, 5]])


def test_a_feature_table_says_which_subspots_exist(slide, cheap_encoder):
    import deepspot as ds

    ds.pp.embed(slide, cheap_encoder)
    features = slide["mean_color_spots"]
    assert bags_of(slide, "mean_color_spots", "spots", NeighborRule(reach=101)).present is None
    present = np.random.default_rng(0).random((features.n_obs, 9)) < 0.5
    features.obsm["subspots"] = features.obsm["subspots"] * present[..., None]
    features.obsm["subspots_present"] = present
    made = bags_of(slide, "mean_color_spots", "spots", NeighborRule(reach=101))
    np.testing.assert_array_equal(made.present, present)
