import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from anndata import concat as concat_tables
from spatialdata.models import ShapesModel, TableModel

import deepspot as ds
from deepspot._sdata.tables import (
    array_positions,
    find_expression_table,
    find_measured_table,
    is_deepspot_table,
    labels_of,
    link_keys,
    match_rows,
    rows_of,
    tables_annotating,
)
from deepspot._sdata.write import make_table

XY = np.array([[10.0, 10.0], [20.0, 20.0], [30.0, 30.0], [40.0, 40.0]])
SPOTS = ["A", "B", "C", "D"]


@pytest.fixture
def tiny(slide_of):
    return slide_of(np.full((60, 60, 3), 255, np.uint8), XY, index=SPOTS)


def measured(instances, region="spots", **columns):
    obs = pd.DataFrame({"area": pd.Categorical([region] * len(instances)), "id": instances, **columns})
    obs.index = obs.index.astype(str)
    values = np.array([[float(ord(name[0]))] for name in instances])
    return TableModel.parse(AnnData(values, obs=obs), region=region, region_key="area", instance_key="id")


@pytest.mark.parametrize(
    ("rows", "expected", "at"),
    [
        (["A", "B", "C", "D"], [0, 1, 2, 3], [0, 1, 2, 3]),
        (["D", "B", "A", "C"], [2, 1, 3, 0], [0, 1, 2, 3]),
        (["C", "A"], [1, 0], [0, 2]),
        (["X", "C", "Y"], [1], [2]),
    ],
)
def test_rows_are_matched_by_instance(tiny, rows, expected, at):
    tiny["t"] = measured(rows)
    found, positions = match_rows(tiny["t"], tiny, "spots")
    assert found.tolist() == expected
    assert positions.tolist() == at
    assert [chr(int(v)) for v in tiny["t"].X[found, 0]] == [SPOTS[i] for i in at]


def test_rows_of_another_region_are_excluded(tiny):
    tiny["more"] = ShapesModel.parse(XY, geometry=0, radius=1, index=SPOTS)
    both = concat_tables([measured(["D", "A"], "more"), measured(["C", "B"])], index_unique="-")
    both.obs["area"] = both.obs["area"].astype("category")
    tiny["t"] = TableModel.parse(both, region=["more", "spots"], region_key="area", instance_key="id")
    assert tables_annotating(tiny, "spots") == tables_annotating(tiny, "more") == ["t"]
    assert rows_of(tiny["t"], "spots").to_dict() == {2: "C", 3: "B"}
    found, positions = match_rows(tiny["t"], tiny, "spots")
    assert found.tolist() == [3, 2]
    assert positions.tolist() == [1, 2]


def ours(sdata, key, kind="prediction", region="spots"):
    sdata[key] = make_table(
        np.ones((4, 1)),
        region=region,
        instances=pd.Index(SPOTS),
        region_key="area",
        instance_key="id",
        uns={"deepspot": {"kind": kind}},
    )


def twice_b(**columns):
    table = measured(["A", "B", "C"], **columns)  # `parse` itself refuses duplicates, but only when it is called
    table.obs["id"] = ["A", "B", "B"]
    return table


def test_duplicate_instances_are_refused(tiny):
    tiny["t"] = twice_b()
    with pytest.raises(ValueError, match=r"Spot 'B' of 'spots' has more than one row.*Keep one row for each spot"):
        match_rows(tiny["t"], tiny, "spots")


def test_several_measured_tables_are_listed(tiny):
    tiny["counts"], tiny["corrected"] = measured(SPOTS), measured(SPOTS)
    with pytest.raises(
        ValueError, match=r"several candidates: \['counts', 'corrected'\]\. Choose one with `table_key="
    ):
        find_measured_table(tiny, "spots", None)
    assert find_measured_table(tiny, "spots", "corrected") == "corrected"


def test_tables_of_this_package_are_not_measured(tiny):
    ours(tiny, "features", "features")
    with pytest.raises(KeyError, match="holds no suitable element, so `table_key` cannot be chosen"):
        find_measured_table(tiny, "spots", None)
    tiny["counts"] = measured(SPOTS)
    assert find_measured_table(tiny, "spots", None) == "counts"
    assert find_measured_table(tiny, "spots", "features") == "features"
    assert is_deepspot_table(tiny["features"])
    assert not is_deepspot_table(tiny["counts"])


def test_tables_of_other_shapes_are_not_candidates(tiny):
    tiny["spots_grid"] = ShapesModel.parse(XY, geometry=0, radius=1, index=SPOTS)
    tiny["t"] = measured(SPOTS, "spots_grid")
    assert tables_annotating(tiny, "spots") == []
    with pytest.raises(
        KeyError, match=r"Key `'t'` not found in `sdata.tables annotating 'spots'`. Available keys: \[\]"
    ):
        find_measured_table(tiny, "spots", "t")


def test_link_keys_of_the_measured_table_are_reused(tiny):
    assert link_keys(tiny, "spots") == ("region", "spot_id")
    tiny["t"] = measured(SPOTS)
    assert link_keys(tiny, "spots") == ("area", "id")


