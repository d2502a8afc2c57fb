import pytest

import deepspot as ds

KNOWN = {
    "tiles_per_second": 100, "workers": 4, "n_genes": 1_000, "dim": 500, "distance_um": 100, "mpp": 0.5,
    "megapixels_per_second": 10, "spots_per_second": 1_000, "megabytes_per_second": 50, "bytes_per_value": 2,
}  # fmt: skip


def test_by_hand():
    cost = ds.tl.cohort_cost(1_000_000, **KNOWN)
    assert cost.loc["read", "hours"] == pytest.approx(1e6 * 200 * 200 / 1e6 / 10 / 3600)
    assert cost.loc["embed", "hours"] == pytest.approx(1e7 / 100 / 3600)
    assert cost.loc["predict", "hours"] == pytest.approx(1e6 / 1_000 / 3600)
    assert cost.loc["write", "hours"] == pytest.approx(4e9 / 1e6 / 50 / 3600)
    assert cost.loc["embed", "gigabytes"] == pytest.approx(1e7 * 500 * 2 / 1e9)
    assert cost.loc["write", "gigabytes"] == pytest.approx(2)
    assert cost.loc["all", "hours"] == pytest.approx(cost["hours"].iloc[:4].sum())
    assert cost.loc["all", "days"] == pytest.approx(cost.loc["all", "hours"] / 4 / 24)
    assert cost["share"].iloc[:4].sum() == pytest.approx(1)


def test_without_subspots_a_tenth_is_embedded():
    whole, alone = (ds.tl.cohort_cost(1_000, **KNOWN, subspots=n).loc["embed", "amount"] for n in (9, 0))
    assert whole == 10 * alone


@pytest.mark.parametrize("name", ["tiles_per_second", "workers", "mpp"])
def test_numbers_are_above_0(name):
    with pytest.raises(ValueError, match=f"`{name}` must be above 0"):
        ds.tl.cohort_cost(1_000, **{**KNOWN, name: 0})
    with pytest.raises(ValueError, match="`subspots` must not be below 0"):
        ds.tl.cohort_cost(1_000, **KNOWN, subspots=-1)
