import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from scipy.stats import pearsonr, spearmanr

import deepspot as ds
from deepspot._stats.metrics import pearson
from deepspot.cohort._patients.agreement import shuffled_r

N, GENES = 60, 200


def simulated(seed=0):
    """60 frozen sections and 40 FFPE slides of 30 patients; r is 0.8 in the first 50 genes and 0 in the others."""
    rng = np.random.default_rng(seed)
    r = np.repeat([0.8, 0.0], [50, 150])
    bulk = rng.standard_normal((N, GENES))
    of = np.concatenate([np.arange(N), np.arange(30), np.arange(10)])
    X = r * bulk[of] + np.sqrt(1 - r**2) * rng.standard_normal((100, GENES))
    patient = np.array([f"P{number}" for number in range(N)])
    obs = pd.DataFrame(
        {"patient": patient, "sample": [f"{name}-A" for name in patient], "type": "primary"}, index=patient
    )
    slides = obs.iloc[of].assign(preservation=np.repeat(["FF", "FFPE"], [60, 40]))
    slides.index = [f"slide {number}" for number in range(100)]
    var = pd.DataFrame({"rank": np.arange(GENES)[::-1].astype(float)}, index=[f"G{number}" for number in range(GENES)])
    # Bulk RNA is in another order.
    shuffled = rng.permutation(N)
    return AnnData(X, obs=slides, var=var), AnnData(bulk[shuffled], obs=obs.iloc[shuffled], var=var[[]].copy())


MATCH = {"FF": "sample", "FFPE": ["patient", "type"]}


@pytest.fixture
def both():
    return simulated()


@pytest.fixture(scope="module")
def result():
    return ds.cohort.bulk_agreement(*simulated(), match=MATCH, seed=0)


def test_planted_r_is_recovered(result):
    for group in ("FF", "FFPE"):
        r = result.table.loc[result.table["group"] == group, "r"].to_numpy()
        assert r[:50].mean() == pytest.approx(0.8, abs=0.05)
        assert r[50:].mean() == pytest.approx(0, abs=0.04)


def test_r_matches_scipy(result, both):
    slides, bulk = both
    row = result.table[(result.table["group"] == "FF") & (result.table["gene"] == "G7")].iloc[0]
    ours = slides[slides.obs["preservation"] == "FF"]
    a, b = ours.X[:, 7], bulk[list(ours.obs["patient"])].X[:, 7]
    assert row["r"] == pytest.approx(pearsonr(a, b)[0])
    assert row["spearman"] == pytest.approx(spearmanr(a, b)[0])


def test_p_values(result):
    for group in ("FF", "FFPE"):
        genes = result.table[result.table["group"] == group]
        p, q = genes["p"].to_numpy(), genes["q"].to_numpy()
        assert p.min() == pytest.approx(1 / 1001)
        assert (q >= p).all()
        assert (q[:50] < 0.05).mean() > 0.9
        assert (q[50:] < 0.05).mean() < 0.05
        assert (p[50:] < 0.05).mean() < 0.12


def test_null_of_the_mean(result):
    summary = result.summary()
    assert list(summary.index) == ["FF", "FFPE"]
    assert list(summary["slides"]) == [60, 40]
    assert list(summary["bulk"]) == [60, 30]
    assert (summary["null_low"] < 0).all()
    assert (summary["null_high"] < 0.04).all()
    np.testing.assert_allclose(summary["p"], 1 / 1001)
    assert summary.loc["FF", "mean"] == pytest.approx(result.table.query("group == 'FF'")["r"].mean())
    none = simulated(5)
    none[0].X[:] = np.random.default_rng(9).standard_normal(none[0].shape)
    assert ds.cohort.bulk_agreement(*none, match=MATCH, n_permutations=200, seed=0).summary()["p"].min() > 0.01


def test_the_null_is_calibrated():
    p = []
    for seed in range(20):
        slides, bulk = simulated(seed)
        result = ds.cohort.bulk_agreement(slides[:, 50:], bulk[:, 50:], match=MATCH, n_permutations=99, seed=seed)
        p.append(result.table["p"].to_numpy())
    assert (np.concatenate(p) <= 0.05).mean() == pytest.approx(0.05, abs=0.012)


def test_curves(result):
    curve = result.curve(top=(10, 50, 200, 500))
    assert list(curve[curve["group"] == "FF"]["n"]) == [10, 50, 200]
    r = result.table.query("group == 'FF'")["r"].to_numpy()
    np.testing.assert_allclose(curve["r"][:3], [r[:10].mean(), r[:50].mean(), r.mean()])
    np.testing.assert_allclose(result.curve(top=(50,), statistic="median")["r"][0], np.median(r[:50]))
    by_rank = result.curve(order="rank", top=(50,))  # the column has the last gene first
    assert by_rank["r"][0] == pytest.approx(r[-50:].mean())
    assert result.curve(order=["G0", "G1", "G5", "none"], top=(2,))["r"][0] == pytest.approx(r[:2].mean())
    assert (curve["null_low"] < curve["null_high"]).all()
    assert list(result.curve()["n"]) == [100, 150, 200] * 2
    with pytest.raises(KeyError, match=r"Key `'x'` not found in `numbers in var of the pseudobulk`.*'rank'"):
        result.curve(order="x")
    with pytest.raises(KeyError, match=r"`order` names none of the genes, such as \['G0'"):
        result.curve(order=["x"])
    with pytest.raises(ValueError, match=r'`statistic` must be "mean" or "median", got \'max\''):
        result.curve(statistic="max")


