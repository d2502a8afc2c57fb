import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from anndata import AnnData
from scipy.sparse import csr_array
from scipy.stats import hypergeom, mannwhitneyu
from spatialdata import SpatialData, read_zarr
from spatialdata.models import ShapesModel, TableModel

import deepspot as ds
from deepspot._sdata.write import add_entries
from deepspot._stats import spatial_null
from deepspot.datasets._toy.tissue import hex_array

COLUMNS = ["group", "gene", "logfoldchange", "score", "p", "p_adj", "p_block", "p_block_adj", "significant", "rank"]


def spots_with(values, labels, side):
    """Spots in hexagons with given genes and labels."""
    centers = hex_array(side, side)[2]
    obs = pd.DataFrame({"r": pd.Categorical(["spots"] * len(values)), "i": range(len(values))})
    obs["region"] = pd.Categorical(labels)
    obs.index = obs.index.astype(str)
    table = AnnData(np.asarray(values, dtype=np.float32), obs=obs, uns={"log1p": {}})
    table = TableModel.parse(table, region="spots", region_key="r", instance_key="i")
    return SpatialData(shapes={"spots": ShapesModel.parse(centers, geometry=0, radius=9)}, tables={"genes": table})


def fields(centers, reach, n, rng):
    distance = np.linalg.norm(centers[:, None] - centers[None], axis=2) / 100
    root = np.linalg.cholesky(np.exp(-(distance**2) / (2 * reach**2)) + 1e-6 * np.eye(len(centers)))
    return root @ rng.standard_normal((len(centers), n))


def test_planted_programs_are_found(classes, log):
    before = classes["table"].X.copy()
    assert ds.tl.markers(classes, "class", table_key="table") is None
    frame = classes["table"].uns["markers"]
    assert list(frame.columns) == COLUMNS
    program = classes["table"].var["program"]
    for name in ("tumor", "lymphoid", "stroma"):
        top = frame[(frame["group"] == name) & frame["significant"]]["gene"].head(5)
        assert (program[top] == name).mean() >= 0.8
    assert (frame.loc[frame["significant"], "gene"].map(program) == "noise").mean() < 0.05
    assert (before != classes["table"].X).nnz == 0
    assert log[-1].startswith("Compared 72 spots by 'class' in 60 genes of sdata.tables['table']; markers: lymphoid ")


def test_frame_is_tidy(classes):
    ds.tl.markers(classes, "class", table_key="table")
    frame = classes["table"].uns["markers"]
    groups = list(classes["table"].obs["class"].cat.categories)
    assert list(frame["group"].cat.categories) == groups
    assert len(frame) == len(groups) * 60
    for name, rows in frame.groupby("group", observed=True):
        assert rows["rank"].tolist() == list(range(1, 61))
        assert rows["logfoldchange"].is_monotonic_decreasing, name
        assert set(rows["gene"]) == set(classes["table"].var_names)
    assert frame["p_block"].isna().all()
    assert frame["p_block_adj"].isna().all()
    expected = (frame["p_adj"] < 0.05) & (frame["logfoldchange"] > 0)
    pd.testing.assert_series_equal(frame["significant"], expected, check_names=False)


def test_p_values_are_those_of_scipy(classes):
    ds.tl.markers(classes, "class", table_key="table", groups=["tumor"])
    frame = classes["table"].uns["markers"].set_index("gene")
    X, here = classes["table"].X.toarray(), (classes["table"].obs["class"] == "tumor").to_numpy()
    expected = mannwhitneyu(X[here], X[~here], use_continuity=False, method="asymptotic").pvalue
    np.testing.assert_allclose(frame.loc[classes["table"].var_names, "p"], expected, rtol=1e-4)
    means = np.expm1(X[here].mean(axis=0)), np.expm1(X[~here].mean(axis=0))
    change = frame.loc[classes["table"].var_names, "logfoldchange"]
    np.testing.assert_allclose(change, np.log2((means[0] + 1e-9) / (means[1] + 1e-9)), rtol=1e-3, atol=1e-4)


