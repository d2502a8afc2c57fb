import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.colors import to_hex

import deepspot as ds
from deepspot._spatial.transforms import centers_px, microns_per_pixel
from deepspot._stats.metrics import pearson
from deepspot.pl._map.backdrop import cut_backdrop
from deepspot.pl._map.panel import bar_length, limits
from deepspot.pl._map.values import measured_values
from deepspot.pl._style import MISSING


@pytest.fixture
def predicted(slide, add_table):
    """A slide whose second gene is predicted without variation, and whose third was never measured."""
    gene = slide.tables["table"].var_names[0]
    truth = measured_values(slide, "spots", "table", [gene])[:, 0]
    noisy = truth + np.random.default_rng(0).normal(0, 0.1, len(truth))
    values = np.column_stack([noisy, np.ones_like(truth), truth])
    add_table(slide, values, [gene, slide.tables["table"].var_names[1], "ABSENT1"])
    return slide


def spots(ax):
    (collection,) = ax.collections
    return collection


def title(ax):
    """First line of the title; the second one is about the values and the spots."""
    return ax.get_title().splitlines()[0]


def test_draws_measured_and_predicted_with_r(predicted):
    gene = predicted.tables["deepspot_spots"].var_names[0]
    left, right = ds.pl.spatial(predicted, gene)
    measured = measured_values(predicted, "spots", "table", [gene])
    np.testing.assert_allclose(spots(left).get_array(), measured[:, 0])
    ours = predicted.tables["deepspot_spots"].X[:, :1]
    np.testing.assert_allclose(spots(right).get_array(), ours[:, 0])
    assert f"r = {pearson(ours, measured)[0]:.2f} over {len(ours)} spots" in right.get_title()
    assert title(left) == f"{gene} measured"


def test_measured_is_log1p_of_ten_thousand(slide):
    table = slide.tables["table"]
    counts = table.X.toarray().astype(float)
    expected = np.log1p(1e4 * counts[:, 3] / counts.sum(axis=1))
    ours = measured_values(slide, "spots", "table", [table.var_names[3]])[:, 0]
    np.testing.assert_allclose(ours, expected, rtol=1e-5)
    table.X = np.log1p(1e4 * counts / counts.sum(axis=1, keepdims=True))
    table.uns["log1p"] = {}  # as scanpy does
    again = measured_values(slide, "spots", "table", [table.var_names[3]])[:, 0]
    np.testing.assert_allclose(again, expected, rtol=1e-5)


def test_counts_in_a_layer_are_used_although_x_is_logged(slide):
    table = slide.tables["table"]
    expected = measured_values(slide, "spots", "table", table.var_names)
    table.layers["counts"] = table.X.copy()
    table.X = table.X.log1p()
    table.uns["log1p"] = {}
    np.testing.assert_allclose(measured_values(slide, "spots", "table", table.var_names, layer="counts"), expected)
    with pytest.raises(KeyError, match="'raw'"):
        measured_values(slide, "spots", "table", table.var_names, layer="raw")


def test_rows_are_matched_by_instance(predicted):
    gene = predicted.tables["deepspot_spots"].var_names[0]
    before = [spots(ax).get_array().copy() for ax in ds.pl.spatial(predicted, gene)]
    for key in ("table", "deepspot_spots"):
        order = np.random.default_rng(1).permutation(predicted.tables[key].n_obs)
        predicted.tables[key] = predicted.tables[key][order].copy()
    for ax, values in zip(ds.pl.spatial(predicted, gene), before, strict=True):
        np.testing.assert_allclose(spots(ax).get_array(), values)


def test_spots_that_were_not_measured_are_left_out(predicted):
    gene = predicted.tables["deepspot_spots"].var_names[0]
    n = predicted.tables["table"].n_obs
    predicted.tables["table"] = predicted.tables["table"][5:].copy()
    left, right = ds.pl.spatial(predicted, gene)
    assert len(spots(left).get_array()) == n - 5
    assert len(spots(right).get_array()) == n
    assert f"over {n - 5} spots" in right.get_title()


def test_gene_that_was_not_measured_has_one_panel(predicted):
    (ax,) = ds.pl.spatial(predicted, "ABSENT1")
    assert title(ax) == "ABSENT1 predicted (not measured here)"


def test_slide_without_measurement_has_one_panel(predicted):
    gene = predicted.tables["deepspot_spots"].var_names[0]
    del predicted.tables["table"]
    (ax,) = ds.pl.spatial(predicted, gene)
    assert "not measured" in ax.get_title()


def test_constant_prediction_has_no_r(predicted):
    gene = predicted.tables["deepspot_spots"].var_names[1]
    assert "r undefined" in ds.pl.spatial(predicted, gene)[1].get_title()


