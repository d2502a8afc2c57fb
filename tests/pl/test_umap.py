import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

import deepspot as ds
from deepspot.pl._map.tiles import cut_tiles
from deepspot.pl._umap import spread, umap_of

GENES = ["A", "B", "C", "D"]


@pytest.fixture
def mapped(slide, add_table):
    """A slide whose table has a UMAP: spots in two groups far apart."""
    n = len(slide.shapes["spots"])
    rng = np.random.default_rng(0)
    right = np.arange(n) % 3 == 0
    add_table(slide, rng.uniform(0, 1, (n, 4)) + right[:, None], GENES)
    table = slide.tables["deepspot_spots"]
    table.obsm["X_umap"] = rng.normal(0, 1, (n, 2)) + np.where(right, 20, 0)[:, None]
    table.obs["group"] = pd.Categorical(np.where(right, "tumor", "stroma"))
    table.obs["score"] = rng.uniform(0, 1, n)
    return slide


@pytest.fixture(scope="session")
def computed():
    """A UMAP of two groups of rows, computed once as the first call compiles."""
    from anndata import AnnData

    rng = np.random.default_rng(0)
    X = rng.normal(0, 0.1, (40, 6)) + np.repeat([0, 3], 20)[:, None]
    table = AnnData(X.astype(np.float32), uns={"log1p": {}})
    return table, umap_of(table, "mine", 0)


def points(ax):
    (collection,) = ax.collections
    return collection


def test_draws_images_and_points_at_their_positions(mapped):
    left, right = ds.pl.umap(mapped, n_images=12)
    places = mapped.tables["deepspot_spots"].obsm["X_umap"]
    np.testing.assert_allclose(points(right).get_offsets(), places)
    assert 2 < len(left.images) <= 12
    assert left.get_xlim() == right.get_xlim()
    assert left.get_title() == f"{len(left.images)} of 30 spots, images of 55 µm"
    for image in left.images:
        x0, x1, y0, y1 = image.get_extent()
        near = np.abs(places - ((x0 + x1) / 2, (y0 + y1) / 2)) <= np.array([x1 - x0, y1 - y0]) / 2 / 0.9
        assert near.all(axis=1).any()
    left.figure.canvas.draw()
    box = left.images[0].get_window_extent()
    assert box.width == pytest.approx(box.height, rel=0.01)  # tissue is not stretched


def test_images_do_not_overlap_and_show_their_spots(mapped):
    left, _ = ds.pl.umap(mapped, n_images=20)
    boxes = [image.get_window_extent() for image in left.images]
    for number, box in enumerate(boxes):
        assert not any(box.overlaps(other) for other in boxes[number + 1 :])
    shown = {np.asarray(image.get_array()).tobytes() for image in left.images}
    assert len(shown) == len(boxes)
    tiles = cut_tiles(mapped, "P1_S1_image", "spots", np.arange(30), 55)
    assert shown <= {tile.tobytes() for tile in tiles}


def test_is_the_same_each_time_and_by_instance(mapped):
    first, _ = ds.pl.umap(mapped, n_images=10)
    order = np.random.default_rng(1).permutation(30)
    mapped.tables["deepspot_spots"] = mapped.tables["deepspot_spots"][order].copy()
    again, _ = ds.pl.umap(mapped, n_images=10)
    for a, b in zip(first.images, again.images, strict=True):
        np.testing.assert_array_equal(a.get_array(), b.get_array())
        np.testing.assert_allclose(a.get_extent(), b.get_extent())


def test_gene_colors_points_and_frames(mapped):
    left, right = ds.pl.umap(mapped, color="B", n_images=5)
    assert right.get_title() == "B predicted"
    assert right.figure.axes[-1].get_ylabel() == "log1p of counts per 10,000"
    values = mapped.tables["deepspot_spots"].X[:, 1]
    colors = points(right).get_facecolors()
    order = np.argsort(values)
    assert colors[order[-1], 1] > colors[order[0], 1]  # viridis runs from dark to bright
    frames = {to_hex(patch.get_edgecolor()) for patch in left.patches}
    assert len(left.patches) == len(left.images)
    assert frames <= {to_hex(color) for color in colors}


def test_labels_have_a_legend(mapped):
    _, right = ds.pl.umap(mapped, color="group", n_images=5)
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["stroma", "tumor"]
    assert len(np.unique(points(right).get_facecolors(), axis=0)) == 2
    table = mapped.tables["deepspot_spots"]
    table.uns["group_colors"] = ["#112233", "#445566"]  # as scanpy keeps them
    _, right = ds.pl.umap(mapped, color="group", n_images=5)
    colors = [to_hex(color) for color in points(right).get_facecolors()]
    assert colors == ["#445566" if name == "tumor" else "#112233" for name in table.obs["group"]]


def test_labels_of_the_shapes_and_missing_ones(mapped):
    shapes = mapped.shapes["spots"]
    shapes["annotation"] = pd.Categorical(["gland"] * 10 + [None] * 20)
    _, right = ds.pl.umap(mapped, color="annotation", n_images=5)
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["gland", "none"]
    colors = [to_hex(color) for color in points(right).get_facecolors()]
    assert colors[10:] == ["#d9d9d9"] * 20