def test_numbers_are_those_of_scanpy(classes):
    ds.tl.markers(classes, "class", table_key="table")
    table = classes["table"]
    assert "rank_genes_groups" not in table.uns
    sc.tl.rank_genes_groups(table, "class", method="wilcoxon", tie_correct=True)
    found = sc.get.rank_genes_groups_df(table, "tumor").set_index("names")
    ours = table.uns["markers"].query("group == 'tumor'").set_index("gene")
    np.testing.assert_allclose(found.loc[ours.index, "pvals_adj"], ours["p_adj"], rtol=1e-12)


def test_one_group_against_another(classes):
    ds.tl.markers(classes, "class", table_key="table", groups=["tumor", "stroma"], reference="stroma")
    frame = classes["table"].uns["markers"]
    assert list(frame["group"].cat.categories) == ["tumor"]
    X, label = classes["table"].X.toarray(), classes["table"].obs["class"].to_numpy()
    expected = mannwhitneyu(X[label == "tumor"], X[label == "stroma"], use_continuity=False, method="asymptotic").pvalue
    got = frame.set_index("gene").loc[classes["table"].var_names, "p"]
    np.testing.assert_allclose(got, expected, rtol=1e-4)


def test_transform_of_the_paper(classes):
    """It leaves the ranks alone and adds 1 - 1/e counts per 10,000 to both sides of the fold change."""
    for key, transform in {"plain": None, "paper": "paper"}.items():
        ds.tl.markers(classes, "class", table_key="table", transform=transform, key_added=key, overwrite=True)
    uns = classes["table"].uns
    plain, paper = (uns[key].set_index(["group", "gene"]).sort_index() for key in ("plain", "paper"))
    np.testing.assert_allclose(plain["p"], paper["p"])
    X, here = classes["table"].X.toarray(), (classes["table"].obs["class"] == "tumor").to_numpy()
    counts = np.expm1(X[here].mean(axis=0)), np.expm1(X[~here].mean(axis=0))
    expected = np.log2((counts[0] + 1 - 1 / np.e) / (counts[1] + 1 - 1 / np.e))
    got = paper.loc["tumor"].loc[classes["table"].var_names, "logfoldchange"]
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)
    assert uns["deepspot_paper"]["transform"] == "paper"
    assert uns["deepspot_plain"]["transform"] == "none"


def test_labels_come_from_the_shapes_too(classes):
    by_spot = classes["table"].obs.set_index("spot_id")["class"]
    labels = by_spot.reindex(classes["spots"].index)
    classes["spots"]["drawn"] = labels.astype(object).where(labels != "necrosis")
    order = np.random.default_rng(0).permutation(classes["table"].n_obs)
    classes.tables["table"] = classes["table"][order].copy()
    ds.tl.markers(classes, "drawn", table_key="table")
    kept = classes["table"][classes["table"].obs["class"] != "necrosis"].copy()
    classes.tables["table"] = kept
    ds.tl.markers(classes, "class", table_key="table", key_added="again", overwrite=True)
    again = kept.uns["again"].sort_values(["group", "gene"], ignore_index=True)
    drawn = kept.uns["markers"].sort_values(["group", "gene"], ignore_index=True)
    np.testing.assert_allclose(drawn["p"], again["p"])


def test_prediction_is_the_default(slide, quick_model, cheap_encoder, log):
    ds.tl.predict(slide, quick_model, encoder=cheap_encoder)
    x = slide["deepspot_spots"].obsm["spatial"][:, 0]
    side = np.where(x < np.median(x), "left", "right").astype(object)
    side[:3] = None
    slide["deepspot_spots"].obs["side"] = side
    ds.tl.markers(slide, "side", test="blocks", n_permutations=99)
    assert len(slide["deepspot_spots"].uns["markers"]) == 20
    assert log[-1].endswith("Left out: 3 spots without a group.")
    assert slide["deepspot_spots"].uns["deepspot_markers"]["n_spots"] == 27


def test_genes_with_missing_values_are_left_out(classes, log):
    X = classes["table"].X.toarray()
    X[3, :5] = np.nan
    classes["table"].layers["predicted"] = X
    ds.tl.markers(classes, "class", table_key="table", layer="predicted")
    assert classes["table"].uns["markers"]["gene"].nunique() == 55
    assert log[-1].endswith("Left out: 5 genes with missing values.")


