import numpy as np
import pytest
import shapely
from geopandas import GeoDataFrame
from scipy.ndimage import gaussian_filter
from spatialdata import SpatialData, deepcopy, read_zarr
from spatialdata.models import Image2DModel, ShapesModel
from spatialdata.transformations import get_transformation
from xarray import Dataset, DataTree

import deepspot as ds
from deepspot._image import quality as image_quality
from deepspot.errors import InputError, MissingKeyError

IMAGE, REGIONS = "P1_S1_image", "P1_S1_image_artifacts"
COLUMNS = ["focus", "darkness", "pen", "background", "artifact"]
BLUR, FOLD, PEN = (slice(150, 450), slice(150, 450)), (slice(500, 600), slice(150, 800)), slice(700, 780)


@pytest.fixture(scope="module")
def clean():
    """A toy slide of 1 µm per pixel. Shared: tests that change it take a copy."""
    return ds.datasets.toy(1, n_rows=8, n_cols=10, seed=1)["P1_S1"]


@pytest.fixture(scope="module")
def bad(clean):
    """The same with a blurred square, a fold, and a stroke of green ink. Shared."""
    pixels = clean[IMAGE].transpose("y", "x", "c").to_numpy().astype(np.float32)
    soft = gaussian_filter(pixels, (3, 3, 0)) + np.random.default_rng(0).normal(0, 1.2, pixels.shape)
    pixels[BLUR] = soft[BLUR]
    pixels[FOLD] *= np.roll(pixels, 30, axis=1)[FOLD] / 255
    pixels[:, PEN] += 0.9 * (np.array([20, 120, 70]) - pixels[:, PEN])
    return with_image(clean, pixels)


@pytest.fixture(scope="module")
def judged(bad):
    sdata = deepcopy(bad)
    ds.pp.quality(sdata)
    return sdata


def with_image(sdata, pixels, **options):
    image = Image2DModel.parse(
        pixels.round().clip(1, 255).astype(np.uint8).transpose(2, 0, 1),
        dims=("c", "y", "x"),
        c_coords=["r", "g", "b"],
        transformations=dict(get_transformation(sdata[IMAGE], get_all=True)),
        **options,
    )
    shapes, tables = deepcopy(sdata["spots"]), {"table": sdata["table"].copy()}
    return SpatialData(images={IMAGE: image}, shapes={"spots": shapes}, tables=tables)


def inside(sdata, rows, columns, margin=0):
    """Spots whose tiles are inside of a part of the image, on tissue."""
    x, y = sdata["spots"].geometry.x, sdata["spots"].geometry.y
    part = y.between(rows.start + margin, rows.stop - margin) & x.between(columns.start + margin, columns.stop - margin)
    return part & (sdata["spots"]["background"] < 0.5)


def test_artifacts_are_found_where_they_were_planted(judged):
    verdict = judged["spots"]["artifact"]
    planted = {"blurred": (*BLUR, 30), "folded": (*FOLD, 15), "pen": (slice(0, 10_000), PEN, 10)}
    for name, part in planted.items():
        assert (verdict == name)[inside(judged, *part)].mean() > 0.7, name
    free = inside(judged, slice(630, 900), slice(0, 650))
    assert free.sum() > 5
    assert (verdict[free] == "none").all()


def test_a_clean_slide_has_no_artifacts(clean, log):
    sdata = deepcopy(clean)
    ds.pp.quality(sdata)
    assert (sdata["spots"]["artifact"] == "none").all()
    assert REGIONS not in sdata.shapes
    assert any("no regions" in line for line in log)


def test_columns_are_in_shapes_and_in_obs_of_all_tables(judged):
    shapes, obs = judged["spots"], judged["table"].obs
    for name in COLUMNS:
        np.testing.assert_array_equal(shapes[name].to_numpy(), obs[name].to_numpy())
    assert obs["artifact"].cat.categories.tolist() == ["none", "blurred", "folded", "pen"]
    assert obs[COLUMNS[:-1]].dtypes.eq(np.float64).all()
    assert obs[["pen", "background"]].stack().between(0, 1).all()