def test_several_genes_make_rows(predicted):
    genes = list(predicted.tables["deepspot_spots"].var_names)
    axes = ds.pl.spatial(predicted, genes)
    assert len(axes) == 5  # the third gene was not measured
    assert axes[0].get_position().y0 > axes[2].get_position().y0 > axes[4].get_position().y0
    axes[0].figure.canvas.draw()


def test_draws_into_given_axes(predicted):
    gene = predicted.tables["deepspot_spots"].var_names[0]
    _, grid = plt.subplots(1, 2)
    assert ds.pl.spatial(predicted, gene, ax=grid) == list(grid)
    with pytest.raises(ValueError, match="`ax` and the panels"):
        ds.pl.spatial(predicted, gene, ax=grid[0])


def test_spots_lie_on_the_tissue_in_micrometers(predicted):
    ax = ds.pl.spatial(predicted, "ABSENT1")[0]
    mpp = microns_per_pixel(predicted, "P1_S1_image")
    centers = centers_px(predicted, "P1_S1_image", "spots")
    np.testing.assert_allclose(spots(ax).get_offsets(), centers * mpp)
    (x0, x1), (y1, y0) = ax.get_xlim(), ax.get_ylim()
    assert (spots(ax).get_offsets() > (x0, y0)).all()
    assert (spots(ax).get_offsets() < (x1, y1)).all()
    assert y1 > y0  # rows of the image run downwards


def test_does_not_change_the_object(predicted):
    before = predicted.tables["table"].X.copy()
    ds.pl.spatial(predicted, predicted.tables["deepspot_spots"].var_names[0])
    assert (before != predicted.tables["table"].X).nnz == 0
    assert list(predicted.images) == ["P1_S1_image"]


def test_unknown_gene_names_its_neighbors(predicted):
    with pytest.raises(KeyError, match="ABSENT1"):
        ds.pl.spatial(predicted, "ABSENT")
    with pytest.raises(ValueError, match="empty"):
        ds.pl.spatial(predicted, [])


def test_without_prediction_says_what_to_call(slide):
    with pytest.raises(KeyError, match=r"ds\.tl\.predict"):
        ds.pl.spatial(slide, "ERBB2")


def test_several_predictions_have_to_be_chosen_from(predicted, add_table):
    n = len(predicted.shapes["spots"])
    add_table(predicted, np.ones((n, 1)), ["ABSENT1"], key="other")
    with pytest.raises(ValueError, match="prediction_key"):
        ds.pl.spatial(predicted, "ABSENT1")
    assert len(ds.pl.spatial(predicted, "ABSENT1", prediction_key="other")) == 1


@pytest.fixture
def corrected(predicted, add_table):
    """The same slide after a correction by hand: two genes of three quarters prediction, one that the model lacks."""
    table = predicted.tables["table"]
    genes = list(table.var_names[:3])
    measured = measured_values(predicted, "spots", "table", genes)
    guess = measured.mean(axis=0) * np.ones_like(measured)
    guess[:, 2] = np.nan
    weight = np.full_like(measured, 0.25)
    weight[:, 2] = 1
    values = np.where(np.isfinite(guess), weight * measured + (1 - weight) * guess, measured)
    layers = {"measured": measured, "predicted": guess, "corrected": values, "weight": weight}
    layers["change"] = values - measured
    add_table(predicted, values, genes, "table_corrected", kind="corrected", layers=layers)
    return predicted


def test_corrected_genes_have_a_panel_without_r(corrected):
    gene = corrected.tables["table_corrected"].var_names[0]
    *_, middle, right = ds.pl.spatial(corrected, gene)
    np.testing.assert_allclose(spots(right).get_array(), corrected.tables["table_corrected"].X[:, 0])
    assert title(right) == f"{gene} corrected, 25 % measured"
    assert "r = " in middle.get_title()
    assert [ax.get_ylabel() for ax in right.figure.axes[3:]] == ["log1p of counts per 10,000"] * 3


def test_gene_that_is_not_predicted_has_no_predicted_panel(corrected):
    gene = corrected.tables["table_corrected"].var_names[2]
    left, right = ds.pl.spatial(corrected, gene)
    assert title(left) == f"{gene} measured"
    assert title(right) == f"{gene} not corrected (not predicted by the model)"
    np.testing.assert_allclose(spots(left).get_array(), spots(right).get_array(), rtol=1e-5)


