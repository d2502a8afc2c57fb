import pytest

from deepspot._core.logging import count_of


@pytest.mark.parametrize(("n", "text"), [(0, "0 spots"), (1, "1 spot"), (1234, "1,234 spots")])
def test_numbers_with_their_noun(n, text):
    assert count_of(n, "spot") == text
