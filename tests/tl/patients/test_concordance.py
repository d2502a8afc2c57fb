import numpy as np
import pytest
from lifelines.utils import concordance_index

from deepspot.tl._patients.cox import concordance


@pytest.mark.parametrize("seed", range(20))
def test_as_lifelines_counts_pairs_and_ties(seed):
    rng = np.random.default_rng(seed)
    time = rng.integers(0, 8, size=40).astype(float)  # many ties, of those who died and those who were censored
    died = rng.random(40) < 0.5
    risk = rng.integers(0, 5, size=40).astype(float)
    assert concordance(time, died, risk) == pytest.approx(concordance_index(time, -risk, died))


def test_known_answers():
    time, died = np.array([1.0, 2.0, 3.0]), np.array([True, True, False])
    assert concordance(time, died, np.array([3.0, 2.0, 1.0])) == 1
    assert concordance(time, died, np.array([1.0, 2.0, 3.0])) == 0
    assert concordance(time, died, np.zeros(3)) == 0.5
    # The first was censored before anybody died: only the two others are a pair.
    assert concordance(time, np.array([False, True, False]), np.array([0.0, 1.0, 0.0])) == 1
    # Two who died at once are no pair; one who was alive at that time is.
    assert np.isnan(concordance(np.ones(2), np.ones(2, bool), np.arange(2.0)))
    assert concordance(np.ones(2), np.array([True, False]), np.array([1.0, 0.0])) == 1


def test_nobody_died():
    assert np.isnan(concordance(np.arange(4.0), np.zeros(4, bool), np.arange(4.0)))