def test_unlinked_table_is_ignored(tiny):
    tiny["bulk"] = AnnData(np.ones((1, 3)))
    assert tables_annotating(tiny, "spots") == []


def test_array_positions_follow_the_shapes(tiny):
    tiny["t"] = measured(["D", "B", "A", "C"], array_row=[3, 1, 0, 2], array_col=[6, 2, 0, 4])
    np.testing.assert_array_equal(array_positions(tiny, "spots"), [[0, 0], [1, 2], [2, 4], [3, 6]])


def test_array_positions_of_the_shapes_take_precedence(tiny):
    tiny["t"] = measured(SPOTS, array_row=0, array_col=0)
    tiny.shapes["spots"] = tiny["spots"].assign(array_row=range(4), array_col=5)
    np.testing.assert_array_equal(array_positions(tiny, "spots"), [[0, 5], [1, 5], [2, 5], [3, 5]])


def test_incomplete_array_positions_are_unknown(tiny):
    tiny["t"] = measured(["A", "B"], array_row=0, array_col=0)
    assert array_positions(tiny, "spots") is None


def test_array_positions_of_duplicate_instances(tiny):
    tiny["t"] = twice_b(array_row=0, array_col=0)
    with pytest.raises(ValueError, match="Spot 'B' of 'spots' has more than one row"):
        array_positions(tiny, "spots")


def test_features_are_in_the_order_of_the_shapes(slide, cheap_encoder):
    ds.pp.embed(slide, cheap_encoder, key_added="first")
    array = array_positions(slide, "spots")
    order = np.random.default_rng(0).permutation(slide["table"].n_obs)
    slide.tables["table"] = slide["table"][order].copy()
    ds.pp.embed(slide, cheap_encoder, key_added="second")
    np.testing.assert_array_equal(slide["first"].X, slide["second"].X)
    np.testing.assert_array_equal(array_positions(slide, "spots"), array)
    assert slide["second"].obs["spot_id"].tolist() == slide["spots"].index.tolist()


def test_expression_table_is_predicted_or_corrected(tiny):
    tiny["counts"] = measured(SPOTS)
    ours(tiny, "features", "features")
    with pytest.raises(KeyError, match=r"No table holds predicted or corrected genes. Call `ds.tl.predict\(sdata\)`"):
        find_expression_table(tiny, None)
    ours(tiny, "predicted")
    assert find_expression_table(tiny, None) == "predicted"
    assert find_expression_table(tiny, "counts") == "counts"
    ours(tiny, "corrected", "corrected")
    with pytest.raises(
        ValueError, match=r"several candidates: \['predicted', 'corrected'\]. Choose one with `table_key="
    ):
        find_expression_table(tiny, None)
    with pytest.raises(KeyError, match=r"Key `'x'` not found in `sdata.tables`"):
        find_expression_table(tiny, "x")


def test_prediction_of_spots_takes_precedence_over_subspots(tiny):
    tiny["parts"] = ShapesModel.parse(XY, geometry=0, radius=1, index=SPOTS)
    tiny["parts"]["parent"] = SPOTS
    ours(tiny, "fine", region="parts")
    assert find_expression_table(tiny, None) == "fine"
    ours(tiny, "coarse")
    assert find_expression_table(tiny, None) == "coarse"


def test_labels_of_obs_take_precedence(tiny):
    tiny["t"] = measured(["D", "A", "C"], grade=[2, 1, 2], drawn=pd.Categorical(["x", None, "x"], ["y", "x"]))
    tiny.shapes["spots"] = tiny["spots"].assign(grade=9, side=["left", "left", None, "right"])
    grade = labels_of(tiny, "t", "grade")
    assert grade.tolist() == ["2", "1", "2"]
    assert grade.cat.categories.tolist() == ["1", "2"]
    assert grade.index.equals(tiny["t"].obs_names)
    assert labels_of(tiny, "t", "drawn").cat.categories.tolist() == ["x"]  # only what is there
    side = labels_of(tiny, "t", "side")
    assert side.astype(object).where(side.notna(), None).tolist() == ["right", "left", None]


def test_categories_of_the_shapes_keep_their_order(tiny):
    tiny["t"] = measured(["D", "A"])
    order = pd.Categorical(["late", "early", "early", "early"], ["late", "early"])
    tiny.shapes["spots"] = tiny["spots"].assign(stage=order)
    stage = labels_of(tiny, "t", "stage")
    assert stage.tolist() == ["early", "late"]
    assert stage.cat.categories.tolist() == ["late", "early"]


def test_missing_labels(tiny):
    tiny["t"] = measured(SPOTS)
    tiny["other"] = measured(SPOTS, stage="late")
    message = (
        r"Key `'stage'` not found in `obs of table 't'` or `its shapes`. Available keys: \['area', 'id'\], and in "
        r"shapes \{'spots': \['radius'\]\}. Table 'other' has it in `obs`"
    )
    with pytest.raises(KeyError, match=message):
        labels_of(tiny, "t", "stage")
