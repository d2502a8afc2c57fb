import matplotlib.pyplot as plt
import numpy as np
import pytest

import deepspot as ds
from deepspot.pl._map.tiles import cut_tiles, tile_side
from deepspot.pl._map.values import measured_values

SIDE = 60


@pytest.fixture
def painted(slide_of, add_table):
    """Ten spots of 60 µm, each on a square of 60 px in its own gray; gene `A` is as high as the square is bright."""
    image = np.full((3 * SIDE, 12 * SIDE, 3), 255, np.uint8)
    grays = np.random.default_rng(0).permutation(10) * 20 + 10
    for place, gray in enumerate(grays):
        image[SIDE : 2 * SIDE, (place + 1) * SIDE : (place + 2) * SIDE] = gray
    centers = [((place + 1.5) * SIDE, 1.5 * SIDE) for place in range(10)]
    sdata = slide_of(image, centers, mpp=1.0, diameter_um=SIDE)
    add_table(sdata, np.column_stack([grays / 100, np.zeros(10), grays == grays.max()]), ["A", "ZERO", "RARE"])
    return sdata


def grays_of(axes):
    """Mean gray of the image in each axes."""
    return [float(np.asarray(ax.images[0].get_array()).mean()) for ax in axes]


def test_shows_the_highest_above_the_lowest(painted):
    axes = ds.pl.gallery(painted, "A", n=3)
    assert grays_of(axes) == [190, 170, 150, 50, 30, 10]
    assert [ax.get_title() for ax in axes] == ["1.90", "1.70", "1.50", "0.50", "0.30", "0.10"]
    assert [ax.get_ylabel() for ax in axes] == ["highest", "", "", "lowest", "", ""]
    assert axes[0].figure.get_suptitle() == "A predicted (log1p of counts per 10,000)"
    axes[0].figure.canvas.draw()
    assert axes[0].get_position().y0 > axes[3].get_position().y0


def test_first_image_has_the_scale_bar(painted):
    axes = ds.pl.gallery(painted, "A", n=2)
    assert [len(ax.artists) for ax in axes] == [1, 0, 0, 0]
    (bar,) = axes[0].artists
    assert bar.txt_label.get_text() == "20 µm"
    assert axes[0].get_xlim() == (-SIDE / 2, SIDE / 2)


def test_no_spot_is_shown_twice(painted):
    assert len(ds.pl.gallery(painted, "A", n=8)) == 10
    assert grays_of(ds.pl.gallery(painted, "A", n=8)) == sorted(grays_of(ds.pl.gallery(painted, "A", n=8)))[::-1]


def test_equal_spots_are_taken_at_random_but_always_the_same(painted):
    first, again = (grays_of(ds.pl.gallery(painted, "RARE", n=2)) for _ in range(2))
    assert first == again
    assert len(set(first)) == 4
    every = grays_of(ds.pl.gallery(painted, "RARE", n=5))
    assert every != grays_of(ds.pl.gallery(painted, "A", n=5))
    assert [ax.get_title() for ax in ds.pl.gallery(painted, "RARE", n=2)] == ["1.00", *["0.00"] * 3]


def test_refuses_a_constant_gene(painted):
    with pytest.raises(ValueError, match=r"'ZERO' is constant: 0\.00 in every spot"):
        ds.pl.gallery(painted, "ZERO")


def test_spots_out_of_distribution_have_a_frame(painted):
    values = painted.tables["deepspot_spots"].X[:, 0]
    painted.tables["deepspot_spots"].obs["ood"] = values == values.max()
    first, *others = ds.pl.gallery(painted, "A", n=2)
    assert "1 of 4 spots out of distribution" in first.figure.get_suptitle()
    wide = [ax.spines["top"].get_linewidth() for ax in (first, *others)]
    assert wide[0] > max(wide[1:])


def test_larger_images_show_the_surroundings(painted):
    (ax, *_) = ds.pl.gallery(painted, "A", n=1, tile_um=3 * SIDE)
    picture = np.asarray(ax.images[0].get_array())
    assert picture.shape[:2] == (3 * SIDE, 3 * SIDE)
    assert (picture[: SIDE - 1] == 255).all()
    assert (picture[SIDE + 1 : 2 * SIDE - 1, SIDE + 1 : 2 * SIDE - 1] == 190).all()


def test_rows_are_matched_by_instance(painted):
    before = grays_of(ds.pl.gallery(painted, "A", n=3))
    order = np.random.default_rng(1).permutation(10)
    painted.tables["deepspot_spots"] = painted.tables["deepspot_spots"][order].copy()
    assert grays_of(ds.pl.gallery(painted, "A", n=3)) == before
    painted.tables["deepspot_spots"] = painted.tables["deepspot_spots"][:4].copy()
    assert len(ds.pl.gallery(painted, "A", n=3)) == 4  # only four spots have a value


