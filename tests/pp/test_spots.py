from functools import partial

import dask.array as da
import numpy as np
import pytest
from scipy.spatial import cKDTree
from spatialdata import read_zarr
from spatialdata.models import Image2DModel
from xarray import Dataset, DataTree

import deepspot as ds
from deepspot._image import tiles
from deepspot._spatial.transforms import _affines, centers_px, place_spots

RNG = np.random.default_rng(0)
place = partial(ds.pp.spots, diameter_um=55, pitch_um=100)
GLASS = (243, 238, 242)


def draw(height, width, *, tissue=True):
    """Glass at 1 µm per pixel, with tissue in the right half."""
    image = np.tile(np.array(GLASS, float), (height, width, 1))
    if tissue:
        nuclei = RNG.random((height // 4, width // 8, 1)) < 0.3
        stained = np.where(nuclei, (105, 80, 150), (214, 150, 190))
        image[:, width // 2 :] = stained.repeat(4, axis=0).repeat(4, axis=1)
    return image.round().astype(np.uint8)


IMAGE = draw(640, 960)


@pytest.fixture
def make(slide_of):
    def make(image=IMAGE, mpp=1.0, **options):
        sdata = slide_of(image, [[5, 5]], mpp=mpp, **options)
        del sdata.shapes["spots"]
        return sdata

    return make


@pytest.fixture
def blank(make):
    return make()


def pyramid_of(levels):
    """An image of levels (c, y, x), finest first."""
    parsed = [Image2DModel.parse(level, dims=("c", "y", "x")) for level in levels]
    return DataTree.from_dict({f"scale{number}": Dataset({"image": level}) for number, level in enumerate(parsed)})


def centers_of(sdata, key="spots"):
    return centers_px(sdata, "he", key)


@pytest.mark.parametrize("passed", [True, False])
def test_the_size_is_that_of_the_model(blank, quick_model, passed, log):
    """Of the given model, or the embedded one, which is loaded without a log line."""
    ds.pp.spots(blank, tissue=None, **({"model": quick_model} if passed else {}))
    spots, xy = blank.shapes["spots"], centers_of(blank)
    assert set(spots["diameter_um"]) == {55.0 if passed else 100.0}
    nearest, _ = cKDTree(xy).query(xy, k=5)
    np.testing.assert_allclose(nearest[:, 1], quick_model.pitch_um if passed else 200.6)
    assert len(log) == 1
    ds.pp.spots(blank, model=quick_model, diameter_um=40, pitch_um=80, tissue=None, overwrite=True)
    assert set(blank.shapes["spots"]["diameter_um"]) == {40.0}


def test_a_model_that_does_not_exist(blank):
    with pytest.raises(FileNotFoundError, match="no model 'nowhere'"):
        ds.pp.spots(blank, model="nowhere")
    assert not blank.shapes


@pytest.mark.parametrize("tissue", ["brightness", "saturation"])
@pytest.mark.parametrize("layout", ["hexagonal", "square"])
def test_spots_on_tissue(blank, layout, tissue, log):
    place(blank, layout=layout, tissue=tissue)
    place(blank, layout=layout, tissue=None, key_added="all")
    xy, everywhere = centers_of(blank), centers_of(blank, "all")
    assert {tuple(at) for at in everywhere[everywhere[:, 0] > 480 + 28]} <= {tuple(at) for at in xy}
    assert xy[:, 0].min() > 480 - 28
    places, n = len(everywhere), len(xy)
    share = f"{n / places:.0%} of {places}, by {tissue}"
    assert log[0] == f"Added {n} spots on tissue ({share}) to sdata.shapes['spots']."
    assert log[1] == f"Added {places} spots to sdata.shapes['all']."


def test_added_shapes(blank):
    place(blank, diameter_um=40, pitch_um=80)
    spots = blank.shapes["spots"]
    assert spots.columns.tolist() == ["geometry", "radius", "diameter_um", "array_row", "array_col"]
    assert set(spots["diameter_um"]) == {40.0}
    assert set(spots["radius"]) == {20.0}
    assert spots[["array_row", "array_col"]].dtypes.tolist() == [np.int64, np.int64]
    assert spots.index.tolist() == list(range(len(spots)))
    assert _affines(spots).keys() == _affines(blank["he"]).keys() == {"global", "microns"}
    nearest, _ = cKDTree(centers_of(blank)).query(centers_of(blank), k=2)
    np.testing.assert_allclose(nearest[:, 1], 80)


def test_array_positions_do_not_depend_on_the_tissue(blank):
    place(blank, layout="square", tissue=None, key_added="all")
    place(blank, layout="square")
    columns = ["array_row", "array_col"]
    spots = blank.shapes["spots"]
    everywhere = blank.shapes["all"].set_index(columns)
    there = everywhere.loc[[tuple(at) for at in spots[columns].to_numpy()]]
    np.testing.assert_allclose(there.geometry.x, spots.geometry.x)
    assert spots["array_col"].min() > 0


@pytest.mark.parametrize("tissue", ["brightness", "saturation"])
def test_magnification_changes_nothing(make, tissue):
    fine = make(IMAGE.repeat(2, axis=0).repeat(2, axis=1), mpp=0.5)
    coarse = make(mpp=1.0)
    for sdata in (fine, coarse):
        place(sdata, tissue=tissue)
    np.testing.assert_allclose(centers_of(fine) * 0.5, centers_of(coarse))
    columns = ["array_row", "array_col"]
    np.testing.assert_array_equal(fine["spots"][columns], coarse["spots"][columns])


@pytest.mark.parametrize("sizes", [[], [(640, 960)], [(640, 960), (320, 480)]])
def test_the_paper_s_rule_at_full_resolution(make, sizes):
    """Compares with the mean over all pixels of a tile, except within one gray level of the threshold."""
    smooth = RNG.integers(150, 250, (20, 30, 1)).repeat(3, axis=2).repeat(64, axis=0).repeat(64, axis=1)
    image = np.clip(smooth + RNG.normal(0, 15, smooth.shape), 1, 255).astype(np.uint8)
    levels = [image]
    for height, width in sizes:
        levels.append(levels[-1].reshape(height, 2, width, 2, 3).mean(axis=(1, 3)).round().astype(np.uint8))
    sdata = make(mpp=0.5)
    sdata["he"] = pyramid_of([da.from_array(level.transpose(2, 0, 1), chunks=(3, 300, 500)) for level in levels])
    ds.pp.set_scale(sdata, mpp=0.5)
    place(sdata, tissue=None, key_added="all", layout="square", pitch_um=30)
    place(sdata, layout="square", pitch_um=30)
    xy = centers_of(sdata, "all")
    means = np.array([image[y : y + 110, x : x + 110].mean() for x, y in (xy - 55).astype(int)])
    kept = {tuple(at) for at in centers_of(sdata)}
    clear = np.abs(means - 200) > 1
    found = np.array([tuple(at) in kept for at in xy])
    np.testing.assert_array_equal(found[clear], means[clear] <= 200)
    assert 0.2 < found.mean() < 0.8
    assert clear.mean() > 0.8


def test_spots_have_the_transformations_of_the_image(make):
    turned = make(image_to={"global": [[0, -3, 5000], [3, 0, 200], [0, 0, 1]]})
    plain = make()
    for sdata in (turned, plain):
        place(sdata)
    np.testing.assert_allclose(centers_of(turned), centers_of(plain))
    assert place_spots(turned, "he", "spots").mpp == pytest.approx(1)


@pytest.mark.parametrize("scale_factors", [None, [2, 2]])
def test_survives_writing(make, scale_factors, tmp_path):
    sdata = make(scale_factors=scale_factors)
    place(sdata)
    sdata.write(tmp_path / "slide.zarr")
    copy = read_zarr(tmp_path / "slide.zarr")
    np.testing.assert_allclose(centers_of(copy), centers_of(sdata))
    assert copy["spots"].columns.tolist() == sdata["spots"].columns.tolist()


def test_a_toy_slide_gets_its_own_spots_back_and_a_prediction(slide, cheap_encoder):
    known = centers_px(slide, "P1_S1_image", "spots")
    place(slide, key_added="dense", pitch_um=40)
    found = centers_px(slide, "P1_S1_image", "dense")
    assert (cKDTree(found).query(known)[0] < 40).all()
    ds.pp.embed(slide, cheap_encoder, shapes_key="dense")
    assert slide.tables["mean_color_dense"].n_obs == len(found)


def test_existing_shapes_are_kept(blank):
    place(blank)
    n = len(blank.shapes["spots"])
    with pytest.raises(
        ValueError, match=r"sdata.shapes\['spots'\] exists. Pass `overwrite=True`, or another `key_added`"
    ):
        place(blank, pitch_um=60)
    assert len(blank.shapes["spots"]) == n
    place(blank, pitch_um=60, overwrite=True)
    assert len(blank.shapes["spots"]) > n


@pytest.mark.parametrize(
    ("tissue", "message"),
    [
        (
            "brightness",
            r"Image 'he' shows no tissue: the rule 'brightness' selects none of \d+ spots.*`tissue='saturation'`",
        ),
        ("saturation", r"Image 'he' shows no tissue: its most colored parts have a saturation of 0\.0"),
    ],
)
@pytest.mark.parametrize("color", [GLASS, (255, 255, 255), (0, 0, 0)])
def test_no_tissue(make, tissue, message, color):
    sdata = make(np.tile(np.array(color, np.uint8), (640, 640, 1)))
    with pytest.raises(ValueError, match=message):
        place(sdata, tissue=tissue)
    assert not sdata.shapes
    place(sdata, tissue=None)
    assert len(sdata.shapes["spots"])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"diameter_um": 0}, ValueError, "`diameter_um` must be above 0"),
        ({"pitch_um": -1}, ValueError, "`pitch_um` must be above 0"),
        ({"pitch_um": "100"}, TypeError, "`pitch_um` must be a finite number"),
        ({"layout": "round"}, ValueError, r"`layout` must be one of \['hexagonal', 'square'\], got 'round'"),
        ({"tissue": "otsu"}, ValueError, r"`tissue` must be one of \['brightness', 'saturation'\], or None"),
        (
            {"diameter_um": 641},
            ValueError,
            r"No spot of 641 µm fits into image 'he' of 960 × 640 µm, at 1 µm per pixel",
        ),
        ({"pitch_um": 961}, ValueError, r"`pitch_um=961` is more than image 'he' of 960 × 640 µm"),
        ({"pitch_um": 0.5}, ValueError, r"`pitch_um=0.5` is less than a pixel of image 'he'"),
        ({"image_key": "HE"}, KeyError, r"Key `'HE'` not found in `sdata.images`. Available keys: \['he'\]"),
        ({"key_added": "a b"}, ValueError, "cannot be a name"),
    ],
)
def test_bad_input(blank, arguments, error, message):
    with pytest.raises(error, match=message):
        place(blank, **arguments)
    assert not blank.shapes


def test_the_scale_must_be_known(make):
    sdata = make(mpp=None)
    with pytest.raises(ValueError, match=r"The scale of image 'he' is unknown.*`ds.pp.set_scale"):
        place(sdata)


def test_a_large_slide_is_not_read_at_full_resolution(make, monkeypatch):
    """300,000 spots, without reading the 3 GB of pixels at full resolution."""
    small = np.full((1000, 1250, 3), 120, np.uint8)
    finest = da.zeros((3, 32_000, 40_000), dtype=np.uint8, chunks=(3, 1024, 1024))
    read = []
    decode = tiles._decode

    def decode_and_count(data, blocks):
        parts = decode(data, blocks)
        read.extend(part.nbytes for part in parts)
        return parts

    monkeypatch.setattr(tiles, "_decode", decode_and_count)
    sdata = make()
    sdata["he"] = pyramid_of([finest, da.from_array(small.transpose(2, 0, 1), chunks=(3, 512, 512))])
    ds.pp.set_scale(sdata, mpp=0.25)
    place(sdata, pitch_um=16.5, diameter_um=64, layout="hexagonal")
    assert len(sdata.shapes["spots"]) > 300_000
    assert sum(read) == small.nbytes
