import base64
from io import BytesIO
from itertools import pairwise

import numpy as np
import pytest
from PIL import Image
from xarray import DataArray

from deepspot._view import pyramid
from deepspot._view.pack import NONE, to_levels
from deepspot._view.pyramid import finer_levels, image_levels, write_levels
from deepspot.errors import InputError


def levels_of(side, *factors):
    """Levels of an image of smooth colors; those after the first are averages."""
    y, x = np.mgrid[:side, : side + 200]
    pixels = np.stack([y * 255 // side, x * 255 // (side + 200), 127 + 100 * np.sin(x / 40)]).astype(np.uint8)
    small = [pixels[:, factor // 2 :: factor, factor // 2 :: factor] for factor in factors]
    return [DataArray(level, dims=("c", "y", "x"), name="slide") for level in (pixels, *small)]


def decoded(level, folder=None):
    """Image of a level, put together from its tiles, which are in the page or in a folder."""

    def tile(column, row):
        if level.files is not None:
            return Image.open(folder / level.files / f"{column}-{row}.jpg")
        return Image.open(BytesIO(base64.b64decode(level.tiles[column, row])))

    rows = []
    for row in range(level.rows):
        tiles = [tile(column, row) for column in range(level.columns)]
        rows.append(np.concatenate([np.asarray(tile) for tile in tiles], axis=1))
    return np.concatenate(rows)


@pytest.mark.parametrize("factors", [(), (2,), (4,)])
@pytest.mark.parametrize("in_memory", [10**9, 400**2])
def test_levels_show_the_image(factors, in_memory, monkeypatch):
    monkeypatch.setattr(pyramid, "IN_MEMORY", in_memory)
    source = levels_of(1300, *factors)
    levels = image_levels(source, 1e9)
    assert levels[-1].factor == 1
    assert levels[0].columns == levels[0].rows == 1
    assert all(coarse.factor == pytest.approx(2 * fine.factor) for coarse, fine in pairwise(levels))
    check_levels(levels, source)


def check_levels(levels, source, folder=None):
    """Compare all levels with the image."""
    pixels = np.asarray(source[0].data).transpose(1, 2, 0).astype(float)
    for level in levels:
        shown = decoded(level, folder)
        y, x = np.mgrid[5 : shown.shape[0] - 5, 5 : shown.shape[1] - 5]
        at = [
            np.clip((each + 0.5) * level.factor, 0, size - 1).astype(int)
            for each, size in zip((y, x), pixels.shape, strict=False)
        ]
        assert np.abs(shown[y, x] - pixels[at[0], at[1]]).mean() < 6, level.factor


def test_finer_levels_are_left_out(monkeypatch):
    monkeypatch.setattr(pyramid, "IN_MEMORY", 400**2)
    source = levels_of(1300)
    every = image_levels(source, 1e9)
    budget = sum(level.size for level in every[:-1]) + every[-1].size / 2
    some = image_levels(source, budget)
    assert [level.factor for level in some] == [level.factor for level in every[:-1]]
    assert sum(level.size for level in some) <= budget
    with pytest.raises(InputError, match="max_mb"):
        image_levels(source, 100)


@pytest.mark.parametrize("factors", [(), (2,), (4,)])
@pytest.mark.parametrize("share", [0.02, 0.2])
def test_levels_that_do_not_fit_are_written_to_a_folder(factors, share, monkeypatch, tmp_path):
    monkeypatch.setattr(pyramid, "IN_MEMORY", 700**2)
    source = levels_of(1300, *factors)
    every = image_levels(source, 1e9)
    embedded = image_levels(source, share * sum(level.size for level in every) + every[0].size)
    finer = finer_levels(source, embedded)
    assert [level.factor for level in embedded + finer] == pytest.approx([level.factor for level in every])
    size = write_levels(source, finer, tmp_path)
    files = list(tmp_path.rglob("*.*"))
    assert len(files) == sum(level.columns * level.rows for level in finer) > 0
    assert size == sum(file.stat().st_size for file in files)
    check_levels(finer, source, tmp_path)
    # Names are those of this image, and of no other.
    other = finer_levels([255 - level for level in source], image_levels([255 - level for level in source], 1e5))
    assert not {level.files for level in finer} & {level.files for level in other}
    assert finer_levels(source, every) == []


def test_levels_of_values():
    values = np.array([0.1, np.nan, 7.3, 3.14159, 0.1])
    levels, low, high = to_levels(values)
    assert levels.tolist() == [0, NONE, 254, round((3.14159 - 0.1) / 7.2 * 254), 0]
    assert (low, high) == (0.1, 7.3)
    levels, low, high = to_levels(np.full(3, 2.5))
    assert levels.tolist() == [0, 0, 0]
    assert low == high == 2.5