def test_numbers_have_their_meaning(judged):
    spots = judged["spots"]
    tissue = spots[(spots["artifact"] == "none") & (spots["background"] < 0.1)]
    assert 0.5 < tissue["focus"].median() < 2
    assert 0.3 < tissue["darkness"].median() < 1.1
    assert spots["focus"][inside(judged, *BLUR, 60)].max() < 0.15
    assert spots[spots["artifact"] == "pen"]["pen"].min() > 0.4


def test_regions_are_outlines_in_the_systems_of_the_image(judged):
    regions = judged[REGIONS]
    assert sorted(regions["artifact"].unique()) == ["blurred", "folded", "pen"]
    np.testing.assert_allclose(regions["area_um2"], regions.geometry.area)
    assert set(get_transformation(regions, get_all=True)) == set(get_transformation(judged[IMAGE], get_all=True))
    blurred = shapely.union_all(regions.geometry[regions["artifact"] == "blurred"])
    planted = shapely.box(150, 150, 450, 450)
    assert blurred.intersection(planted).area / blurred.union(planted).area > 0.6


def test_the_result_can_be_written(judged, tmp_path):
    judged.write(tmp_path / "slide.zarr")
    kept = read_zarr(tmp_path / "slide.zarr")
    assert kept[REGIONS]["artifact"].tolist() == judged[REGIONS]["artifact"].tolist()
    assert kept["table"].obs["artifact"].tolist() == judged["table"].obs["artifact"].tolist()


def test_levels_and_chunks_do_not_matter(bad, judged):
    pixels = bad[IMAGE].transpose("y", "x", "c").to_numpy().astype(np.float32)
    fine = np.repeat(np.repeat(pixels, 2, axis=0), 2, axis=1)
    sdata = with_image(bad, pixels, chunks=(3, 300, 177))
    levels = [
        Image2DModel.parse(one.astype(np.uint8).transpose(2, 0, 1), dims=("c", "y", "x")) for one in (fine, pixels)
    ]
    tree = DataTree.from_dict({f"scale{n}": Dataset({"image": level}) for n, level in enumerate(levels)})
    pyramid = SpatialData(images={"he": tree})
    ds.pp.set_scale(pyramid, image_key="he", mpp=0.5)
    ds.pp.quality(sdata)
    ds.pp.quality(pyramid)
    np.testing.assert_array_equal(sdata["spots"]["focus"], judged["spots"]["focus"])
    assert pyramid["he_artifacts"]["artifact"].tolist() == judged[REGIONS]["artifact"].tolist()
    np.testing.assert_allclose(pyramid["he_artifacts"].area, 4 * judged[REGIONS].area)


def test_spots_are_not_placed_in_regions(bad, judged, log):
    place = {"diameter_um": 50, "pitch_um": 50, "tissue": "saturation", "key_added": "grid", "overwrite": True}
    sdata = deepcopy(bad)
    del sdata.shapes["spots"], sdata.tables["table"]
    ds.pp.spots(sdata, **place)
    before = len(sdata["grid"])
    del sdata.shapes["grid"]
    ds.pp.quality(sdata)
    ds.pp.spots(sdata, **place, exclude_artifacts=False)
    assert len(sdata["grid"]) == before
    ds.pp.spots(sdata, **place)
    x, y = sdata["grid"].get_coordinates().to_numpy().T
    tiles = shapely.box(x - 25, y - 25, x + 25, y + 25)
    cover = shapely.area(shapely.intersection(tiles, shapely.union_all(sdata[REGIONS].geometry))) / 2500
    assert (cover < 0.5).all()
    assert f"Left out {before - len(sdata['grid'])} spots in the regions of sdata.shapes['{REGIONS}']." in log
    assert sdata["grid"].index.tolist() == list(range(len(sdata["grid"])))


def test_a_slide_that_is_bad_everywhere_gets_no_spots(clean):
    sdata = deepcopy(clean)
    regions = GeoDataFrame({"artifact": ["pen"]}, geometry=[shapely.box(0, 0, 5_000, 5_000)])
    sdata.shapes[REGIONS] = ShapesModel.parse(regions, transformations=get_transformation(sdata[IMAGE], get_all=True))
    with pytest.raises(InputError, match="exclude_artifacts=False"):
        ds.pp.spots(sdata, diameter_um=55, pitch_um=100, key_added="new")
    assert "new" not in sdata.shapes