def test_genes_that_do_not_vary(classes):
    X = classes["table"].X.toarray()
    X[:, 0] = 0
    classes["table"].layers["flat"] = X
    ds.tl.markers(classes, "class", table_key="table", layer="flat", test="blocks", n_permutations=99)
    first = classes["table"].uns["markers"].query(f"gene == {classes['table'].var_names[0]!r}")
    assert (first[["p", "p_adj", "p_block"]] == 1).all(axis=None)
    assert not first["significant"].any()


def test_blocks_of_eigenvectors_have_the_nominal_level_unlike_the_rank_sum_test():
    """Smooth genes that have nothing to do with smooth regions; benchmarks/markers.py is the long version."""
    side, shares = 14, []
    centers = hex_array(side, side)[2]
    for repeat in range(8):
        rng = np.random.default_rng(repeat)
        region = fields(centers, 3, 1, rng)[:, 0]
        labels = np.where(region > np.quantile(region, 0.65), "in", "out")
        values = 3 + fields(centers, 2, 80, rng) + rng.standard_normal((len(centers), 80))
        sdata = spots_with(values, labels, side)
        options = {"table_key": "genes", "groups": ["in"], "test": "blocks", "n_permutations": 299, "seed": repeat}
        ds.tl.markers(sdata, "region", **options)
        frame = sdata["genes"].uns["markers"]
        shares.append([(frame["p"] < 0.05).mean(), (frame["p_block"] < 0.05).mean()])
    plain, blocks = np.mean(shares, axis=0)
    assert plain > 0.2
    assert 0.02 < blocks < 0.09


def test_blocks_of_eigenvectors_find_planted_markers():
    side, rng = 14, np.random.default_rng(1)
    centers = hex_array(side, side)[2]
    region = fields(centers, 2, 1, rng)[:, 0]
    labels = np.where(region > np.quantile(region, 0.65), "in", "out")
    values = 3 + fields(centers, 1, 60, rng) + rng.standard_normal((len(centers), 60))
    values[:, :12] += 1.5 * (labels == "in")[:, None]
    sdata = spots_with(values, labels, side)
    ds.tl.markers(sdata, "region", table_key="genes", groups=["in"], test="blocks", n_permutations=999)
    frame = sdata["genes"].uns["markers"]
    called = set(frame.loc[frame["significant"], "gene"].astype(int))
    assert len(called & set(range(12))) >= 11
    assert len(called - set(range(12))) <= 2
    assert frame["p_block"].min() > 0
    expected = (frame["p_block_adj"] < 0.05) & (frame["logfoldchange"] > 0)
    assert (frame["significant"] == expected).all()


def test_seed(classes):
    options = {"table_key": "table", "groups": ["tumor"], "test": "blocks", "n_permutations": 50, "overwrite": True}
    p = []
    for seed in (1, 1, 2):
        ds.tl.markers(classes, "class", seed=seed, **options)
        p.append(classes["table"].uns["markers"]["p_block"].to_numpy())
    np.testing.assert_array_equal(p[0], p[1])
    assert (p[0] != p[2]).any()


def test_results_can_be_written_and_read(classes, tmp_path):
    ds.tl.markers(classes, "class", table_key="table", test="blocks", n_permutations=20)
    classes.write(tmp_path / "slide.zarr")
    back = read_zarr(tmp_path / "slide.zarr")["table"]
    pd.testing.assert_frame_equal(
        back.uns["markers"].astype({"gene": object, "group": object}),
        classes["table"].uns["markers"].astype({"gene": object, "group": object}),
    )
    assert back.uns["markers"]["significant"].dtype == bool
    assert back.uns["deepspot_markers"]["test"] == "blocks"


def test_existing_results_are_kept(classes):
    classes["table"].uns["markers"] = {"mine": 1}
    with pytest.raises(ValueError, match=r"has \['markers'\] already.*`overwrite=True`, or another `key_added`"):
        ds.tl.markers(classes, "class", table_key="table")
    assert classes["table"].uns["markers"] == {"mine": 1}
    ds.tl.markers(classes, "class", table_key="table", overwrite=True)
    assert "gene" in classes["table"].uns["markers"]