def test_rows_of_genes_with_different_panels_are_aligned(corrected):
    genes = list(corrected.tables["table_corrected"].var_names[[0, 2]])
    axes = ds.pl.spatial(corrected, [*genes, "ABSENT1"])
    assert [title(ax).split(",")[0] for ax in axes] == [
        f"{genes[0]} measured",
        f"{genes[0]} predicted",
        f"{genes[0]} corrected",
        f"{genes[1]} measured",
        f"{genes[1]} not corrected (not predicted by the model)",
        "ABSENT1 predicted (not measured here)",
    ]
    axes[0].figure.canvas.draw()
    x = [round(ax.get_position().x0, 3) for ax in axes]
    assert x[0] == x[3] < x[1] == x[5] < x[2] == x[4]


def test_corrected_genes_can_be_left_out(corrected):
    gene = corrected.tables["table_corrected"].var_names[0]
    assert len(ds.pl.spatial(corrected, gene, corrected_key=False)) == 2
    assert len(ds.pl.spatial(corrected, gene, corrected_key="table_corrected")) == 3
    with pytest.raises(KeyError, match=r"deepspot_spots.*corrected genes of 'spots'"):
        ds.pl.spatial(corrected, gene, corrected_key="deepspot_spots")
    corrected.tables["again"] = corrected.tables["table_corrected"].copy()
    with pytest.raises(ValueError, match="corrected_key"):
        ds.pl.spatial(corrected, gene)
    with pytest.raises(KeyError, match=r"deepspot_spots'\] or sdata.tables\['table_corrected"):
        ds.pl.spatial(corrected, "NOWHERE", corrected_key="table_corrected")


def test_prediction_in_the_corrected_table_is_drawn(corrected):
    gene, layer = (
        corrected.tables["table_corrected"].var_names[0],
        corrected.tables["table_corrected"].layers["predicted"],
    )
    layer[:, 0] += np.linspace(0, 1, len(layer))
    del corrected.tables["deepspot_spots"]
    _, middle, _ = ds.pl.spatial(corrected, gene)
    assert "predicted" in middle.get_title()
    np.testing.assert_allclose(spots(middle).get_array(), layer[:, 0])
    with pytest.raises(KeyError, match=r"ds\.tl\.predict"):
        ds.pl.spatial(corrected, gene, corrected_key=False)


def test_backdrop_is_small_and_in_place(slide_of):
    image = np.full((900, 1200, 3), 250, np.uint8)
    image[300:600, 400:800] = (200, 30, 90)
    sdata = slide_of(image, [[450, 350], [750, 550]], mpp=0.5)
    part = cut_backdrop(sdata, "he", np.array([[450, 350], [750, 550]]), mpp=0.5, margin_um=50, max_px=100)
    left, right, bottom, top = part.extent
    assert (left, top) == (350 * 0.5, 250 * 0.5)
    assert right == pytest.approx(850 * 0.5, abs=3)
    assert bottom == pytest.approx(650 * 0.5, abs=3)
    assert 100 <= max(part.pixels.shape) <= 150
    rows, columns = part.pixels.shape[:2]
    np.testing.assert_array_equal(part.pixels[rows // 2, columns // 2], (200, 30, 90))
    np.testing.assert_array_equal(part.pixels[1, 1], (250, 250, 250))


def test_backdrop_takes_the_level_that_is_enough(slide_of):
    image = np.random.default_rng(0).integers(0, 255, (800, 800, 3), dtype=np.uint8)
    centers = np.array([[100.0, 100.0], [700.0, 700.0]])
    single = slide_of(image, centers, mpp=1.0)
    pyramid = slide_of(image, centers, mpp=1.0, scale_factors=[2, 2])
    options = {"mpp": 1.0, "margin_um": 100.0, "max_px": 150}
    extents = [cut_backdrop(sdata, "he", centers, **options).extent for sdata in (single, pyramid)]
    np.testing.assert_allclose(*extents, atol=8)


def test_limits_are_robust_and_never_empty():
    values = np.r_[np.linspace(0, 1, 1000), 1e6]
    assert limits(values)[1] < 2
    assert limits(np.zeros(5)) == (0.0, 1.0)
    assert limits(np.r_[np.zeros(999), 3.0]) == (0.0, 3.0)


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        (np.linspace(1.8, 2.0, 50), (1.4, 2.4)),  # 0.2 log units do not fill the palette
        (np.linspace(0.1, 0.2, 50), (0.0, 1.0)),  # no color for negative expression
        (np.linspace(0, 4, 201), (0.04, 3.96)),
    ],
)
def test_color_scale_of_a_gene_covers_one_log_unit(values, expected):
    assert limits(values, 1.0) == pytest.approx(expected)