def test_tiles_are_as_large_as_what_the_model_saw(slide, cheap_encoder, add_table):
    n = len(slide.shapes["spots"])
    add_table(slide, np.arange(n)[:, None], ["A"])
    assert tile_side(slide, "deepspot_spots", "spots", None) == 55  # the diameter
    ds.pp.embed(slide, cheap_encoder, tile_um=70)
    (features,) = set(slide.tables) - {"table", "deepspot_spots"}
    slide.tables["deepspot_spots"].uns["deepspot"]["features"] = features
    assert tile_side(slide, "deepspot_spots", "spots", None) == 70
    assert tile_side(slide, "deepspot_spots", "spots", 90) == 90
    assert ds.pl.gallery(slide, "A", n=3)[0].get_xlim() == (-35, 35)
    slide.shapes["spots"]["parent"] = np.arange(n)  # parts of spots are shown as what they are
    assert tile_side(slide, "deepspot_spots", "spots", None) == 55


def test_measured_and_layers(slide, add_table):
    table = slide.tables["table"]
    gene = table.var_names[0]
    axes = ds.pl.gallery(slide, gene, table_key="table", n=2)
    assert axes[0].figure.get_suptitle() == f"{gene} measured (log1p of counts per 10,000)"
    highest = measured_values(slide, "spots", "table", [gene]).max()
    assert axes[0].get_title() == f"{highest:.2f}"
    n = len(slide.shapes["spots"])
    add_table(slide, np.ones((n, 1)), ["A"], layers={"lower": np.arange(n)[:, None]})
    axes = ds.pl.gallery(slide, "A", layer="lower", n=2)
    assert axes[0].get_title() == f"{n - 1:.2f}"
    assert axes[0].figure.get_suptitle() == "A lower (log1p of counts per 10,000)"


def test_tiles_come_in_the_requested_order(painted):
    values = painted.tables["deepspot_spots"].X[:, 0]
    tiles = cut_tiles(painted, "he", "spots", np.array([7, 0, 3]), SIDE)
    np.testing.assert_allclose(tiles.mean(axis=(1, 2, 3)), 100 * values[[7, 0, 3]], rtol=1e-5)


def test_draws_into_given_axes(painted):
    _, grid = plt.subplots(2, 3)
    assert ds.pl.gallery(painted, "A", n=3, ax=grid) == list(grid.ravel())
    with pytest.raises(ValueError, match="`ax` and the images"):
        ds.pl.gallery(painted, "A", n=2, ax=grid)


def test_invalid_input_raises(painted, add_table):
    with pytest.raises(KeyError, match="NOWHERE"):
        ds.pl.gallery(painted, "NOWHERE")
    with pytest.raises(ValueError, match="`n` must be at least 1"):
        ds.pl.gallery(painted, "A", n=0)
    with pytest.raises(ValueError, match="enough pixels"):
        ds.pl.gallery(painted, "A", tile_um=5)
    add_table(painted, np.full((10, 1), np.nan), ["A"], "empty")
    with pytest.raises(ValueError, match="table_key"):
        ds.pl.gallery(painted, "A")
    with pytest.raises(ValueError, match="0 spots of 'spots' have a value"):
        ds.pl.gallery(painted, "A", table_key="empty")
    del painted.shapes["spots"]["diameter_um"]
    with pytest.raises(ValueError, match="tile_um"):
        ds.pl.gallery(painted, "A", table_key="empty")


def test_without_prediction_says_what_to_call(slide):
    with pytest.raises(KeyError, match=r"ds\.tl\.predict"):
        ds.pl.gallery(slide, "A")


def test_does_not_change_the_object(painted):
    before = painted.tables["deepspot_spots"].copy()
    ds.pl.gallery(painted, "A")
    np.testing.assert_array_equal(before.X, painted.tables["deepspot_spots"].X)
    assert list(painted.tables) == ["deepspot_spots"]


def test_rows_of_labels_show_random_spots(painted):
    bright = painted["deepspot_spots"].X[:, 0] > 1
    labels = np.where(bright, "TLS", "normal")
    labels[0] = "rare"
    painted["deepspot_spots"].obs["annotation"] = labels
    axes = ds.pl.gallery(painted, "A", n=3, groupby="annotation", groups=["TLS", "rare"])
    values = painted["deepspot_spots"].X[labels == "TLS", 0]
    assert len(axes) == 4  # one spot is rare
    rows = [ax.get_ylabel() for ax in axes]
    assert rows == [f"TLS\n{len(values)} spots\nmean {values.mean():.2f}", "", "", rows[3]]
    assert rows[3].startswith("rare\n1 spot\n")
    shown = [float(ax.get_title()) for ax in axes[:3]]
    assert shown == sorted(shown, reverse=True)
    np.testing.assert_allclose(np.array(grays_of(axes)) / 100, [float(ax.get_title()) for ax in axes], atol=0.01)
    assert set(np.round(shown, 2)) <= set(np.round(values.astype(float), 2))
    assert axes[0].figure.get_suptitle().endswith("random spots of each annotation")
    again = ds.pl.gallery(painted, "A", n=3, groupby="annotation", groups=["TLS", "rare"])
    assert [ax.get_title() for ax in again] == [ax.get_title() for ax in axes]


def test_labels_of_the_gallery(painted):
    painted["deepspot_spots"].obs["annotation"] = ["a"] * 5 + [None] * 5
    assert len(ds.pl.gallery(painted, "A", groupby="annotation")) == 5
    with pytest.raises(KeyError, match="'b'` not found in `labels of 'annotation' with a value"):
        ds.pl.gallery(painted, "A", groupby="annotation", groups=["b"])
    with pytest.raises(KeyError, match="'region_of'"):
        ds.pl.gallery(painted, "A", groupby="region_of")
