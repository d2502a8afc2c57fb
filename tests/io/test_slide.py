import pickle
import shutil

import numpy as np
import pytest
import tifffile
from skimage.transform import resize_local_mean
from spatialdata import bounding_box_query, read_zarr

import deepspot as ds
from deepspot._core.hashing import hash_file
from deepspot._image.tiles import coarse_image, level_sizes, pyramid_levels, read_tiles
from deepspot._spatial.transforms import _affines, centers_px, microns_per_pixel


def pixels_of(sdata):
    return next(iter(sdata.images.values()))["scale0"]["image"].to_numpy().transpose(1, 2, 0)


def write_slide(path, image, *, mpp=None, levels=1, unit="CENTIMETER", stretch=1.0):
    """Write a tiled pyramid as scanners do, with averaged levels and the scale in resolution tags."""
    with tifffile.TiffWriter(path) as file:
        for number in range(levels):
            scale = {}
            if mpp is not None:
                across = {"CENTIMETER": 1e4, "INCH": 25_400}[unit] / (mpp * 2**number)
                scale = {"resolution": (across, across / stretch), "resolutionunit": unit}
            file.write(
                image, tile=(256, 256), photometric="rgb", compression="zlib", subfiletype=int(number > 0), **scale
            )
            height, width = (size // 2 * 2 for size in image.shape[:2])
            squares = image[:height, :width].reshape(height // 2, 2, width // 2, 2, 3)
            image = squares.mean(axis=(1, 3)).round().astype(np.uint8)
    return path


def damage(path):
    """Overwrite pixels but not the header; such a file can be opened."""
    content = bytearray(path.read_bytes())
    middle = len(content) // 3
    content[middle : middle + len(content) // 4] = bytes(len(content) // 4)
    path.write_bytes(content)
    return path


@pytest.fixture(scope="session")
def picture(toy):
    """Image of a toy slide, repeated to have several blocks, of a size divisible by four."""
    image = toy["P1_S1"].images["P1_S1_image"].to_numpy().transpose(1, 2, 0)
    return np.tile(image, (2, 2, 1))[:1200, :1600]


@pytest.fixture(scope="session")
def scanned(picture, tmp_path_factory):
    return write_slide(tmp_path_factory.mktemp("slides") / "S 1.tif", picture, mpp=0.5, levels=3)


@pytest.fixture
def opened(scanned):
    return ds.io.slide(scanned)


def test_levels_and_pixels(opened, picture):
    assert list(opened.images) == ["S_1_image"]
    pyramid = pyramid_levels(opened, "S_1_image")
    assert level_sizes(pyramid) == [(1200, 1600), (600, 800), (300, 400)]
    np.testing.assert_array_equal(pixels_of(opened), picture)
    halves = picture.reshape(600, 2, 800, 2, 3).mean(axis=(1, 3)).round()
    np.testing.assert_array_equal(pyramid[1].to_numpy().transpose(1, 2, 0), halves)


def test_attrs(opened, scanned):
    assert opened.attrs["deepspot_slide"] == {
        "path": str(scanned),
        "fingerprint": hash_file(scanned),
        "mpp": 0.5,
        "mpp_from": "file",
        "name": "S_1",
    }
    assert set(opened.coordinate_systems) == {"global", "microns"}
    assert microns_per_pixel(opened, "S_1_image") == pytest.approx(0.5)
    np.testing.assert_array_equal(_affines(opened.images["S_1_image"])["global"], np.eye(3))


def test_one_line_is_logged(scanned, log):
    ds.io.slide(scanned)
    assert log == ["Opened S_1: 1,600 × 1,200 px, 3 levels, 0.5 µm per pixel (from the file)."]


def test_pixels_are_read_lazily(picture, tmp_path):
    path = damage(write_slide(tmp_path / "bad.tif", picture, mpp=0.5))
    sdata = ds.io.slide(path)
    assert sorted(tmp_path.iterdir()) == [path]
    with pytest.raises(OSError, match=rf"{path} is damaged: .* of level 0 at x = .* cannot be read"):
        pixels_of(sdata)
    level = pyramid_levels(sdata, "bad_image")[0]
    with pytest.raises(OSError, match=r"bad\.tif is damaged"):
        coarse_image([level], 8)


def test_levels_have_the_coordinates_of_full_resolution(opened):
    """Otherwise a crop would contain different tissue in each level."""
    part = bounding_box_query(
        opened,
        axes=("x", "y"),
        min_coordinate=[800, 400],
        max_coordinate=[1200, 700],
        target_coordinate_system="global",
    )
    levels = [part.images["S_1_image"][name]["image"] for name in part.images["S_1_image"]]
    assert [level.shape[1:] for level in levels] == [(300, 400), (150, 200), (75, 100)]
    means = [level.to_numpy().mean() for level in levels]
    np.testing.assert_allclose(means, means[0], atol=0.5)


def test_tiles_of_coarser_levels_have_the_same_position(opened, picture):
    from deepspot._spatial.geometry import TileGeometry, make_boxes

    pyramid = pyramid_levels(opened, "S_1_image")
    centers = np.array([[402, 302], [1202, 502], [1102, 1042]])
    boxes = make_boxes(centers, 0.5, level_sizes(pyramid), TileGeometry(tile_um=100, input_px=15))
    assert (boxes.level, boxes.side) == (2, 51)
    ((rows, tiles),) = read_tiles(pyramid[2], boxes, 4)
    for (x, y), tile in zip(centers[rows], tiles, strict=True):
        fine = picture[y - 102 : y + 102, x - 102 : x + 102]
        np.testing.assert_allclose(tile, fine.reshape(51, 4, 51, 4, 3).mean(axis=(1, 3)), atol=1.01)


def test_it_can_be_written_and_read(opened, picture, tmp_path):
    opened.write(tmp_path / "copy.zarr")
    copy = read_zarr(tmp_path / "copy.zarr")
    np.testing.assert_array_equal(pixels_of(copy), picture)
    assert copy.attrs["deepspot_slide"] == opened.attrs["deepspot_slide"]
    for ours, theirs in zip(pyramid_levels(opened, "S_1_image"), pyramid_levels(copy, "S_1_image"), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        np.testing.assert_allclose(ours.coords["x"], theirs.coords["x"])
        np.testing.assert_allclose(ours.coords["y"], theirs.coords["y"])
    assert microns_per_pixel(copy, "S_1_image") == pytest.approx(0.5)


def test_the_header_is_not_copied(opened):
    """It may contain the name of the patient."""
    assert opened.images["S_1_image"].attrs == {}


def test_it_can_be_sent_to_another_process(opened, picture):
    level = pickle.loads(pickle.dumps(pyramid_levels(opened, "S_1_image")[0].data))
    np.testing.assert_array_equal(level[:, :50, :60].compute().transpose(1, 2, 0), picture[:50, :60])


def test_names(scanned):
    assert list(ds.io.slide(scanned, name="Patient 7/b").images) == ["Patient_7_b_image"]


def test_inches(picture, tmp_path):
    sdata = ds.io.slide(write_slide(tmp_path / "a.tif", picture, mpp=0.25, unit="INCH"))
    assert sdata.attrs["deepspot_slide"]["mpp"] == pytest.approx(0.25)


def test_a_missing_scale_can_be_passed(picture, tmp_path, log):
    path = write_slide(tmp_path / "a.tif", picture)
    with pytest.raises(ValueError, match=r"scale of a\.tif is unknown: its header does not state it\. Pass `mpp=`"):
        ds.io.slide(path)
    sdata = ds.io.slide(path, mpp=0.25)
    assert sdata.attrs["deepspot_slide"]["mpp_from"] == "argument"
    assert microns_per_pixel(sdata, "a_image") == pytest.approx(0.25)
    assert len(log) == 1


@pytest.mark.parametrize(("mpp", "warned"), [(0.52, False), (0.25, True), (1.0, True)])
def test_the_argument_overrides_the_header(scanned, log, mpp, warned):
    sdata = ds.io.slide(scanned, mpp=mpp)
    assert sdata.attrs["deepspot_slide"]["mpp"] == mpp
    assert sdata.attrs["deepspot_slide"]["mpp_from"] == "argument"
    assert ("S 1.tif states 0.5 µm per pixel; `mpp=" in log[0]) == warned


def test_72_dots_per_inch_are_refused(picture, tmp_path):
    path = write_slide(tmp_path / "a.tif", picture, mpp=25_400 / 72, unit="INCH")
    with pytest.raises(ValueError, match=r"a\.tif gives 352\.8 µm per pixel; images of tissue have .* `mpp`"):
        ds.io.slide(path)
    assert ds.io.slide(path, mpp=0.5).attrs["deepspot_slide"]["mpp"] == 0.5


def test_pixels_that_are_not_square(picture, tmp_path):
    path = write_slide(tmp_path / "a.tif", picture, mpp=0.5, stretch=1.1)
    with pytest.raises(ValueError, match=r"Pixels of a\.tif are not square: 0\.5 by 0\.55 µm"):
        ds.io.slide(path)
    ds.io.slide(write_slide(tmp_path / "b.tif", picture, mpp=0.5, stretch=1.01))


@pytest.mark.parametrize(
    ("mpp", "error", "message"),
    [
        (0, ValueError, "`mpp` must be above 0"),
        ("0.5", TypeError, "`mpp` must be a finite number"),
        (250, ValueError, "`mpp` gives 250 µm per pixel"),
        (0.01, ValueError, "`mpp` gives 0.01 µm per pixel"),
    ],
)
def test_mpp_is_checked(scanned, mpp, error, message):
    with pytest.raises(error, match=message):
        ds.io.slide(scanned, mpp=mpp)


def test_no_file(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"There is no slide {tmp_path}/no\.svs"):
        ds.io.slide(tmp_path / "no.svs")
    with pytest.raises(FileNotFoundError, match="There is no slide"):
        ds.io.slide(tmp_path)


def test_no_slide(picture, scanned, tmp_path):
    (tmp_path / "text.svs").write_text("no slide\n" * 100)
    (tmp_path / "empty.svs").touch()
    tifffile.imwrite(tmp_path / "plain.tif", picture, photometric="rgb")
    whole = scanned.read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[: len(whole) // 2])
    for name in ("text.svs", "empty.svs", "plain.tif", "cut.tif"):
        with pytest.raises(
            ValueError, match=rf"No reader opens {tmp_path}/{name}: it is damaged, incomplete, or not a whole"
        ):
            ds.io.slide(tmp_path / name)


def write_levels(path, *images):
    """Write images, the first in full resolution, in tiles of 256 px."""
    with tifffile.TiffWriter(path) as file:
        for number, image in enumerate(images):
            scale = {"resolution": (2e4, 2e4), "resolutionunit": "CENTIMETER"}
            file.write(
                image, tile=(256, 256), photometric="rgb", compression="zlib", subfiletype=int(number > 0), **scale
            )
    return path


def shrunk(image, height, width):
    return resize_local_mean(image, (height, width), preserve_range=True).round().astype(np.uint8)


def filled_up(image, value):
    """Fill up the last tiles of 256 px."""
    height, width = (-(-size // 256) * 256 for size in image.shape[:2])
    full = np.full((height, width, 3), value, np.uint8)
    full[: image.shape[0], : image.shape[1]] = image
    return full


@pytest.fixture(scope="module")
def tissue():
    """Make an image of glass with two pieces of tissue."""

    def make(height, width):
        image = np.full((height, width, 3), 245, np.uint8)
        image[height // 10 : height // 3, width // 10 : width // 3] = (150, 60, 140)
        image[-height // 5 : -height // 8, -width // 5 : -width // 8] = (60, 60, 200)
        return image

    return make


def positions_agree(sdata):
    """Compare each level with full resolution, at the coordinates of its pixels."""
    pyramid = pyramid_levels(sdata, "s_image")
    full = pyramid[0].to_numpy().astype(int)
    for level in pyramid[1:]:
        rows, columns = (
            np.minimum(level.coords[axis].to_numpy().astype(int), full.shape[i] - 1) for i, axis in ((1, "y"), (2, "x"))
        )
        assert np.abs(level.to_numpy() - full[:, rows][:, :, columns]).mean() < 1
    return level_sizes(pyramid)


@pytest.mark.parametrize("background", [255, 0])
@pytest.mark.parametrize(
    ("size", "factors"),
    [
        ((1500, 2000), (2, 4)),
        ((1500, 1900), (2, 4)),
        ((1800, 1800), (2, 4)),
        ((1500, 1300), (3,)),
        ((1800, 1440), (3, 9)),
    ],
)
def test_filled_up_tiles_are_no_part_of_a_level(tissue, tmp_path, size, factors, background):
    """As in CAMELYON16: a level of 1,000 px is stored as 1,024, and its pixels are twice those of full resolution."""
    full = tissue(*size)
    parts = [(size[0] // factor, size[1] // factor) for factor in factors]
    levels = [filled_up(shrunk(full, *part), background) for part in parts]
    sdata = ds.io.slide(write_levels(tmp_path / "s.tif", full, *levels))
    assert positions_agree(sdata) == [size, *parts]


@pytest.mark.parametrize(
    ("size", "levels"),
    [
        ((1800, 1800), [(600, 600), (360, 360)]),
        ((1501, 1003), [(750, 501), (375, 250), (187, 125)]),
        ((1501, 1003), [(751, 502), (376, 251)]),
        ((1800, 1800), [(512, 512)]),  # as if filled up from 450 × 450
    ],
)
def test_levels_with_any_factor(tissue, tmp_path, size, levels):
    full = tissue(*size)
    sdata = ds.io.slide(write_levels(tmp_path / "s.tif", full, *(shrunk(full, *level) for level in levels)))
    assert positions_agree(sdata) == [size, *levels]


@pytest.mark.parametrize("before", [[], [(1024, 1024)]])
@pytest.mark.parametrize(
    "photo",
    [(200, 530), (512, 512), (256, 256), (512, 768)],
    ids=["other aspect", "same aspect", "one tile", "as if padded"],
)
def test_a_photo_of_the_glass_is_no_level(tissue, tmp_path, log, before, photo):
    full = tissue(2048, 2048)
    height, width = photo
    glass = np.full((height, width, 3), 235, np.uint8)
    glass[height // 5 : -height // 5, width // 2 : -width // 9] = (150, 60, 140)
    path = write_levels(tmp_path / "s.tif", full, *(shrunk(full, *level) for level in before), glass)
    sdata = ds.io.slide(path)
    assert positions_agree(sdata) == [(2048, 2048), *before]
    number = 1 + len(before)
    assert log[0] == (
        f"s.tif: level {number} ({width} × {height} px) is not a smaller copy of the slide in RGB and is left out."
    )
    assert f", {number} level{'s' * (number > 1)}, " in log[1]
    ds.pp.spots(sdata, diameter_um=55, pitch_um=55)
    spots = centers_px(sdata, "s_image", "spots").astype(int)
    assert len(spots) > 5
    assert all(full[y - 55 : y + 55, x - 55 : x + 55].mean() <= 200 for x, y in spots)


@pytest.mark.parametrize(
    "change",
    [lambda level: level[:, ::-1], lambda level: np.roll(level, 30, axis=0), lambda level: 255 - level],
    ids=["mirrored", "moved", "inverted"],
)
def test_a_level_with_other_content_is_left_out(tissue, tmp_path, change):
    full = tissue(1200, 1600)
    sdata = ds.io.slide(write_levels(tmp_path / "s.tif", full, change(shrunk(full, 600, 800))))
    assert positions_agree(sdata) == [(1200, 1600)]


@pytest.mark.parametrize("factor", [2, 4, 16])
def test_levels_need_not_be_averages(picture, tmp_path, factor):
    level = np.ascontiguousarray(picture[::factor, ::factor])
    sdata = ds.io.slide(write_levels(tmp_path / "s.tif", picture, level))
    assert len(pyramid_levels(sdata, "s_image")) == 2


def test_a_level_of_few_pixels(picture, tmp_path):
    sdata = ds.io.slide(write_levels(tmp_path / "s.tif", picture, shrunk(picture, 36, 48)))
    assert level_sizes(pyramid_levels(sdata, "s_image")) == [(1200, 1600), (36, 48)]


def test_levels_of_an_empty_slide(tmp_path):
    full = np.random.default_rng(0).normal(240, 3, (1024, 1536, 3)).astype(np.uint8)
    sdata = ds.io.slide(write_levels(tmp_path / "s.tif", full, shrunk(full, 512, 768)))
    assert level_sizes(pyramid_levels(sdata, "s_image")) == [(1024, 1536), (512, 768)]


def test_a_level_in_other_colors_is_left_out(tissue, tmp_path, log):
    full = tissue(1024, 1536)
    half = shrunk(full, 512, 768)
    for content, photometric in ((half[..., 1], "minisblack"), (half.astype(np.uint16) * 16, "rgb")):
        with tifffile.TiffWriter(tmp_path / "s.tif") as file:
            file.write(full, photometric="rgb", tile=(256, 256), metadata=None)
            file.write(content, photometric=photometric, tile=(256, 256), subfiletype=1, metadata=None)
        assert positions_agree(ds.io.slide(tmp_path / "s.tif", mpp=0.5)) == [(1024, 1536)]
        assert "level 1 (768 × 512 px) is not a smaller copy of the slide in RGB and is left out" in log[-2]


def test_damaged_pixels_of_a_level_are_no_error_before_they_are_read(picture, tmp_path):
    path = damage(write_slide(tmp_path / "bad.tif", picture, mpp=0.5, levels=3))
    pyramid = pyramid_levels(ds.io.slide(path), "bad_image")
    assert len(pyramid) == 3
    assert pyramid[2].to_numpy().shape == (3, 300, 400)  # after errors in level 0
    with pytest.raises(OSError, match=r"bad\.tif is damaged"):
        pyramid[0].to_numpy()


def test_a_small_image_before_the_slide(tissue, tmp_path):
    """OpenSlide takes the first for full resolution, and ignores others that are not marked as its levels."""
    full = tissue(1024, 1024)
    with tifffile.TiffWriter(tmp_path / "s.tif") as file:
        for image in (shrunk(full, 512, 512), full):
            file.write(image, tile=(256, 256), photometric="rgb", metadata=None)
    with pytest.raises(ValueError, match=r"s\.tif begins with an image of 512 × 512 px.*larger one of 1,024 × 1,024"):
        ds.io.slide(tmp_path / "s.tif", mpp=0.5)


@pytest.mark.parametrize(
    ("mpp", "magnification", "expected"),
    [("0,2525", "40", 0.2525), ("0.2525", "40,0", 0.2525), ("0,2525 ", "40x", 0.2525), ("unknown", "40", None)],
)
def test_numbers_of_aperio(tmp_path, mpp, magnification, expected):
    """Scanners with European settings write a decimal comma."""
    header = f"Aperio Image Library v12.0.15 \r\n512x512 [0,0 512x512] (256x256)|AppMag = {magnification}|MPP = {mpp}"
    pixels = np.full((512, 512, 3), 200, np.uint8)
    path = tmp_path / "s.svs"
    tifffile.imwrite(
        path, pixels, tile=(256, 256), photometric="rgb", compression="jpeg", description=header, metadata=None
    )
    if expected is None:
        with pytest.raises(ValueError, match=r"The scale of s\.svs is unknown"):
            ds.io.slide(path)
    sdata = ds.io.slide(path, mpp=expected or 0.25)
    if expected is not None:
        sdata = ds.io.slide(path)
        assert sdata.attrs["deepspot_slide"]["mpp"] == pytest.approx(expected)
        assert sdata.attrs["deepspot_slide"]["mpp_from"] == "file"
    level = pickle.loads(pickle.dumps(pyramid_levels(sdata, "s_image")[0].data))
    np.testing.assert_allclose(level[:, :9, :9].compute(), 200, atol=2)


def test_a_real_slide(data):
    path = data / "wsi" / "CMU-1-Small-Region.svs"
    sdata = ds.io.slide(path)
    facts = sdata.attrs["deepspot_slide"]
    assert (facts["mpp"], facts["mpp_from"], facts["name"]) == (0.499, "file", "CMU-1-Small-Region")
    np.testing.assert_array_equal(pixels_of(sdata), tifffile.imread(path))


def test_a_real_slide_cut_off_or_damaged(data, tmp_path):
    whole = (data / "wsi" / "CMU-1-Small-Region.svs").read_bytes()
    (tmp_path / "cut.svs").write_bytes(whole[:-100_000])
    with pytest.raises(ValueError, match=r"No reader opens .*cut\.svs"):
        ds.io.slide(tmp_path / "cut.svs")
    shutil.copy(data / "wsi" / "CMU-1-Small-Region.svs", tmp_path / "bad.svs")
    sdata = ds.io.slide(damage(tmp_path / "bad.svs"))
    with pytest.raises(OSError, match=r"bad\.svs is damaged"):
        ds.pp.spots(sdata)
    assert not sdata.shapes


def test_a_pyramid_of_a_real_section(data, tmp_path):
    image = ds.datasets.her2st("C2", download=False).images["C2_image"]
    part = image.isel(x=slice(1500, 2701), y=slice(1000, 2100)).to_numpy().transpose(1, 2, 0)
    sdata = ds.io.slide(write_slide(tmp_path / "C2.tif", part, mpp=0.69, levels=4))
    np.testing.assert_array_equal(pixels_of(sdata), part)
    assert len(pyramid_levels(sdata, "C2_image")) == 4
    assert sdata.attrs["deepspot_slide"]["mpp"] == pytest.approx(0.69)
