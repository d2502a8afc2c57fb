import numpy as np
import pytest

from deepspot._stats.metrics import pearson
from deepspot.tl._patients.agreement import p_values, shuffled_r, undefined


@pytest.mark.parametrize("slides_of", [1, 2, "some"])
def test_r_is_pearsons_of_the_shuffled_profiles(slides_of):
    """Also where some bulk profiles have more slides than others."""
    rng = np.random.default_rng(0)
    bulk = rng.standard_normal((9, 4)) * 2 + 3
    rows = np.concatenate([np.arange(9), [0, 0, 3]]) if slides_of == "some" else np.repeat(np.arange(9), slides_of)
    slides = rng.standard_normal((len(rows), 4))
    found = shuffled_r(slides, bulk, rows, 5, seed=7)
    drawn = np.random.default_rng(7)
    for r in found:
        np.testing.assert_allclose(r, pearson(slides, bulk[drawn.permutation(9)][rows]), atol=1e-6)


def test_p_is_never_0():
    null = np.array([[0.1, 0.5], [0.2, 0.4], [0.3, 0.6]], dtype=np.float32)
    np.testing.assert_allclose(p_values(np.array([0.9, 0.45]), null), [1 / 4, 3 / 4])


def test_why_r_is_undefined():
    slides, bulk = np.random.default_rng(0).standard_normal((2, 5, 4))
    slides[:, 1], bulk[:, 2], bulk[0, 3] = 0.3, 7, np.nan
    assert list(undefined(slides, bulk)) == ["no", "pseudobulk", "bulk", "missing"]
