import matplotlib.pyplot as plt
import numpy as np
import pytest
import shapely
from geopandas import GeoDataFrame
from matplotlib.collections import PolyCollection
from matplotlib.colors import to_hex
from spatialdata.models import ShapesModel
from spatialdata.transformations import get_transformation

import deepspot as ds
from deepspot._sdata.view import noun_of
from deepspot.pl._map.places import find_places
from deepspot.pl._style import ORANGE

GENES, MPP, SIDE = ["A", "B"], 0.5, 20


def add_polygons(sdata, key, polygons, **columns):
    systems = dict(get_transformation(sdata.shapes["spots"], get_all=True))
    sdata.shapes[key] = ShapesModel.parse(GeoDataFrame(columns, geometry=list(polygons)), transformations=systems)


def squares(rows, columns, side=SIDE):
    """Touching squares from pixel (40, 40)."""
    x, y = (axis.ravel() * side + 40.0 for axis in np.meshgrid(np.arange(columns), np.arange(rows)))
    return shapely.box(x, y, x + side, y + side)


@pytest.fixture
def cells(slide_of, add_table):
    """A slide of 24 touching square cells with the values 0 to 23, and two spots."""
    sdata = slide_of(np.full((200, 260, 3), 255, np.uint8), [[80, 80], [120, 80]], mpp=MPP, diameter_um=20)
    add_polygons(sdata, "cells", squares(4, 6))
    values = np.column_stack([np.arange(24.0), np.ones(24)])
    add_table(sdata, values, GENES, "deepspot_cells", shapes_key="cells")
    sdata["deepspot_cells"].uns["deepspot"]["resolution"] = "cell"
    return sdata


def corners(collection):
    return [path.vertices for path in collection.get_paths()]


def test_polygons_are_drawn_as_they_are(cells):
    (ax,) = ds.pl.spatial(cells, "A", shapes_key="cells")
    (drawn,) = ax.collections
    assert isinstance(drawn, PolyCollection)
    np.testing.assert_array_equal(drawn.get_array(), np.arange(24))
    for there, shape in zip(corners(drawn), cells["cells"].geometry, strict=True):
        np.testing.assert_allclose(there.min(axis=0), np.array(shape.bounds[:2]) * MPP)
        np.testing.assert_allclose(there.max(axis=0), np.array(shape.bounds[2:]) * MPP)
    assert ax.get_title().startswith("A predicted (not measured here)")


def test_cells_without_a_value_are_left_out_and_all_parts_of_a_cell_have_its_value(cells):
    split = shapely.union_all(squares(4, 6)[[0, 2]])
    add_polygons(cells, "cells", [split, *squares(4, 6)[3:]])
    places = find_places(cells, "he", "cells")
    values = np.r_[np.arange(21.0), np.nan]
    drawn = places.draw(plt.gca(), values, clim=(0, 20))
    assert list(drawn.get_array()) == [0, *range(21)]
    assert places.diameter == pytest.approx(2 * SIDE * MPP / np.sqrt(np.pi))


def test_constant_gene_of_cells_is_gray(cells):
    (ax,) = ds.pl.spatial(cells, "B", shapes_key="cells")
    assert "constant (1.00 in every cell)" in ax.get_title()
    assert [to_hex(color) for color in ax.collections[0].get_facecolor()] == ["#d9d9d9"]


@pytest.mark.parametrize("side_px", [4, 40])
def test_line_around_places_in_doubt_covers_no_value_in_doubt(cells, side_px):
    """Rendered: every cell in doubt has its color, and orange is only around their group."""
    doubt = np.isin(np.arange(24), [8, 9, 14, 15])  # two by two
    cells["deepspot_cells"].obs["ood"] = doubt
    places = find_places(cells, "he", "cells")
    figure = plt.figure(figsize=(6 * side_px / 100, 4 * side_px / 100), dpi=100)
    ax = figure.add_axes((0, 0, 1, 1), xlim=(20, 80), ylim=(60, 20))
    ax.set_axis_off()
    drawn = places.draw(ax, np.arange(24.0), doubt, clim=(0, 23), cmap="Greys_r")
    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3] / 255
    blocks = pixels.reshape(4, side_px, 6, side_px, 3).swapaxes(1, 2).reshape(24, side_px, side_px, 3)
    colors = np.broadcast_to(drawn.to_rgba(drawn.get_array())[:, None, None, :3], blocks.shape)
    np.testing.assert_allclose(blocks[doubt], colors[doubt], atol=0.01)
    orange = (blocks[..., 0] - blocks[..., 2] > 0.3).any(axis=(1, 2))
    assert list(np.flatnonzero(orange)) == [1, 2, 3, 4, 7, 10, 13, 16, 19, 20, 21, 22]  # around the group