def test_title_has_the_span(slide, add_table):
    n = len(slide.shapes["spots"])
    add_table(slide, np.linspace(1.8, 2.0, n)[:, None], ["NEW"])
    (ax,) = ds.pl.spatial(slide, "NEW")
    low, high = np.quantile(np.linspace(1.8, 2.0, n), (0.01, 0.99))
    assert ax.get_title().splitlines()[1] == f"span {high - low:.2f}"
    assert np.ptp(spots(ax).get_clim()) == pytest.approx(1)


def test_panels_of_a_gene_share_a_scale_on_request(predicted):
    gene = predicted.tables["deepspot_spots"].var_names[0]
    predicted.tables["deepspot_spots"].X[:, 0] *= 0.3
    apart = [spots(ax).get_clim() for ax in ds.pl.spatial(predicted, gene)]
    assert apart[0] != apart[1]
    left, right = ds.pl.spatial(predicted, gene, shared_scale=True)
    both = np.concatenate([np.ma.getdata(spots(ax).get_array()) for ax in (left, right)])
    assert spots(left).get_clim() == spots(right).get_clim() == pytest.approx(limits(both, 1.0))


def test_spots_out_of_distribution_are_outlined_and_counted(corrected):
    gene = corrected.tables["table_corrected"].var_names[0]
    for key in ("deepspot_spots", "table_corrected"):
        table = corrected.tables[key]
        table.obs["ood"] = [number in (3, 7) for number in range(table.n_obs)]
        corrected.tables[key] = table[::-1].copy()  # the mark is found by instance
    left, *others = ds.pl.spatial(corrected, gene)
    assert "out of distribution" not in left.get_title()  # measured
    n = len(corrected.shapes["spots"])
    for ax in others:
        assert f"2 of {n} spots out of distribution" in ax.get_title()
        every, outlines, again = ax.collections
        for marked in (outlines, again):
            np.testing.assert_array_equal(marked.get_offsets(), every.get_offsets()[[3, 7]])
        np.testing.assert_array_equal(again.get_array(), every.get_array()[[3, 7]])


def test_outlines_of_thousands_of_small_spots_are_narrow(slide_of, add_table):
    side = np.arange(70) * 32.0 + 32
    centers = np.stack(np.meshgrid(side, side), axis=-1).reshape(-1, 2)
    sdata = slide_of(np.full((2320, 2320, 3), 240, np.uint8), centers, mpp=0.25, diameter_um=6)
    obs = {"ood": np.arange(len(centers)) % 2 == 0}
    add_table(sdata, np.linspace(0, 3, len(centers))[:, None], ["A"])
    sdata.tables["deepspot_spots"].obs["ood"] = obs["ood"]
    (ax,) = ds.pl.spatial(sdata, "A")
    assert "2,450 of 4,900 spots out of distribution" in ax.get_title()
    across = 6 / np.ptp(ax.get_xlim()) * ax.get_window_extent().width * 72 / ax.figure.dpi
    # Half of the line is outside of the spot.
    assert ax.collections[1].get_linewidth()[0] / 2 < 0.4 * across


def test_constant_gene_is_gray_and_said_to_be_constant(predicted):
    gene = predicted.tables["deepspot_spots"].var_names[1]
    predicted.tables["deepspot_spots"].X[:, 1] += np.linspace(0, 1e-4, 30)  # equal in print
    measured, constant = ds.pl.spatial(predicted, gene)
    assert constant.get_title().splitlines()[1] == "constant (1.00 in every spot)"
    assert spots(constant).get_array() is None
    assert to_hex(spots(constant).get_facecolor()[0]) == MISSING.lower()
    assert len(measured.figure.axes) == 3  # one color bar


@pytest.mark.parametrize(("width", "length"), [(4300, 1000), (900, 200), (90, 20), (2000, 500)])
def test_scale_bar_is_a_round_number(width, length):
    assert bar_length(width) == length


@pytest.mark.slow
def test_real_section_with_a_large_image(data, add_table):
    sdata = ds.datasets.her2st("C2", download=False)
    genes = ["ERBB2", "FASN"]
    values = measured_values(sdata, "spots", "table", genes)
    add_table(sdata, values, genes)
    axes = ds.pl.spatial(sdata, "ERBB2")
    assert "r = 1.00" in axes[1].get_title()
    assert max(axes[0].images[0].get_array().shape) < 2250


def test_titles_name_a_training_slide(predicted):
    gene = predicted.tables["deepspot_spots"].var_names[0]
    predicted.tables["deepspot_spots"].uns["deepspot"]["training_slide"] = "yes"
    left, right = ds.pl.spatial(predicted, gene)
    assert "training" not in left.get_title()
    assert "(training slide)" in right.get_title()
