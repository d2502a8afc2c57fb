import warnings
from collections import Counter

import dask.array as da
import numpy as np
import pytest
from spatialdata.models import Image2DModel
from xarray import DataArray, DataTree

from deepspot._image import tiles as _tiles
from deepspot._spatial.geometry import Boxes

IMAGE = np.random.default_rng(0).integers(0, 255, (150, 210, 3), dtype=np.uint8)
CORNERS = np.array(
    [[60, 100], [0, 0], [-20, -20], [130, 190], [-20, 190], [35, 35], [149 - 20, 0], [60, 100], [75, 203], [39, 69]]
)
ALL = Boxes(CORNERS, 21, 0)


def level(data):
    return DataArray(data, dims=("c", "y", "x"))


def in_blocks(image, *chunks):
    return level(da.from_array(image.transpose(2, 0, 1), chunks=(3, *chunks)))


def collect(level, boxes, batch_size=4):
    tiles = np.zeros((len(boxes.corners), boxes.side, boxes.side, 3), np.uint8)
    rows = []
    for at, batch in _tiles.read_tiles(level, boxes, batch_size):
        assert len(batch) <= batch_size
        assert batch.dtype == np.uint8
        tiles[at] = batch
        rows.extend(at)
    assert sorted(rows) == list(range(len(boxes.corners)))
    return tiles


def sliced(image, boxes):
    """Tiles by slicing."""
    pad = 100
    wide = np.pad(image, ((pad, pad), (pad, pad), (0, 0)), constant_values=255)
    return np.stack([wide[y + pad : y + pad + boxes.side, x + pad : x + pad + boxes.side] for y, x in boxes.corners])


@pytest.mark.parametrize("chunks", [(150, 210), (40, 70), (33, 17), (8, 8)])
@pytest.mark.parametrize("side", [1, 21, 60])
def test_tiles_equal_slices(chunks, side):
    boxes = Boxes(CORNERS, side, 0)
    np.testing.assert_array_equal(collect(in_blocks(IMAGE, *chunks), boxes), sliced(IMAGE, boxes))


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_batch_size_does_not_change_tiles(batch_size):
    np.testing.assert_array_equal(collect(in_blocks(IMAGE, 40, 70), ALL, batch_size), sliced(IMAGE, ALL))


@pytest.mark.parametrize("chunks", [None, (1, 40, 70)], ids=["in memory", "separate channels"])
def test_other_storage_of_the_image(chunks):
    pixels = IMAGE.transpose(2, 0, 1)
    image = level(pixels if chunks is None else da.from_array(pixels, chunks=chunks))
    np.testing.assert_array_equal(collect(image, ALL), sliced(IMAGE, ALL))


def test_tiles_at_the_border_are_padded_with_white():
    tiles = collect(in_blocks(np.zeros_like(IMAGE), 40, 70), Boxes(np.array([[-5, -7], [140, 200]]), 21, 0))
    assert (tiles[0, :5] == 255).all()
    assert (tiles[0, :, :7] == 255).all()
    assert (tiles[0, 5:, 7:] == 0).all()
    assert (tiles[1, :10, :10] == 0).all()
    assert (tiles[1, 10:] == 255).all()
    assert (tiles[1, :, 10:] == 255).all()


def counting(chunks):
    """Level of IMAGE, and a counter of how often each block is decoded."""
    decoded = Counter()

    def decode(block, block_info=None):
        decoded[block_info[None]["chunk-location"][1:]] += 1
        return block

    raw = da.from_array(IMAGE.transpose(2, 0, 1), chunks=(3, *chunks))
    return level(raw.map_blocks(decode, dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8))), decoded


def test_blocks_are_decoded_once_and_only_if_needed():
    counted, decoded = counting((40, 70))
    rng = np.random.default_rng(1)
    boxes = Boxes(np.column_stack([rng.integers(0, 60, 40), rng.integers(-20, 200, 40)]), 21, 0)
    np.testing.assert_array_equal(collect(counted, boxes), sliced(IMAGE, boxes))
    assert decoded == dict.fromkeys([(r, c) for r in (0, 1) for c in (0, 1, 2)], 1)


def test_blocks_are_released_after_their_last_tile():
    boxes = Boxes(np.column_stack([np.repeat(np.arange(0, 130, 10), 5), np.tile(np.arange(0, 200, 40), 13)]), 12, 0)
    reader = _tiles.BlockReader(in_blocks(IMAGE, 20, 210), boxes)
    held = []
    for row in reader.order:
        reader.read(np.array([row]))
        held.append(len(reader.cache))
    assert max(held) == 2
    assert held[-1] == 0


def test_no_boxes():
    assert list(_tiles.read_tiles(in_blocks(IMAGE, 40, 70), Boxes(np.empty((0, 2), int), 21, 0), 4)) == []


