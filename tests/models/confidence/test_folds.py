import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from deepspot.models._confidence.folds import make_folds


@settings(max_examples=60, deadline=None)
@given(
    patients=st.lists(st.integers(0, 7), min_size=8, max_size=60),
    n_folds=st.integers(2, 6),
    seed=st.integers(0, 99),
)
def test_no_unit_is_ever_on_both_sides_and_every_row_is_held_out_once(patients, n_folds, seed):
    patients = np.array(patients)
    slides = 10 * patients + np.arange(len(patients)) % 2
    rows = np.random.default_rng(seed).integers(len(patients), size=2 * len(patients))
    if len(np.unique(rows)) < 2:
        return
    folds = make_folds(rows, slides, patients, n_folds)
    for learned, held in folds.splits:
        assert not set(folds.labels[learned]) & set(folds.labels[held])
        assert len(np.unique(held)) == len(held)
        assert len(learned) == np.isin(rows, learned).sum()  # oversampled rows keep their repetitions
    np.testing.assert_array_equal(np.sort(np.concatenate([held for _, held in folds.splits])), np.unique(rows))


def test_patients_come_before_slides_and_slides_before_blocks():
    rows, one, two = np.arange(12), np.zeros(12, int), np.repeat([0, 1], 6)
    assert make_folds(rows, two, two).unit == "patients"
    assert make_folds(rows, two, one).unit == "slides"
    blocks = make_folds(rows, one, one)
    assert blocks.unit == "blocks"
    assert len(blocks.splits) == 5
    assert all((np.diff(held) == 1).all() for _, held in blocks.splits)


def test_a_single_spot_cannot_be_split():
    with pytest.raises(ValueError, match="at least 2"):
        make_folds(np.zeros(3, int), np.zeros(1), np.zeros(1))


def test_blocks_are_contiguous_if_rows_are_in_the_order_of_barcodes():
    rng = np.random.default_rng(0)
    position = np.column_stack([rng.permutation(40), np.zeros(40)])
    one = np.zeros(40, int)
    for _, held in make_folds(np.arange(40), one, one, position=position).splits:
        assert np.ptp(position[held, 0]) == len(held) - 1