def test_numbers_have_a_bar(mapped):
    _, right = ds.pl.umap(mapped, color="score", n_images=5)
    assert right.figure.axes[-1].get_ylabel() == "score"
    assert right.get_legend() is None


def test_invalid_input_raises(mapped):
    with pytest.raises(KeyError, match=r"`color` is not a gene of sdata.tables\['deepspot_spots'\].*nothing"):
        ds.pl.umap(mapped, color="nothing")
    with pytest.raises(ValueError, match="n_images"):
        ds.pl.umap(mapped, n_images=0)
    _, grid = plt.subplots(1, 3)
    with pytest.raises(ValueError, match="`ax` and the panels"):
        ds.pl.umap(mapped, ax=grid)
    assert ds.pl.umap(mapped, n_images=3, ax=grid[:2]) == list(grid[:2])
    mapped.tables["deepspot_spots"].obs["lost"] = np.nan
    with pytest.raises(ValueError, match="'lost' has no value"):
        ds.pl.umap(mapped, color="lost")
    mapped.tables["again"] = mapped.tables["deepspot_spots"].copy()
    with pytest.raises(ValueError, match="table_key"):
        ds.pl.umap(mapped)


@pytest.mark.slow
def test_computed_umap_separates_groups(computed):
    _, places = computed
    centers = places[:20].mean(axis=0), places[20:].mean(axis=0)
    apart = np.linalg.norm(np.subtract(*centers))
    assert np.linalg.norm(places[:20] - centers[0], axis=1).max() < apart / 2
    assert np.linalg.norm(places[20:] - centers[1], axis=1).max() < apart / 2


@pytest.mark.slow
def test_computes_on_a_copy_and_logs_it(computed, log):
    table, places = computed
    again = umap_of(table, "mine", 0)
    np.testing.assert_allclose(again, places, atol=1e-4)
    assert list(table.obsm) == []
    assert list(table.uns) == ["log1p"]
    assert "Computed a UMAP of sdata.tables['mine']" in log[-1]


def test_counts_are_put_on_the_scale_first(computed):
    from anndata import AnnData

    counts = np.random.default_rng(0).poisson(3, (20, 6)).astype(float)
    deeper = AnnData(counts * 7)
    np.testing.assert_allclose(umap_of(AnnData(counts), "a", 0), umap_of(deeper, "b", 0), atol=1e-3)
    with pytest.raises(ValueError, match="does not contain raw counts"):
        umap_of(AnnData(counts + 0.5), "a", 0)
    with pytest.raises(ValueError, match="3 rows"):
        umap_of(AnnData(counts[:3]), "a", 0)


def test_does_not_change_the_object(mapped, computed):
    table = mapped.tables["deepspot_spots"]
    del table.obsm["X_umap"]
    before = table.copy()
    ds.pl.umap(mapped, color="group", n_images=4)
    np.testing.assert_array_equal(before.X, table.X)
    assert list(table.obsm) == list(before.obsm)
    assert list(table.uns) == list(before.uns)


def test_identical_points_give_one_image():
    chosen, middles, _ = spread(np.ones((5, 2)), 10)
    assert len(chosen) == len(middles) == 1


def test_as_many_images_as_fit():
    places = np.array([(x, y) for x in range(10) for y in range(10)], dtype=float)
    chosen, _, side = spread(places, 100)
    assert len(chosen) == 100
    np.testing.assert_allclose(side, 0.9, atol=0.01)
    twins = np.vstack([places, places + 1e-6])
    chosen, _, side = spread(twins, 200)
    assert len(chosen) == 100  # twins are not told apart at the price of images too small to see
    chosen, middles, side = spread(places, 30)
    assert len(chosen) == 25
    assert (np.abs(places[chosen] - middles) <= side / 2 + 1e-9).all()


def test_a_table_on_disk_is_loaded_up_to_the_limit(computed, monkeypatch):
    import dask.array as da
    from anndata import AnnData

    table, known = computed
    lazy = AnnData(da.from_array(table.X, chunks=(10, -1)), uns={"log1p": {}})
    np.testing.assert_allclose(umap_of(lazy, "mine", 0), known)
    monkeypatch.setattr(ds.settings, "max_table_gb", 1e-9)
    with pytest.raises(ValueError, match=r"max_table_gb.*X_umap"):
        umap_of(lazy, "mine", 0)


@pytest.mark.parametrize("stored", [["#ff0000", "#00ff00", "#0000ff"], np.eye(3)])
def test_colors_of_categories_without_spots(mapped, stored):
    table = mapped["deepspot_spots"]
    table.obs["type"] = table.obs["group"].cat.set_categories(["blood", "stroma", "tumor"])
    table.uns["type_colors"] = np.array(stored)
    legend = ds.pl.umap(mapped, color="type")[-1].get_legend()
    shown = {
        text.get_text(): to_hex(mark.get_color())
        for text, mark in zip(legend.texts, legend.legend_handles, strict=True)
    }
    assert shown == {"stroma": "#00ff00", "tumor": "#0000ff"}
    table.uns["type_colors"] = ["no color"] * 3
    ds.pl.umap(mapped, color="type")
