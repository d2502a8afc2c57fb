import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from deepspot._core.prefetch import RowBuffer


@given(st.lists(st.integers(0, 9), min_size=1), st.data())
def test_what_is_put_in_comes_out_in_any_portions(sizes, data):
    rows = np.arange(sum(sizes) * 2).reshape(-1, 2)
    portions, taken = RowBuffer(), []
    for part in np.split(rows, np.cumsum(sizes)[:-1]):
        portions.put(part)
        if portions.n:
            n = data.draw(st.integers(1, portions.n))
            taken.append(portions.take(n))
            assert len(taken[-1]) == n
    if portions.n:
        taken.append(portions.take(portions.n))
    assert portions.n == 0
    np.testing.assert_array_equal(np.concatenate([rows[:0], *taken]), rows)