def test_unmatched_profiles_are_listed(both, log):
    slides, bulk = both
    slides.obs["sample"] = slides.obs["sample"].astype(object)
    slides.obs.loc["slide 0", "sample"] = None
    slides.obs.loc["slide 1", "sample"] = "P1-B"
    slides.obs.loc["slide 61", "type"] = "metastasis"
    result = ds.cohort.bulk_agreement(slides, bulk[bulk.obs_names != "P40"], match=MATCH, n_permutations=9)
    of_slides = result.unmatched[result.unmatched["side"] == "pseudobulk"]
    assert of_slides.groupby("group")["name"].agg(list).to_dict() == {
        "FF": ["slide 0", "slide 1", "slide 40"],
        "FFPE": ["slide 61"],
    }
    assert not (result.unmatched["side"] == "bulk").any()  # P0 and P1 have FFPE slides
    assert result.matched.query("group == 'FF'").shape[0] == 57
    assert (result.matched["bulk"] != "P40").all()
    assert "Without a match: 3 of pseudobulk (FF), 1 of pseudobulk (FFPE)." in log[-1]
    only = ds.cohort.bulk_agreement(slides[slides.obs["preservation"] == "FF"], bulk, match="sample", n_permutations=9)
    assert set(only.unmatched.query("side == 'bulk'")["name"]) == {"P0", "P1"}


def test_data_frames(both, result):
    slides, bulk = both
    frozen = slides[slides.obs["preservation"] == "FF"]
    expected = result.table.query("group == 'FF'")["r"].to_numpy()
    by_index = bulk.to_df().set_axis(bulk.obs["patient"])
    unnamed = by_index.rename_axis(None)
    columns = bulk.to_df().assign(patient=bulk.obs["patient"].to_numpy(), type="primary")
    for frame, match in ((by_index, "patient"), (unnamed, "patient"), (columns, ["patient", "type"])):
        table = ds.cohort.bulk_agreement(frozen, frame, match=match, n_permutations=9).table
        np.testing.assert_allclose(table["r"], expected)
        assert (table["group"] == "all").all()
    with pytest.raises(ValueError, match=r"Columns of `bulk` are not numbers: \['type'\].*AnnData"):
        ds.cohort.bulk_agreement(frozen, columns, match="patient")
    with pytest.raises(TypeError, match="`bulk` must be an AnnData or a data frame, got ndarray"):
        ds.cohort.bulk_agreement(frozen, bulk.X, match="patient")


def test_slides_without_preservation_are_listed(both, log):
    slides, bulk = both
    slides.obs["preservation"] = slides.obs["preservation"].astype(object)
    slides.obs.loc[["slide 3", "slide 70"], "preservation"] = [None, np.nan]
    result = ds.cohort.bulk_agreement(slides, bulk, match=MATCH, n_permutations=9)
    assert result.unmatched[["group", "side", "name"]].to_numpy().tolist() == [
        ["no preservation", "pseudobulk", "slide 3"],
        ["no preservation", "pseudobulk", "slide 70"],
    ]
    assert len(result.matched) + 2 == slides.n_obs
    assert "Without a match: 2 of pseudobulk (no preservation)." in log[-1]
    # They are kept if preservation is not used.
    assert ds.cohort.bulk_agreement(slides, bulk, match="patient", n_permutations=9).unmatched.empty


def test_rows_of_a_data_frame_keep_their_names(both):
    slides, bulk = both
    frozen = slides[slides.obs["preservation"] == "FF"]
    by_index = bulk.to_df().set_axis(bulk.obs["patient"])
    lacking = frozen[frozen.obs["patient"] != "P10"]
    columns = by_index.rename_axis(None).assign(patient=list(by_index.index))
    for frame in (by_index, by_index.rename_axis(None), columns):
        result = ds.cohort.bulk_agreement(lacking, frame, match="patient", n_permutations=9)
        assert list(result.matched["bulk"]) == list(lacking.obs["patient"])
        assert list(result.unmatched["name"]) == ["P10"]
    levels = by_index.set_axis(pd.MultiIndex.from_product([by_index.index, ["x"]], names=["patient", "type"]))
    result = ds.cohort.bulk_agreement(frozen.copy(), levels, match=["patient"], n_permutations=9)
    assert result.matched["bulk"][0] == "P0_x"
    # Repeated names are made unique.
    same = columns.set_axis(["piece"] * N)
    result = ds.cohort.bulk_agreement(frozen, same, match="patient", n_permutations=9)
    assert result.matched["bulk"].nunique() == N
    assert result.matched["bulk"].str.startswith("piece").all()


