import numpy as np
import pandas as pd
import pytest

import deepspot as ds

R = {"A": (0.5, 0.3), "B": (0.4, 0.1), "C": (0.6, -0.1), "D": (0.4, 0.0), "E": (0.7, np.nan), "F": (np.nan, np.nan)}
WORDS = ["usable as a pattern", "weak", "no evidence", "no evidence", "too few patients", "not measured"]


@pytest.fixture
def predicted(slide, add_table):
    add_table(slide, np.ones((30, len(R))), list(R))
    table = slide.tables["deepspot_spots"]
    table.var["expected_r"], table.var["expected_r_low"] = np.transpose(list(R.values()))
    return slide


def test_verdicts_follow_from_the_interval_and_are_ordered(predicted):
    ds.tl.trust(predicted)
    verdict = predicted.tables["deepspot_spots"].var["verdict"]
    assert list(verdict) == WORDS
    assert list(verdict.sort_values(ascending=False).index[:2]) == ["F", "E"]
    assert verdict.cat.ordered


@pytest.mark.parametrize(("share", "valid"), [(0.2, True), (0.3, False)])
def test_no_verdict_where_the_expected_r_does_not_apply(share, valid, predicted):
    table = predicted.tables["deepspot_spots"]
    table.obs["ood"] = np.arange(30) < share * 30
    ds.tl.trust(predicted, key_added="words")
    assert ("not valid here" not in set(table.var["words"])) is valid
    table.obs["ood"] = False
    table.uns["deepspot"]["resolution"] = "subspot"
    ds.tl.trust(predicted)
    assert set(table.var["verdict"]) == {"not valid here"}


def test_a_prediction_without_expected_r_was_not_measured(predicted):
    table = predicted.tables["deepspot_spots"]
    table.var = pd.DataFrame(index=table.var_names)
    ds.tl.trust(predicted)
    assert set(table.var["verdict"]) == {"not measured"}
    before = table.var.copy()
    with pytest.raises(ValueError, match="has \\['verdict'\\] already"):
        ds.tl.trust(predicted)
    with pytest.raises(KeyError, match="'cells'"):
        ds.tl.trust(predicted, shapes_key="cells")
    pd.testing.assert_frame_equal(table.var, before)
