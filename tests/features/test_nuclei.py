"""Nuclei as sub-spots of a feature table."""

import geopandas as gpd
import numpy as np
import pytest
import shapely
from spatialdata import read_zarr
from spatialdata.models import ShapesModel
from spatialdata.transformations import Identity, Scale

import deepspot as ds

SIDE = 60
CENTERS = np.array([[60.0, 60.0], [160.0, 60.0], [260.0, 60.0], [60.0, 160.0]])
# Parts of the tile of each spot that are nuclei, in the order of the shapes.
NUCLEI = [(8, 0, 4), (), (3,), (0, 1, 2, 3, 5)]


def part_center(spot, part):
    return CENTERS[spot] + 20 * (np.array([part % 3, part // 3]) - 1)


def squares(centers, factor=1.0):
    x, y = np.asarray(centers, dtype=float).T / factor
    shapes = gpd.GeoDataFrame(geometry=shapely.box(x - 4, y - 3, x + 4, y + 3))
    transformation = Identity() if factor == 1.0 else Scale([factor, factor], axes=("x", "y"))
    return ShapesModel.parse(shapes, transformations={"global": transformation})


# The first is outside of the circle of spot 0, but in its tile; the last is between the spots.
PLACES = [CENTERS[0] + 28, *[part_center(i, k) for i, parts in enumerate(NUCLEI) for k in parts], (110.0, 110.0)]


@pytest.fixture
def sdata(slide_of):
    """Spots of 3 × 3 parts: part k of spot i has the color (20 · i, 20 · k, 100)."""
    image = np.full((220, 320, 3), 255, np.uint8)
    for i in range(len(CENTERS)):
        for k in range(9):
            x, y = part_center(i, k).astype(int)
            image[y - 10 : y + 10, x - 10 : x + 10] = (20 * i, 20 * k, 100)
    made = slide_of(image, CENTERS, mpp=1.0, diameter_um=SIDE)
    made.shapes["he_nuclei"] = squares(PLACES)
    return made


def test_every_nucleus_is_embedded_from_its_own_tile(sdata, cheap_encoder, log):
    ds.pp.embed(sdata, cheap_encoder, subspots="nuclei")
    table = sdata["mean_color_spots"]
    subspots, present = table.obsm["subspots"], table.obsm["subspots_present"]
    assert (subspots.shape, subspots.dtype) == ((4, 5, 27), np.float16)
    assert present.dtype == bool
    np.testing.assert_array_equal(present.sum(axis=1), [3, 0, 1, 5])
    for i, parts in enumerate(NUCLEI):
        for place, k in enumerate(parts):
            np.testing.assert_array_equal(subspots[i, place].reshape(9, 3), [np.array([20 * i, 20 * k, 100]) / 32] * 9)
    assert not subspots[~present].any()
    assert {tile.shape[1] for tile in cheap_encoder.seen} == {60, 20}
    assert cheap_encoder.n_tiles == 4 + 9
    made = table.uns["deepspot"]
    assert made["geometry"] == {"tile_um": 60.0, "input_px": 32, "grid": 3, "subspots": "nuclei"}
    assert made["subspots"] == "all"
    assert "Spots of 'spots' have 2.2 nuclei of 'he_nuclei' on average, at most 5. 1 of 4 have none." in log


def test_spot_tiles_are_those_of_tiles(sdata, cheap_encoder):
    ds.pp.embed(sdata, cheap_encoder, subspots="nuclei", key_added="nuclei")
    ds.pp.embed(sdata, cheap_encoder, key_added="tiles")
    np.testing.assert_array_equal(sdata["nuclei"].X, sdata["tiles"].X)
    # Parts that are nuclei have the embedding of the sub-spot at this place.
    np.testing.assert_array_equal(sdata["nuclei"].obsm["subspots"][3], sdata["tiles"].obsm["subspots"][3, NUCLEI[3]])
    assert "subspots_present" not in sdata["tiles"].obsm


def test_batches_and_a_pyramid_change_nothing(slide_of, sdata, cheap_encoder):
    ds.pp.embed(sdata, cheap_encoder, subspots="nuclei", batch_size=2)
    image = np.asarray(sdata["he"].data).transpose(1, 2, 0)
    # The encoder reads 32 px: the level of full resolution here is that of the other slide, enlarged four times.
    fine = slide_of(np.kron(image, np.ones((4, 4, 1), np.uint8)), 4 * CENTERS, mpp=0.25, diameter_um=SIDE)
    fine.shapes["he_nuclei"] = squares(4 * np.array(PLACES))
    ds.pp.embed(fine, cheap_encoder, subspots="nuclei")
    for name in ("subspots", "subspots_present"):
        np.testing.assert_array_equal(fine["mean_color_spots"].obsm[name], sdata["mean_color_spots"].obsm[name])


def test_nuclei_in_other_coordinates_and_of_another_name(sdata, cheap_encoder):
    ds.pp.embed(sdata, cheap_encoder, subspots="nuclei", key_added="ours")
    sdata.shapes["cellpose"] = squares(PLACES, factor=0.5)
    ds.pp.embed(sdata, cheap_encoder, subspots="nuclei", nuclei_key="cellpose", key_added="theirs")
    np.testing.assert_array_equal(sdata["theirs"].obsm["subspots"], sdata["ours"].obsm["subspots"])
    assert sdata["theirs"].uns["deepspot"]["geometry"]["nuclei_key"] == "cellpose"


def test_a_table_is_reused_until_the_nuclei_change(sdata, cheap_encoder, tmp_path):
    ds.pp.embed(sdata, cheap_encoder, subspots="nuclei")
    sdata.write(tmp_path / "slide.zarr")
    again = read_zarr(tmp_path / "slide.zarr")
    before = cheap_encoder.n_tiles
    ds.pp.embed(again, cheap_encoder, subspots="nuclei")
    assert list(again.tables) == ["mean_color_spots"]
    assert cheap_encoder.n_tiles == before
    again.shapes["he_nuclei"] = squares([*PLACES, (110.0, 100.0)])  # in no spot
    ds.pp.embed(again, cheap_encoder, subspots="nuclei")
    assert list(again.tables) == ["mean_color_spots"]
    moved = np.array(PLACES)
    moved[1] += 0.5
    again.shapes["he_nuclei"] = squares(moved)
    ds.pp.embed(again, cheap_encoder, subspots="nuclei")
    assert len(again.tables) == 2
    again.shapes["he_nuclei"] = squares(PLACES[:-2])
    ds.pp.embed(again, cheap_encoder, subspots="nuclei")
    assert len(again.tables) == 3
    assert again[list(again.tables)[-1]].obsm["subspots_present"].sum() == 8


def test_a_nucleus_of_overlapping_spots_is_in_each(slide_of, cheap_encoder):
    made = slide_of(np.zeros((200, 200, 3), np.uint8), [[80.0, 100.0], [120.0, 100.0]], mpp=1.0, diameter_um=SIDE)
    made.shapes["he_nuclei"] = squares([(100.0, 100.0), (60.0, 100.0)])
    ds.pp.embed(made, cheap_encoder, subspots="nuclei")
    np.testing.assert_array_equal(made["mean_color_spots"].obsm["subspots_present"], [[True, True], [True, False]])


def test_missing_nuclei(sdata, cheap_encoder):
    del sdata.shapes["he_nuclei"]
    for key, named in ((None, "he_nuclei"), ("cellpose", "cellpose")):
        with pytest.raises(KeyError, match=rf"no shapes '{named}'. `ds.pp.nuclei\(sdata\)` makes 'he_nuclei'"):
            ds.pp.embed(sdata, cheap_encoder, subspots="nuclei", nuclei_key=key)
    with pytest.raises(ValueError, match="`nuclei_key` is for `subspots='nuclei'`, but `subspots` is 'tiles'"):
        ds.pp.embed(sdata, cheap_encoder, nuclei_key="spots")
    sdata.shapes["he_nuclei"] = squares([(110.0, 110.0)])
    with pytest.raises(ValueError, match="None of the 1 nuclei 'he_nuclei' is in a spot of 'spots'"):
        ds.pp.embed(sdata, cheap_encoder, subspots="nuclei")
    assert not sdata.tables
    assert cheap_encoder.n_tiles == 0


def test_the_limit_of_memory_counts_the_padding(sdata, cheap_encoder, monkeypatch):
    monkeypatch.setattr(ds.settings, "max_table_gb", 4 * 27 * (4 + 5 * 2 - 1) / 1e9)
    with pytest.raises(ValueError, match="features of 4 spots"):
        ds.pp.embed(sdata, cheap_encoder, subspots="nuclei")