def test_undefined_genes_are_counted(both):
    slides, bulk = both
    slides.X[:, 0], bulk.X[:, 1], bulk.X[3, 2] = 0.5, 0.1, np.nan
    result = ds.cohort.bulk_agreement(slides, bulk, match="patient", n_permutations=19)
    assert list(result.table["undefined"][:4]) == ["pseudobulk", "bulk", "missing", "no"]
    assert result.table["r"][:3].isna().all()
    row = result.summary().loc["all"]
    assert (row["undefined_pseudobulk"], row["undefined_bulk"], row["undefined_missing"]) == (1, 1, 1)
    # Constant in the pseudobulk counts as 0, the other two are excluded.
    assert row["mean"] == pytest.approx(result.table["r"].sum() / 198)


@pytest.mark.parametrize(
    ("match", "error", "message"),
    [
        ("tissue", KeyError, r"Key `'tissue'` not found in `obs of the pseudobulk`"),
        ({"FF": "sample"}, KeyError, r"`match` has no columns for 'FFPE' of obs\['preservation'\]"),
        ({**MATCH, "Frozen": "sample"}, KeyError, r"Key `'Frozen'` not found in `obs\['preservation'\]"),
        ([], ValueError, r"`match` names no column"),
        ("type", ValueError, r"Several profiles of bulk RNA have \{'type': 'primary'\}. Match by more columns"),
        ("preservation", KeyError, r"Key `'preservation'` not found in `the bulk RNA`"),
    ],
)
def test_matching_is_checked(both, match, error, message):
    with pytest.raises(error, match=message):
        ds.cohort.bulk_agreement(*both, match=match)


def test_values_are_checked(both):
    slides, bulk = both
    renamed = bulk.copy()
    renamed.obs["patient"] = "TCGA-" + renamed.obs["patient"].astype(str)
    with pytest.raises(
        ValueError, match=r"60 of bulk RNA, 0 of the latter are matched by \['patient'\].*P0.*same text"
    ):
        ds.cohort.bulk_agreement(slides, renamed, match="patient")
    renamed = bulk.copy()
    renamed.var_names = [f"ENSG{number}" for number in range(GENES)]
    with pytest.raises(ValueError, match=r"genes like \['G0', .*bulk RNA like \['ENSG0'.*none in common"):
        ds.cohort.bulk_agreement(slides, renamed, match="patient")
    bulk.X = np.ceil(np.abs(bulk.X))
    with pytest.raises(ValueError, match=r"X of the bulk RNA holds whole numbers.*raw counts"):
        ds.cohort.bulk_agreement(slides, bulk, match="patient")


def test_repr(result):
    first, second, _ = repr(result).splitlines()
    assert first == "BulkAgreement: 200 genes"
    assert second.startswith("  FF: mean r 0.2")
    assert second.endswith("60 slides, 60 bulk profiles")


@pytest.mark.parametrize("slides_of", [1, 2, "some"])
def test_shuffled_r_is_pearson_r_of_shuffled_profiles(slides_of):
    """Also if bulk profiles have different numbers of slides."""
    rng = np.random.default_rng(0)
    bulk = rng.standard_normal((9, 4)) * 2 + 3
    rows = np.concatenate([np.arange(9), [0, 0, 3]]) if slides_of == "some" else np.repeat(np.arange(9), slides_of)
    slides = rng.standard_normal((len(rows), 4))
    result = shuffled_r(slides, bulk, rows, 5, seed=7)
    drawn = np.random.default_rng(7)
    for r in result:
        np.testing.assert_allclose(r, pearson(slides, bulk[drawn.permutation(9)][rows]), atol=1e-6)


def test_bulk_that_nobody_logged(both):
    slides, bulk = both
    tpm = AnnData(np.exp2(bulk.X) * 37, bulk.obs, bulk.var)
    with pytest.raises(ValueError, match=r"X of the bulk RNA holds values of up to .*no logarithms.*np\.log2"):
        ds.cohort.bulk_agreement(slides, tpm, match="patient")
    z = AnnData((tpm.X - tpm.X.mean(axis=0)) * 100, bulk.obs, bulk.var)  # far from 0, but on both sides
    ds.cohort.bulk_agreement(slides, z, match="patient", n_permutations=10)


def test_half_of_the_genes_must_be_shared(both):
    slides, bulk = both
    versions = [name if number < GENES // 2 - 1 else f"{name}.12" for number, name in enumerate(bulk.var_names)]
    few = AnnData(bulk.X, bulk.obs, bulk.var.set_axis(versions))
    with pytest.raises(ValueError, match=rf"and {GENES // 2 - 1} in common, under half of {GENES}.*without version"):
        ds.cohort.bulk_agreement(slides, few, match="patient")
    panel = bulk[:, : GENES // 10].copy()  # a small panel, of which all genes are known
    assert len(ds.cohort.bulk_agreement(slides, panel, match="patient", n_permutations=10).order) == GENES // 10