@pytest.mark.parametrize("test", ["wilcoxon", "blocks"])
def test_a_gene_in_few_spots_has_at_least_the_p_value_of_fisher(classes, test):
    table, members = classes["table"], 13
    table.obs["size"] = ["few"] * members + ["most"] * (table.n_obs - members)
    X = table.X.toarray()
    X[:, :3] = 0
    X[5, 0] = X[[2, 9], 1] = 5.0
    X[[1, 3, 20, 30], 2] = 5.0
    table.X = X
    ds.tl.markers(classes, "size", table_key="table", test=test, n_permutations=500)
    found = table.uns["markers"].query("group == 'few'").set_index("gene")
    inside, total, n = np.array([1, 2, 2]), np.array([1, 2, 4]), table.n_obs
    expected = np.minimum(1, 2 * hypergeom.sf(inside - 1, n, total, members))
    p = found.loc[table.var_names[:3], "p" if test == "wilcoxon" else "p_block"]
    assert (p >= expected - 1e-12).all()
    np.testing.assert_allclose(p.iloc[:2], expected[:2])
    assert not found.loc[table.var_names[:3], "significant"].any()


def test_a_small_group_is_tested_if_many_spots_express_a_gene(classes):
    """Fisher's test of the spots would find nothing, because all spots express the gene."""
    table = classes["table"]
    table.obs["size"] = ["few"] * 4 + ["most"] * (table.n_obs - 4)
    X = table.X.toarray()
    X[:, 0] = np.linspace(2, 1, len(X))
    table.X = X
    for transform in (None, "paper"):
        ds.tl.markers(classes, "size", table_key="table", transform=transform, overwrite=True)
        found = table.uns["markers"].query(f"group == 'few' and gene == {table.var_names[0]!r}")
        assert found["p"].item() < 0.002


def test_a_group_called_rest(classes, log):
    table = classes["table"]
    tumor = (table.obs["class"] == "tumor").to_numpy()
    table.obs["two"] = np.where(tumor, "tumor", "rest")
    ds.tl.markers(classes, "two", table_key="table")
    both = table.uns["markers"].set_index("gene").groupby("group", observed=True)
    assert list(both.groups) == ["rest", "tumor"]
    change = [both.get_group(name).loc[table.var_names, "logfoldchange"] for name in ("rest", "tumor")]
    np.testing.assert_allclose(change[0], -change[1], rtol=1e-4)
    assert not any("called" in line for line in log)
    table.obs["three"] = np.where(tumor, "tumor", np.where(np.arange(len(tumor)) % 2, "rest", "other"))
    ds.tl.markers(classes, "three", table_key="table", overwrite=True)
    assert any("called 'rest'" in line and "all other spots" in line for line in log)
    assert list(table.uns["markers"]["group"].cat.categories) == ["other", "rest", "tumor"]


def test_sparse_arrays_give_the_same(classes):
    table = classes["table"]
    ds.tl.markers(classes, "class", table_key="table")
    table.X = csr_array(table.X)
    ds.tl.markers(classes, "class", table_key="table", key_added="again")
    pd.testing.assert_frame_equal(table.uns["markers"], table.uns["again"])


def test_values_that_are_too_large_for_logarithms(classes):
    classes["table"].X = classes["table"].X * 1000.5
    with pytest.raises(ValueError, match="holds values above 30, so these are no logarithms"):
        ds.tl.markers(classes, "class", table_key="table")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"layer": "counts"}, ValueError, r"Layer 'counts' .* raw counts.*sc\.pp\.normalize_total.*sc\.pp\.log1p"),
        ({"layer": "x"}, KeyError, r"Key `'x'` not found in `layers of table 'table'`"),
        ({"test": "t"}, ValueError, r"`test` must be one of \['wilcoxon', 'blocks'\], got 't'"),
        ({"transform": "log"}, ValueError, r"`transform` must be None or 'paper', got 'log'"),
        ({"groups": ["bone"]}, KeyError, r"Key `'bone'` not found in `groups of 'class'`.*'tumor'"),
        ({"reference": "bone"}, KeyError, r"Key `'bone'` not found in `groups of 'class'`"),
        ({"table_key": "bone"}, KeyError, r"Key `'bone'` not found in `sdata.tables`"),
        ({"table_key": None}, KeyError, r"No table holds predicted or corrected genes. Call `ds.tl.predict"),
        ({"n_permutations": 0}, ValueError, r"`n_permutations` must be at least 1"),
        ({"groups": ["tumor"], "reference": "tumor"}, ValueError, r"nothing to compare"),
    ],
)
def test_options_are_checked(classes, options, error, message):
    with pytest.raises(error, match=message):
        ds.tl.markers(classes, "class", **({"table_key": "table"} | options))
    assert "markers" not in classes["table"].uns