def test_regions_are_not_taken_for_spots_or_cells(judged, cheap_encoder):
    sdata = deepcopy(judged)
    ds.pp.embed(sdata, cheap_encoder)
    assert sdata["mean_color_spots"].n_obs == len(sdata["spots"])
    del sdata.shapes["spots"]
    with pytest.raises(MissingKeyError, match="only nuclei or regions"):
        ds.pp.embed(sdata, cheap_encoder)


def test_repeated_calls_need_overwrite(judged, clean):
    sdata = deepcopy(judged)
    with pytest.raises(InputError, match="overwrite"):
        ds.pp.quality(sdata)
    with pytest.raises(InputError, match="focus"):
        ds.pp.quality(sdata, key_added="others")
    assert "others" not in sdata.shapes
    ds.pp.quality(sdata, overwrite=True)
    sdata.images[IMAGE] = clean[IMAGE]
    ds.pp.quality(sdata, overwrite=True)
    assert REGIONS not in sdata.shapes
    assert (sdata["table"].obs["artifact"] == "none").all()


def test_blocks_without_tissue_are_not_read(clean, monkeypatch):
    pixels = clean[IMAGE].transpose("y", "x", "c").to_numpy().astype(np.float32)
    glass = pixels[:5, :5].mean(axis=(0, 1))
    wide = np.concatenate([pixels, np.tile(glass, (len(pixels), 2_000, 1))], axis=1)
    seen = []

    def counted(pyramid, corners, side, step):
        seen.extend(corners.tolist())
        return read(pyramid, corners, side, step)

    read = image_quality.read_blocks
    monkeypatch.setattr(image_quality, "read_blocks", counted)
    sdata = with_image(clean, wide)
    ds.pp.quality(sdata)
    # The image has 1 × 4 blocks of 1 mm, and the tissue one or two of them.
    assert {corner[1] for corner in seen} <= {-1, 999}


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"image_key": "other"}, "other"),
        ({"shapes_key": "other"}, "other"),
        ({"tile_um": 0}, "tile_um"),
        ({"key_added": "spots"}, "spots"),
        ({"coordinate_system": "other"}, "other"),
        ({"key_added": "a/b"}, "cannot be a name"),
    ],
)
def test_bad_arguments_change_nothing(clean, change, match):
    sdata = deepcopy(clean)
    with pytest.raises((InputError, MissingKeyError), match=match):
        ds.pp.quality(sdata, **change)
    assert list(sdata["spots"].columns) == list(clean["spots"].columns)
    assert list(sdata.shapes) == ["spots"]


def test_images_that_cannot_be_judged_are_refused(slide_of):
    rng = np.random.default_rng(0)
    glass = rng.integers(240, 245, (600, 600, 3)).astype(np.uint8)
    with pytest.raises(InputError, match="no tissue"):
        ds.pp.quality(slide_of(glass, [[300, 300]], mpp=1, diameter_um=55))
    with pytest.raises(InputError, match="too coarse"):
        ds.pp.quality(slide_of(glass, [[300, 300]], mpp=2, diameter_um=55))
    with pytest.raises(InputError, match="scale"):
        ds.pp.quality(slide_of(glass, [[300, 300]], diameter_um=55))
    with pytest.raises(InputError, match="tile_um"):
        ds.pp.quality(slide_of(glass, [[300, 300]], mpp=1))
    with pytest.raises(InputError, match="outside"):
        ds.pp.quality(slide_of(glass, [[900, 300]], mpp=1, diameter_um=55))


@pytest.mark.slow
def test_a_section_is_mostly_good(data):
    """The unchanged section C2 has few regions, and none with ink."""
    sdata = ds.datasets.her2st("C2")
    ds.pp.quality(sdata)
    assert (sdata["spots"]["artifact"] == "none").mean() > 0.9
    assert (sdata["spots"]["artifact"] != "pen").all()
