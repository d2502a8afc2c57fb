import numpy as np
import pytest
from scipy.spatial import cKDTree
from spatialdata import deepcopy

import deepspot as ds
from deepspot._features.feature_table import bags_of
from deepspot._spatial.transforms import place_spots
from deepspot.models._training.slides import measure
from deepspot.models._training.targets import targets
from deepspot.tl._alignment.align import align
from deepspot.tl._alignment.check_alignment import check_alignment

LEARNED = {"network": {"width": 16, "members": 1}, "training": {"epochs": 3, "max_epochs": 3}, "seed": 0}


@pytest.fixture(scope="module")
def pair(mean_color):
    """Two slides with an odd number of rows: the hexagonal array is symmetric up-down."""
    slides = ds.datasets.toy(2, 1, n_rows=9, n_cols=10, stain_shift=0.1)
    model = ds.models.train(slides["P1_S1"], genes=40, encoder=mean_color(), **LEARNED)
    ds.pp.embed(slides["P2_S1"], mean_color())
    return slides["P2_S1"], model


@pytest.fixture
def slide(pair):
    return deepcopy(pair[0])


@pytest.fixture
def check(pair, cheap_encoder):
    def run(sdata, **options):
        return check_alignment(sdata, pair[1], encoder=cheap_encoder, **options)

    return run


def centers_um(sdata):
    placement = place_spots(sdata, "P2_S1_image", "spots")
    return placement.centers * placement.mpp


def swap_counts(sdata, mirrored):
    """Give every spot the counts of the spot at its mirrored place."""
    um = centers_um(sdata)
    distance, source = cKDTree(um).query(mirrored(um))
    assert distance.max() < 1
    table = sdata.tables["table"]
    table.X = table.X[source]
    return um[source]


def up_down(um):
    return np.column_stack([um[:, 0], um[:, 1].min() + um[:, 1].max() - um[:, 1]])


def test_an_aligned_slide_is_not_changed(slide, check, log):
    before = slide.tables["table"].X.copy()
    result = check(slide)
    assert (result.verdict, result.best) == ("aligned", 0)
    assert sorted(slide.tables) == ["mean_color_spots", "table"]
    assert (before != slide.tables["table"].X).nnz == 0
    assert log[-1] == repr(result)


def test_mirrored_counts_are_detected(slide, check, log):
    truth = swap_counts(slide, up_down)
    result = check(slide)
    assert result.verdict == "misaligned"
    assert result.move == "mirrored up-down"
    assert "when mirrored up-down" in log[-1]
    um = centers_um(slide)
    np.testing.assert_allclose(um @ result.matrix[:2, :2].T + result.matrix[:2, 2], truth, atol=1)


def test_mirrored_spots_are_detected(slide, check):
    from geopandas import points_from_xy

    shapes = slide.shapes["spots"]
    height = slide.images["P2_S1_image"].shape[1]
    shapes["geometry"] = points_from_xy(shapes.geometry.x, height - shapes.geometry.y)
    result = check(slide)
    assert result.verdict == "misaligned"
    assert result.table.loc[result.best, "symmetry"] == "mirrored up-down"


def test_shuffled_counts_are_undecided(slide, check):
    table = slide.tables["table"]
    table.X = table.X[np.random.default_rng(0).permutation(table.n_obs)]
    assert check(slide).verdict == "undecided"


def test_rows_are_matched_by_instance(slide, check):
    expected = check(slide)
    order = np.random.default_rng(0).permutation(slide.tables["table"].n_obs)
    slide.tables["table"] = slide.tables["table"][order].copy()
    np.testing.assert_allclose(check(slide).table["r"], expected.table["r"])


def test_measured_genes_are_on_the_scale_of_the_model(pair, slide, check):
    model, result = pair[1], check(slide, max_shift=1, seed=5)
    measured = measure("slide", slide, "spots", "table", patient="P2", layer=None)
    predicted = model.predict(bags_of(slide, "mean_color_spots", "spots", model.card.geometry.neighbors))
    um = centers_um(slide)
    expected = align(targets([measured], model.card.genes)[0][0], um, predicted, um, max_shift=1, seed=5)
    np.testing.assert_allclose(result.table["r"], expected.table["r"], atol=1e-5)
    assert len(result.table) == 8 * 25


def test_missing_features_are_added(slide, check):
    expected = check(slide, max_shift=0.5)
    del slide.tables["mean_color_spots"]
    np.testing.assert_allclose(check(slide, max_shift=0.5).table["r"], expected.table["r"], atol=1e-5)
    assert "mean_color_spots" in slide.tables