def test_columns_are_listed(classes):
    with pytest.raises(
        KeyError, match=r"Key `'grade'` not found in `obs of table 'table'`.*'class'.*in shapes \{'spots'"
    ):
        ds.tl.markers(classes, "grade", table_key="table")


def test_small_groups(classes):
    labels = pd.Series("most", index=classes["table"].obs_names)
    labels.iloc[:2] = "few"
    classes["table"].obs["size"] = labels
    with pytest.raises(ValueError, match=r"3 spots.*'size' have \{'few': '2 against 70', 'most': '70 against 2'\}"):
        ds.tl.markers(classes, "size", table_key="table")
    classes["table"].obs["size"] = "one"
    with pytest.raises(ValueError, match=r"nothing to compare: groups of 'size' are \{'one': 72\}"):
        ds.tl.markers(classes, "size", table_key="table")


def test_raw_counts_and_unknown_scales(slide):
    slide["table"].obs["half"] = ["a", "b"] * 15
    with pytest.raises(ValueError, match=r"X of table 'table' holds whole numbers.*raw counts.*sc\.pp\.log1p"):
        ds.tl.markers(slide, "half", table_key="table")
    slide["table"].X = slide["table"].X * 0.5
    with pytest.raises(ValueError, match=r"unknown scale.*uns\['log1p'\] = \{\}"):
        ds.tl.markers(slide, "half", table_key="table")