def test_title_counts_places_in_doubt_by_their_name(cells):
    cells["deepspot_cells"].obs["ood"] = np.arange(24) < 5
    (ax,) = ds.pl.spatial(cells, "A", shapes_key="cells")
    assert ax.get_title().splitlines()[-1] == "5 of 24 cells out of distribution (orange outline)"
    every, line, again = ax.collections
    assert len(every.get_paths()) == 24
    assert list(again.get_array()) == [0, 1, 2, 3, 4]
    assert again.get_clim() == every.get_clim()
    assert again.get_cmap() == every.get_cmap()
    assert {to_hex(color) for color in line.get_edgecolor()} == {ORANGE.lower()}
    assert len(line.get_paths()) == 5


def test_cells_are_drawn_next_to_their_spots(cells, add_table):
    add_table(cells, [[1, 1], [2, 1]], GENES)
    _, spots, fine = ds.pl.superresolution(cells, "A")
    assert spots.get_title().startswith("A predicted, 2 spots of 20 µm")
    assert fine.get_title().startswith("A predicted, 24 cells of about 11.3 µm")
    assert isinstance(fine.collections[0], PolyCollection)


def test_slides_of_cells_without_image(cells):
    del cells.images["he"]
    (ax,) = ds.pl.slides({"one": cells}, "A")
    assert ax.get_title() == "one\n24 cells, mean 11.50"
    np.testing.assert_allclose(corners(ax.collections[0])[0].min(axis=0), [20, 20])


@pytest.mark.parametrize(
    ("key", "columns", "resolution", "noun"),
    [
        ("cells", {}, "cell", "cells"),
        ("cell_boundaries", {}, None, "cells"),
        ("he_nuclei", {}, "cell", "nuclei"),
        ("nucleus_boundaries", {"parent": 0}, None, "nuclei"),
        ("square_008um", {"diameter_um": 8.0}, "cell", "bins"),
    ],
)
def test_names_of_polygons(cells, add_table, key, columns, resolution, noun):
    add_polygons(cells, key, squares(4, 6), **{name: [value] * 24 for name, value in columns.items()})
    if resolution:
        add_table(cells, np.ones((24, 2)), GENES, "made", shapes_key=key)
        cells["made"].uns["deepspot"]["resolution"] = resolution
    assert noun_of(cells, key).many == noun


@pytest.mark.parametrize(
    ("resolution", "noun"), [("spot", "spots"), ("cell", "cells"), ("subspot", "sub-spots"), ("grid", "grid points")]
)
def test_names_of_circles(cells, add_table, resolution, noun):
    assert noun_of(cells, "spots").count(1) == "1 spot"
    add_table(cells, np.ones((2, 2)), GENES)
    cells["deepspot_spots"].uns["deepspot"]["resolution"] = resolution
    assert noun_of(cells, "spots").many == noun


def test_bins_leave_no_lines_between_them(cells):
    add_polygons(cells, "square_010um", squares(4, 6), diameter_um=[10.0] * 24)
    places = find_places(cells, "he", "square_010um")
    assert not places.draw(plt.gca(), np.ones(24), clim=(0, 1)).get_antialiased()[0]
    assert places.size == "10 µm"


def test_many_cells_are_three_artists(slide_of, add_table):
    """Not one artist for each cell: 100,000 cells are drawn in seconds."""
    sdata = slide_of(np.full((200, 260, 3), 255, np.uint8), [[80, 80], [120, 80]], mpp=MPP)
    add_polygons(sdata, "cells", squares(250, 400, side=0.4))
    add_table(sdata, np.arange(100_000.0)[:, None], ["A"], "deepspot_cells", shapes_key="cells")
    sdata["deepspot_cells"].obs["ood"] = np.arange(100_000) % 20 == 0
    (ax,) = ds.pl.spatial(sdata, "A", shapes_key="cells")
    assert [len(artist.get_paths()) for artist in ax.collections] == [100_000, 5_000, 5_000]
    assert len(ax.get_children()) < 20
    # Lines around cells below a pixel leave most of the map.
    assert ax.collections[1].get_linewidth()[0] < 1.5