def test_levels_of_a_pyramid(slide_of):
    image = np.kron(IMAGE[::4, ::4], np.ones((8, 8, 1), np.uint8))
    sdata = slide_of(image, [[5, 5]], scale_factors=[2, 2])
    pyramid = _tiles.pyramid_levels(sdata, "he")
    height, width = image.shape[:2]
    assert _tiles.level_sizes(pyramid) == [(height, width), (height // 2, width // 2), (height // 4, width // 4)]
    boxes = Boxes(np.array([[10, 20], [-4, -4]]), 21, 1)
    np.testing.assert_array_equal(
        collect(pyramid[1], boxes), sliced(np.asarray(pyramid[1].data).transpose(1, 2, 0), boxes)
    )
    np.testing.assert_array_equal(np.asarray(pyramid[1].data).transpose(1, 2, 0), image[::2, ::2])


def test_single_scale_image_has_one_level(slide_of):
    pyramid = _tiles.pyramid_levels(slide_of(IMAGE, [[5, 5]]), "he")
    assert _tiles.level_sizes(pyramid) == [(150, 210)]
    assert pyramid[0].dims == ("c", "y", "x")


@pytest.mark.parametrize(
    ("pixels", "found"),
    [
        (np.zeros((4, 30, 30), np.uint8), "4 channels of uint8"),
        (np.zeros((1, 30, 30), np.uint8), "1 channels of uint8"),
        (np.zeros((3, 30, 30), np.uint16), "3 channels of uint16"),
        (np.zeros((3, 30, 30), np.float32), "3 channels of float32"),
    ],
)
def test_other_images_than_rgb_in_uint8_are_refused(slide_of, pixels, found):
    sdata = slide_of(IMAGE, [[5, 5]])
    sdata["other"] = Image2DModel.parse(pixels, dims=("c", "y", "x"))
    with pytest.raises(ValueError, match=rf"Image 'other' must be RGB in uint8, got {found}"):
        _tiles.pyramid_levels(sdata, "other")


@pytest.mark.parametrize(
    ("names", "order"),
    [
        (["b", "g", "r"], [2, 1, 0]),
        (["Green", "RED", "blue "], [1, 0, 2]),
        (["r", "g", "b"], [0, 1, 2]),
        ([0, 1, 2], [0, 1, 2]),
        (["ch9", "ch10", "ch11"], [0, 1, 2]),
        (["Channel:0:0", "Channel:0:1", "Channel:0:2"], [0, 1, 2]),
    ],
)
@pytest.mark.parametrize("options", [{}, {"chunks": (1, 64, 64), "scale_factors": [2]}])
def test_channels_are_read_by_name(slide_of, names, order, options):
    sdata = slide_of(IMAGE, [[5, 5]], c_coords=names, **options)
    pyramid = _tiles.pyramid_levels(sdata, "he")
    assert [level.shape[1:] for level in pyramid] == [(150, 210), (75, 105)][: len(pyramid)]
    np.testing.assert_array_equal(collect(pyramid[0], ALL), sliced(IMAGE[..., order], ALL))
    assert _tiles.is_rgb(sdata, "he")


@pytest.mark.parametrize(
    "names",
    [
        ["DAPI", "PanCK", "CD45"],
        ["CD3", "CD4", "CD8"],
        ["r", "g", "nir"],
        ["ch2", "ch1", "ch0"],  # from BGR, or to it
        ["0", "2", "1"],
    ],
)
def test_other_channels_are_refused(slide_of, names):
    sdata = slide_of(IMAGE, [[5, 5]], c_coords=names)
    with pytest.raises(ValueError, match=rf"'he' must be RGB, got the channels \['{names[0]}'.*set_channel_names"):
        _tiles.pyramid_levels(sdata, "he")
    assert not _tiles.is_rgb(sdata, "he")
    sdata.set_channel_names("he", ["r", "g", "b"])
    assert _tiles.pyramid_levels(sdata, "he")


def test_levels_of_another_aspect_are_ignored(slide_of):
    """The readers of whole slides may return a photo of the glass as a level."""
    levels = [slide_of(image, [[5, 5]]).images["he"] for image in (IMAGE, IMAGE[::2, ::2], IMAGE[:40, :50])]
    sdata = slide_of(IMAGE, [[5, 5]])
    sdata.images.data["he"] = DataTree.from_dict(
        {f"scale{n}": level.to_dataset(name="image") for n, level in enumerate(levels)}
    )
    assert _tiles.level_sizes(_tiles.pyramid_levels(sdata, "he")) == [(150, 210), (75, 105)]


def test_damaged_pixels_name_the_image(slide_of):
    def broken(block):
        raise RuntimeError("Zstd decompression error")

    sdata = slide_of(IMAGE, [[5, 5]])
    sdata["he"].data = da.from_array(IMAGE.transpose(2, 0, 1)).map_blocks(
        broken, dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8)
    )
    (level,) = _tiles.pyramid_levels(sdata, "he")
    for read in (
        lambda: collect(level, ALL),
        lambda: _tiles.coarse_image([level], 8),
        lambda: _tiles.shrink(level, np.array([0, 0]), np.array([210, 150]), 100),
        lambda: _tiles.shrink(level, np.array([0, 0]), np.array([210, 150]), 20),
    ):
        with pytest.raises(OSError, match=r"Pixels of image 'he' cannot be read \(RuntimeError: Zstd .* is damaged"):
            read()


def test_large_blocks_cause_a_warning(monkeypatch):
    monkeypatch.setattr(_tiles, "LARGE_BLOCK", 150 * 210 * 3 - 1)
    boxes = Boxes(np.array([[0, 0]]), 21, 0)
    with pytest.warns(UserWarning, match=r"blocks of up to 0 MB.*chunks=\(3, 2048, 2048\)"):
        collect(in_blocks(IMAGE, 150, 210), boxes)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        collect(in_blocks(IMAGE, 75, 210), boxes)


def test_fingerprint_depends_on_every_pixel_and_not_on_chunks():
    changed = IMAGE.copy()
    changed[77, 133, 1] ^= 1
    prints = {_tiles.image_fingerprint(in_blocks(image, 40, 70), ALL) for image in (IMAGE, changed, IMAGE[:-1])}
    assert len(prints) == 3
    assert _tiles.image_fingerprint(in_blocks(IMAGE.copy(), 17, 23), ALL) in prints


def test_fingerprint_of_a_large_image_uses_patches_in_the_tiles(monkeypatch):
    monkeypatch.setattr(_tiles, "EXACT_FINGERPRINT", 0)
    changed = IMAGE.copy()
    changed[80:84, 110:114] ^= 1
    prints = {_tiles.image_fingerprint(in_blocks(image, 40, 70), ALL) for image in (IMAGE, changed)}
    assert len(prints) == 2
    assert _tiles.image_fingerprint(in_blocks(IMAGE.copy(), 80, 110), ALL) in prints
    elsewhere = Boxes(np.array([[0, 0]]), 21, 0)
    assert len({_tiles.image_fingerprint(in_blocks(image, 40, 70), elsewhere) for image in (IMAGE, changed)}) == 1


def shrunk(image, step):
    """Averages by slicing."""
    height, width = image.shape[:2]
    rows = [image[y : y + step] for y in range(0, height, step)]
    return np.stack([[row[:, x : x + step].mean(axis=(0, 1)) for x in range(0, width, step)] for row in rows])


@pytest.mark.parametrize("chunks", [None, (150, 210), (40, 70), (33, 17), (7, 210)])
@pytest.mark.parametrize("step", [1, 2, 7, 33, 500])
def test_coarse_image_averages_squares_for_any_chunks(chunks, step):
    image = level(IMAGE.transpose(2, 0, 1)) if chunks is None else in_blocks(IMAGE, *chunks)
    small = _tiles._average(image, step)
    assert small.dtype == np.uint8
    assert np.abs(small - shrunk(IMAGE, step)).max() <= 0.5


def test_coarse_image_reads_each_block_once():
    counted, decoded = counting((40, 70))
    _tiles.coarse_image([counted], 7)
    assert decoded == {(r, c): 1 for r in range(4) for c in range(3)}


@pytest.mark.parametrize(
    ("factor", "of", "step"),
    [(0.3, 0, 1), (1.9, 0, 1), (2, 1, 1), (3.9, 1, 1), (4, 1, 2), (8, 2, 1), (17, 2, 2), (40, 2, 5)],
)
def test_coarse_image_uses_the_coarsest_sufficient_level(factor, of, step):
    # Odd sizes are truncated when halved, so that the second level is a little coarser than 2.
    sizes = [(1601, 3202), (800, 1600), (200, 400)]
    pyramid = [level(np.full((3, *size), 10 * i, np.uint8)) for i, size in enumerate(sizes)]
    small, scale = _tiles.coarse_image(pyramid, factor)
    assert (small == 10 * of).all()
    np.testing.assert_allclose(scale, np.array(sizes[0][::-1]) / sizes[of][::-1] * step)
    assert scale.max() <= 1.02 * max(factor, 1)


def test_coarse_image_warns_of_large_blocks(monkeypatch):
    monkeypatch.setattr(_tiles, "LARGE_BLOCK", 150 * 210 * 3 - 1)
    with pytest.warns(UserWarning, match=r"blocks of up to 0 MB"):
        _tiles.coarse_image([in_blocks(IMAGE, 150, 210)], 4)
