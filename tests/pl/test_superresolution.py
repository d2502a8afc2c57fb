import matplotlib.pyplot as plt
import numpy as np
import pytest

import deepspot as ds
from deepspot._spatial.transforms import microns_per_pixel
from deepspot.pl._map.values import predicted_values

GENES = ["A", "B"]


def add_parts(sdata, name, offsets, side):
    """Add circles at some offsets (in diameters) from every spot, as `ds.tl.predict` does for finer resolutions."""
    from spatialdata.models import ShapesModel
    from spatialdata.transformations import get_transformation

    spots = sdata.shapes["spots"]
    xy = np.column_stack([spots.geometry.x, spots.geometry.y])
    mpp = microns_per_pixel(sdata, "P1_S1_image")
    centers = (xy[:, None] + np.asarray(offsets) * side / mpp).reshape(-1, 2)
    systems = dict(get_transformation(spots, get_all=True))
    parts = ShapesModel.parse(centers, geometry=0, radius=side / mpp / 2, transformations=systems)
    parts["diameter_um"] = float(side)
    parts["parent"] = np.repeat(spots.index, len(offsets))
    sdata.shapes[name] = parts
    return len(parts)


@pytest.fixture
def fine(slide, add_table):
    """A slide with predictions of 30 spots and of their 3 × 3 sub-spots."""
    rng = np.random.default_rng(0)
    whole = rng.uniform(1, 2, (len(slide.shapes["spots"]), 2))
    add_table(slide, whole, GENES)
    grid = [(x, y) for y in (-1, 0, 1) for x in (-1, 0, 1)]
    diameter = float(slide.shapes["spots"]["diameter_um"].iloc[0])
    n = add_parts(slide, "spots_subspots", grid, diameter / 3)
    parts = np.repeat(whole, 9, axis=0) + rng.uniform(-1, 1, (n, 2))
    add_table(slide, parts, GENES, "deepspot_spots_subspots", shapes_key="spots_subspots")
    slide["deepspot_spots_subspots"].uns["deepspot"]["resolution"] = "subspot"
    return slide


def drawn(ax):
    (collection,) = ax.collections
    return collection


def test_draws_image_spots_and_subspots_on_one_scale(fine):
    tissue, whole, parts = ds.pl.superresolution(fine, "A")
    tables = fine.tables
    np.testing.assert_allclose(drawn(whole).get_array(), tables["deepspot_spots"].X[:, 0])
    np.testing.assert_allclose(drawn(parts).get_array(), tables["deepspot_spots_subspots"].X[:, 0])
    assert drawn(whole).get_clim() == drawn(parts).get_clim()
    assert drawn(parts).get_clim()[0] < tables["deepspot_spots"].X.min()  # the scale is that of all values
    assert len(drawn(tissue).get_offsets()) == 0
    assert tissue.get_title() == "H&E image"
    assert tissue.images[0].get_alpha() == 1


def title(ax):
    return ax.get_title().splitlines()[0]


def test_parts_out_of_distribution_are_outlined_and_counted(fine):
    for key in ("deepspot_spots", "deepspot_spots_subspots"):
        table = fine.tables[key]
        table.obs["ood"] = np.arange(table.n_obs) < table.n_obs / 3
    _, whole, parts = ds.pl.superresolution(fine, "B")
    assert "10 of 30 spots out of distribution" in whole.get_title()
    assert "90 of 270 sub-spots out of distribution" in parts.get_title()
    assert len(parts.collections[1].get_offsets()) == 90


def test_refuses_a_constant_gene(fine):
    for table in fine.tables.values():
        if "B" in table.var_names:
            table.X[:] = 1
    with pytest.raises(ValueError, match="B is constant"):
        ds.pl.superresolution(fine, "B")


def test_titles_give_number_and_diameter(fine):
    _, whole, parts = ds.pl.superresolution(fine, "B")
    assert title(whole) == "B predicted, 30 spots of 55 µm"
    assert title(parts) == "B predicted, 270 sub-spots of 18.3 µm"
    np.testing.assert_allclose(drawn(parts)._widths.max() * 2, 55 / 3)
    assert whole.figure.axes[-1].get_ylabel() == "log1p of counts per 10,000"
    assert len(whole.figure.axes) == 4  # one color bar for all


def test_subspots_lie_in_their_spots_and_panels_zoom_together(fine):
    _, whole, parts = ds.pl.superresolution(fine, "A")
    middle = drawn(parts).get_offsets().reshape(-1, 9, 2).mean(axis=1)
    np.testing.assert_allclose(middle, drawn(whole).get_offsets(), atol=1e-6)
    whole.set_xlim(100, 200)
    assert parts.get_xlim() == (100, 200)


def test_grid_is_drawn_too_or_alone(fine, add_table):
    n = add_parts(fine, "spots_grid", [(0, 0), (1, 0)], 20.0)
    add_table(fine, np.ones((n, 2)), GENES, "deepspot_spots_grid", shapes_key="spots_grid")
    fine["deepspot_spots_grid"].uns["deepspot"]["resolution"] = "grid"
    axes = ds.pl.superresolution(fine, "A")
    assert [title(ax).split(", ")[-1] for ax in axes] == [
        "H&E image",
        "30 spots of 55 µm",
        "270 sub-spots of 18.3 µm",
        "60 grid points of 20 µm",
    ]
    axes = ds.pl.superresolution(fine, "A", fine_key="deepspot_spots_grid")
    assert len(axes) == 3
    assert "grid points" in axes[2].get_title()


def test_draws_into_given_axes(fine):
    _, grid = plt.subplots(1, 3)
    assert ds.pl.superresolution(fine, "A", ax=grid) == list(grid)
    with pytest.raises(ValueError, match="`ax` and the panels"):
        ds.pl.superresolution(fine, "A", ax=grid[:2])


def test_missing_results_raise(fine):
    with pytest.raises(KeyError, match="NOWHERE"):
        ds.pl.superresolution(fine, "NOWHERE")
    with pytest.raises(KeyError, match="nowhere"):
        ds.pl.superresolution(fine, "A", fine_key="nowhere")
    del fine.tables["deepspot_spots_subspots"]
    del fine.shapes["spots_subspots"]
    with pytest.raises(KeyError, match='resolution="subspot"'):
        ds.pl.superresolution(fine, "A")


def test_several_finer_predictions_have_to_be_chosen_from(fine):
    fine.tables["again"] = fine.tables["deepspot_spots_subspots"].copy()
    with pytest.raises(ValueError, match="fine_key"):
        ds.pl.superresolution(fine, "A")
    assert len(ds.pl.superresolution(fine, "A", fine_key="again")) == 3
    assert len(ds.pl.superresolution(fine, "A", fine_key=["again", "deepspot_spots_subspots"])) == 4


def test_does_not_change_the_object(fine):
    before = predicted_values(fine, "spots_subspots", "deepspot_spots_subspots", GENES)
    names = sorted(name for _, name, _ in fine.gen_elements())
    ds.pl.superresolution(fine, "A")
    np.testing.assert_array_equal(before, fine.tables["deepspot_spots_subspots"].X)
    assert sorted(name for _, name, _ in fine.gen_elements()) == names