def test_an_existing_prediction_is_used(pair, slide, check, cheap_encoder, log):
    ds.tl.predict(slide, pair[1], encoder=cheap_encoder, key_added="before")
    slide.tables["before"].X[:] = np.random.default_rng(0).random(slide.tables["before"].shape)
    assert check(slide, max_shift=0.5).verdict == "undecided"
    assert any("'before'" in message and "model and spots are the same" in message for message in log)
    stored = check_alignment(slide, prediction_key="before", max_shift=0.5)
    assert stored.verdict == "undecided"


def test_a_prediction_for_other_positions_is_not_used(pair, slide, check, cheap_encoder):
    ds.tl.predict(slide, pair[1], encoder=cheap_encoder)
    slide.tables["deepspot_spots"].X[:] = 0
    slide.shapes["spots"]["geometry"] = slide.shapes["spots"].translate(2, 0)
    assert check(slide, max_shift=0.5).verdict == "aligned"
    with pytest.raises(ValueError, match=r"other positions.*ds\.tl\.predict"):
        check_alignment(slide, prediction_key="deepspot_spots")


def test_model_and_prediction_exclude_each_other(pair, slide):
    with pytest.raises(ValueError, match="not both"):
        check_alignment(slide, pair[1], prediction_key="deepspot_spots")


def test_an_unknown_prediction_lists_the_existing_ones(slide):
    with pytest.raises(KeyError, match=r"table.*not found in `predicted tables of.*Available keys: \[\]"):
        check_alignment(slide, prediction_key="table")


def test_too_few_spots(slide, check):
    slide.tables["table"] = slide.tables["table"][:19].copy()
    with pytest.raises(ValueError, match=r"Only 19 spots of 'spots'.*at least 20"):
        check(slide)


def test_no_measured_genes(slide, check):
    del slide.tables["table"]
    with pytest.raises(KeyError, match="table_key"):
        check(slide)


def test_genes_of_another_kind(slide, check):
    table = slide.tables["table"]
    table.var_names = [f"ENSG{number}" for number in range(table.n_vars)]
    with pytest.raises(ValueError, match="measures 0 of the 40 genes"):
        check(slide)


def test_genes_that_do_not_vary(pair, slide, check, cheap_encoder):
    ds.tl.predict(slide, pair[1], encoder=cheap_encoder)
    slide.tables["deepspot_spots"].X[:] = 1
    with pytest.raises(ValueError, match="None of the 40 shared genes varies"):
        check(slide)


def test_input_is_checked_before_embedding(slide, check, cheap_encoder):
    del slide.tables["mean_color_spots"]
    slide.tables["table"].X = slide.tables["table"].X * 0.5
    with pytest.raises(ValueError, match="raw counts"):
        check(slide)
    with pytest.raises(ValueError, match="max_shift"):
        check(slide, max_shift=0)
    assert cheap_encoder.n_tiles == 0


@pytest.fixture(scope="module")
def section(data, mean_color):
    """A real section, and its genes predicted by ridge on the mean colors of another section."""
    from deepspot._spatial.geometry import NeighborRule
    from deepspot.models._training.targets import choose_genes, training_set

    sections = {name: ds.datasets.her2st(name) for name in ("C3", "C2")}
    known = {n: measure(n, s, "spots", "table", patient="C", layer=None) for n, s in sections.items()}
    bags = {}
    for name, sdata in sections.items():
        ds.pp.embed(sdata, mean_color())
        bags[name] = bags_of(sdata, "mean_color_spots", "spots", NeighborRule(reach=300))
    genes = choose_genes(list(known.values()), 100, min_detected=0.3)
    train = training_set([known["C3"]], {"C3": bags["C3"]}, targets([known["C3"]], genes)[0])
    ridge = train.fit(ds.models.Ridge(alphas=(1000.0,)))
    um = place_spots(sections["C2"], "C2_image", "spots")
    return targets([known["C2"]], genes)[0][0], ridge.predict(bags["C2"]), um.centers * um.mpp


def test_a_real_section_is_aligned_and_its_mirror_image_is_not(section):
    measured, predicted, um = section
    assert align(measured, um, predicted, um).verdict == "aligned"
    distance, source = cKDTree(um).query(um.min(axis=0) * [1, 0] + um.max(axis=0) * [1, 0] + um * [-1, 1])
    there = distance < 60
    mirrored = align(measured[source[there]], um[there], predicted, um)
    assert mirrored.verdict == "misaligned"
    assert mirrored.table.loc[mirrored.best, "symmetry"] == "mirrored left-right"
