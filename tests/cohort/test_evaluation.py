import numpy as np
import pandas as pd
import pytest

import deepspot as ds
from deepspot._stats.normalize import normalize


@pytest.fixture(scope="module")
def cv(mean_color):
    """Two sites, and a model that learned from both."""
    slides = ds.datasets.toy(4, 1, n_rows=5, n_cols=6)
    for number, sdata in enumerate(slides.values()):
        sdata["table"].obs["site"] = "north" if number < 2 else "south"
    return ds.models.cross_validate(slides, patient_key="patient", models=["ridge"], genes=20, encoder=mean_color())


@pytest.fixture
def evaluated(add_table):
    """Four slides with a prediction of known agreement, better on the first two."""
    slides = ds.datasets.toy(4, 1, n_rows=5, n_cols=6)
    rng = np.random.default_rng(0)
    for number, sdata in enumerate(slides.values()):
        table = sdata["table"]
        truth = normalize(table.X.tocsr()).toarray()
        table.obs["site"] = "north" if number < 2 else "south"
        centers = np.asarray(table.obsm["spatial"])
        noisy = truth + (0.2 if number < 2 else 3) * rng.normal(size=truth.shape)
        add_table(sdata, noisy, table.var_names, obsm={"spatial": centers})
        ds.tl.evaluate(sdata)
    return slides


def test_a_cross_validation_in_one_table(cv):
    table = ds.cohort.evaluation(cv)
    assert list(table) == ["model", "measure", "value", "low", "high", "patients"]
    assert not table.duplicated(["model", "measure"]).any()
    wide = table.pivot(index="model", columns="measure", values="value")
    summary = cv.measures()
    for name in ("r", "r_beyond_axis", "r_of_ceiling", "gene_agreement", "patterns_predicted"):
        np.testing.assert_allclose(wide.loc[summary.index, name], summary[name])
    assert wide.loc["training mean", "r_all"] > 0.5
    assert wide.loc["training mean", ["r", "spearman", "lee", "r_all_pattern"]].tolist() == pytest.approx([0] * 4)
    assert wide.loc["ridge", "r_all_pattern"] > 0.1
    assert (table["patients"].between(1, 4)).all()
    known = table.dropna(subset=["low"])
    assert (known["low"] <= known["value"]).all()
    assert (known["value"] <= known["high"]).all()


def test_table_of_transfer(cv):
    table = ds.cohort.evaluation(cv, groupby="site")
    assert list(table)[:4] == ["model", "train", "test", "measure"]
    r = table[(table["model"] == "ridge") & (table["measure"] == "r")].set_index("test")
    assert r["train"].to_dict() == {"north": "north + south", "south": "north + south"}
    assert list(r["patients"]) == [2, 2]
    overall = ds.cohort.evaluation(cv).query("model == 'ridge' and measure == 'r'")["value"].item()
    assert r["value"].mean() == pytest.approx(overall)
    # The training of a patient of a site of its own has no slide of this site.
    sites = {"P1_S1": "north", "P2_S1": "south", "P3_S1": "south", "P4_S1": "south"}
    for groupby in (sites, pd.Series(sites)):
        apart = ds.cohort.evaluation(cv, groupby=groupby).query("model == 'ridge' and measure == 'r'")
        assert set(zip(apart["train"], apart["test"], strict=True)) == {("south", "north"), ("north + south", "south")}
        assert apart.set_index("test").loc["north", ["low", "high"]].isna().all()  # one patient


def test_evaluated_slides(evaluated):
    table = ds.cohort.evaluation(evaluated, groupby="site").set_index(["test", "measure"])
    agreement = [sdata["deepspot_spots"].uns["deepspot"]["agreement"] for sdata in evaluated.values()]
    for test, part in (("north", agreement[:2]), ("south", agreement[2:])):
        for name in ("r", "rmse", "ssim", "r_all_pattern", "r_depth"):
            assert table.loc[(test, name), "value"] == pytest.approx(np.mean([means[name] for means in part]))
    assert table.loc[("north", "r"), "value"] > table.loc[("south", "r"), "value"]
    assert set(table["patients"]) == {2}
    one = ds.cohort.evaluation(evaluated, patient_key=dict.fromkeys(evaluated, "P"))
    assert set(one["patients"]) == {1}
    assert "test" not in one


def test_bad_input(cv, evaluated, toy):
    with pytest.raises(KeyError, match=r"'hospital'` not found in .*'site'"):
        ds.cohort.evaluation(cv, groupby="hospital")
    with pytest.raises(ValueError, match=r"no group for slides \['P4_S1'\]"):
        ds.cohort.evaluation(cv, groupby={"P1_S1": "a", "P2_S1": "a", "P3_S1": "b"})
    with pytest.raises(KeyError, match=r"'P1_S1' was not evaluated. Call `ds.tl.evaluate"):
        ds.cohort.evaluation(toy)
    with pytest.raises(KeyError, match="'other'` not found"):
        ds.cohort.evaluation(evaluated, prediction_key="other")
    with pytest.raises(ValueError, match="`n_bootstrap`"):
        ds.cohort.evaluation(cv, n_bootstrap=0)