def test_labels_that_are_no_text(classes):
    table = classes["table"]
    table.obs["number"] = np.arange(table.n_obs) % 2 / 2
    ds.tl.markers(classes, "number", table_key="table", groups=[0.5], reference=0.0)
    assert list(table.uns["markers"]["group"].cat.categories) == ["0.5"]
    table.obs["mixed"] = pd.Series([1, "1"] * (table.n_obs // 2), table.obs_names, dtype=object)
    with pytest.raises(
        ValueError, match=r"Column 'mixed' of table 'table' has different labels of the same text: \[1, '1'\]"
    ):
        ds.tl.markers(classes, "mixed", table_key="table", key_added="more")


def test_blocks_need_one_tissue(classes):
    table = classes["table"].copy()
    table.obs["region"] = pd.Categorical(["spots"] * 40 + ["more"] * 32)
    classes["more"] = ShapesModel.parse(hex_array(8, 9)[2], geometry=0, radius=9, index=classes["spots"].index)
    del table.uns["spatialdata_attrs"]
    classes["joint"] = TableModel.parse(table, region=["spots", "more"], region_key="region", instance_key="spot_id")
    with pytest.raises(ValueError, match=r"shapes \['spots', 'more'\]. Split the table, or use `test='wilcoxon'`"):
        ds.tl.markers(classes, "class", table_key="joint", test="blocks")
    ds.tl.markers(classes, "class", table_key="joint")


@pytest.mark.parametrize("side", [3, 18])
@pytest.mark.parametrize("pieces", [1, 4])
def test_eigenvectors_are_orthonormal_and_have_no_mean(side, pieces, monkeypatch):
    centers = np.concatenate([hex_array(side, side)[2] + [1e5 * piece, 0] for piece in range(pieces)])
    n = len(centers)
    by_size = []
    for dense in (10**9, 0) if n > 300 else (10**9,):
        monkeypatch.setattr(spatial_null, "DENSE", dense)
        eigenvectors = spatial_null.spatial_eigenvectors(centers)
        assert eigenvectors.shape == (n, min(n - 1, 254))
        np.testing.assert_allclose(eigenvectors.T @ eigenvectors, np.eye(eigenvectors.shape[1]), atol=1e-6)
        np.testing.assert_allclose(eigenvectors.sum(axis=0), 0, atol=1e-5)
        by_size.append(eigenvectors)
    # The first ones tell the pieces apart, and are flat on each.
    flat = by_size[0][:, : pieces - 1].reshape(pieces, side * side, pieces - 1)
    assert np.ptp(flat, axis=1).max(initial=0) < 1e-6
    if len(by_size) == 2:  # the sparse solver finds the same ones
        overlap = np.linalg.svd(by_size[0][:, :100].T @ by_size[1][:, :102], compute_uv=False)
        assert overlap.min() > 0.95


@pytest.mark.parametrize("size", [1, 2, 4, 64])
def test_cosines_of_random_directions_have_the_variance_that_theory_gives(size):
    drawn = spatial_null._cosines(np.array([size]), 4000, np.random.default_rng(0))
    assert np.abs(drawn).max() <= 1 + 1e-6
    assert (drawn**2).mean() == pytest.approx(1 / size, rel=0.1)


@pytest.mark.parametrize(("reach", "noise"), [(6, 0.5), (12, 0.0)])
def test_smooth_genes_against_half_of_the_slide(reach, noise):
    """Rotations alone find 11 % of these genes at p < 0.05."""
    centers = hex_array(24, 16)[2]
    rng = np.random.default_rng(0)
    X = np.sqrt(1 - noise) * fields(centers, reach, 400, rng)
    X += np.sqrt(noise) * rng.standard_normal(X.shape)
    half = centers[:, 1] > np.median(centers[:, 1])
    contrast = (half / half.sum() - ~half / (~half).sum())[None]
    p = spatial_null.spatial_p_values(X, contrast, centers, 299, np.random.default_rng(1))
    assert (p < 0.05).mean() < 0.08


def test_small_p_values_are_upper_bounds():
    """With many rotations no count is above the bound, and the bound takes over only below what can be counted."""
    centers = hex_array(12, 12)[2]
    rng = np.random.default_rng(0)
    region = fields(centers, 1.5, 1, rng)[:, 0] > 0.3
    contrast = (region / region.sum() - ~region / (~region).sum())[None]
    X = fields(centers, 1, 200, rng) + rng.standard_normal((144, 200)) + np.linspace(0, 2, 200) * region[:, None]
    many, few = (
        spatial_null.spatial_p_values(X, contrast, centers, n, np.random.default_rng(1))[0] for n in (100_000, 999)
    )
    rare = few < 1 / 1000
    assert 20 < rare.sum() < 180
    assert (many[rare] <= few[rare] + 1e-5).all()
    assert (few[~rare] >= 1 / 1000).all()
    np.testing.assert_allclose(few[~rare], many[~rare], atol=0.06)


def test_results_that_could_not_be_written_are_refused(slide):
    with pytest.raises(TypeError, match=r"uns\['odd'\] cannot be written"):
        add_entries(slide, "table", "uns", {"odd": object()})
    assert "odd" not in slide["table"].uns


def test_many_markers_of_a_prediction_give_a_warning(log):
    """All genes follow one axis: they are one finding and not forty. Measured genes may all differ."""
    rng = np.random.default_rng(0)
    labels = np.repeat(["a", "b"], 50)
    axis = (labels == "a") + 0.5 * rng.normal(size=100)
    sdata = spots_with(5 + axis[:, None] + 0.01 * rng.normal(size=(100, 40)), labels, 10)
    ds.tl.markers(sdata, "region", table_key="genes")
    assert not any("independent" in line for line in log)
    sdata["genes"].uns["deepspot"] = {"kind": "prediction"}
    ds.tl.markers(sdata, "region", table_key="genes", overwrite=True)
    (warning,) = [line for line in log if "independent" in line]
    assert warning == (
        "100 % of the genes differ between group 'a' and the other spots (p_adj < 0.05). They are not as many "
        "independent markers: the 40 predicted genes hold about 1.0 independent patterns. `test='blocks'` accounts for "
        "the similarity of neighboring spots."
    )
    sdata["genes"].uns["deepspot"] = {"kind": "corrected"}
    ds.tl.markers(sdata, "region", table_key="genes", reference="b", overwrite=True)
    assert "between group 'a' and group 'b' (p_adj < 0.05)" in log[-2]
    assert "the 40 corrected genes" in log[-2]
