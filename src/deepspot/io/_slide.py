from __future__ import annotations

from contextlib import suppress
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from deepspot._core.hashing import hash_file
from deepspot._core.keys import PIXELS, SLIDE, checked, valid_name
from deepspot._core.logging import count_of, logger
from deepspot._core.validate import check_mpp, check_text
from deepspot._sdata import write
from deepspot._spatial.geometry import same_aspect
from deepspot._spatial.transforms import write_scale
from deepspot.errors import InputError

from ._elements import reading
from ._image_file import check_name, check_size, check_slide_tiff, is_tiff

if TYPE_CHECKING:
    from spatialdata import SpatialData
    from xarray import DataTree

SQUARE, AGREE = 1.02, 1.05
GRID, SIDE, CELLS = 12, 128, 8
"""Levels are compared in 12 × 12 squares of 8 × 8 averages, of at least 128 px (finer) and 8 px (coarser)."""

NOISE, SIMILAR = 8, 0.15
"""Up to 8 gray levels from the glass are noise. Differences of 15 % of the contrast make another image."""

MAX_FACTOR, MAX_PHOTO = 16, 2**24
"""A padded level is a whole factor smaller than the next finer one. Photos of the glass have at most these pixels."""

STATE_IT = "Pass `mpp=` (or the column of a manifest): µm per pixel at full resolution, 0.25 at 40x."


@checked
def slide(path: str | Path, *, mpp: float | None = None, name: str | None = None) -> SpatialData:
    """Open a whole slide image lazily, with its scale, using the readers of wsidata.

    Parameters
    ----------
    path
        Whole slide image: a format of OpenSlide (.svs, .ndpi, .scn, .mrxs, tiled .tif, …), or of another reader of
        wsidata that is installed.
    mpp
        µm per pixel at full resolution. Default: the number in the file; required if there is none.
    name
        Name of the slide. Default: that of the file.

    Returns
    -------
    A SpatialData with ``images["<name>_image"]`` (the levels of the file, read on demand in blocks of 1,024 pixels;
    without padding, and without levels that are no smaller copies in RGB, such as a photo of the glass),
    the coordinate systems ``"global"`` (full-resolution pixels) and ``"microns"``, and ``attrs["deepspot_slide"]``:
    `path`, `fingerprint` of the file, `mpp`, `mpp_from` (``"file"`` or ``"argument"``) and `name`. The rest of the file
    header, which may contain the name of the patient, is not copied.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If no reader opens the file, its image is not upright RGB in uint8 (a TIFF is checked) or of a size that no
        scanner makes, or the scale is unknown, implausible (outside 0.05–10 µm per pixel) or different in x and y.
    OSError
        Later, when damaged pixels are read.

    See Also
    --------
    deepspot.pp.spots : Place spots on the tissue.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.io.slide("slide.svs")  # doctest: +SKIP
    >>> sdata = ds.io.slide("slide.tif", mpp=0.5)  # doctest: +SKIP
    """
    from spatialdata import SpatialData

    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise FileNotFoundError(f"There is no slide {file}. Pass the path of a whole slide image.")
    check_name(file)
    if mpp is not None:
        mpp = float(check_mpp(mpp, "`mpp`"))
    reader = _open(file)
    check_size(file, *reader.properties.shape)
    not_rgb: set[tuple[int, int]] = set()
    if is_tiff(file):
        with reading(file, "image"):
            not_rgb = check_slide_tiff(file, *reader.properties.shape)
    scale, source = _scale(reader, file, mpp)
    name = valid_name(file.stem if name is None else check_text(name, "name"))
    image_key = f"{name}_image"
    write.check_name(image_key)
    pyramid = _pyramid(_Reader(reader, file), not_rgb)
    sdata = SpatialData(images={image_key: pyramid})
    write_scale(sdata, image_key, scale)
    facts = {"path": str(file), "fingerprint": hash_file(file), "mpp": scale, "mpp_from": source, "name": name}
    sdata.attrs |= {SLIDE: facts, PIXELS: "global"}
    height, width = reader.properties.shape
    size = f"{width:,} × {height:,} px"
    levels = count_of(len(pyramid), "level")
    logger.info("Opened %s: %s, %s, %.4g µm per pixel (from the %s).", name, size, levels, scale, source)
    return sdata


class _Reader:
    """Reader whose errors are OSErrors with the path of the file."""

    def __init__(self, reader: Any, file: Path) -> None:
        self.reader, self.file = reader, file
        self.properties = reader.properties

    def get_region(self, *place: int, level: int) -> np.ndarray:
        try:
            return self.reader.get_region(*place, level=level)
        except MemoryError:
            raise
        except Exception as error:  # the readers have different exceptions
            x, y, width, height = place
            raise OSError(
                f"{self.file} is damaged: {width} × {height} px of level {level} at x = {x}, y = {y} cannot be read "
                f"({error}). Copy or export the slide again."
            ) from error


def _open(file: Path) -> Any:
    from openslide import OpenSlideError
    from wsidata.reader import READERS

    from ._openslide import TolerantOpenSlideReader

    try:
        return READERS.try_open(str(file))
    except Exception as error:
        with suppress(OpenSlideError):
            return TolerantOpenSlideReader(str(file))
        raise InputError(
            f"No reader opens {file}: it is damaged, incomplete, or not a whole slide image. Convert a plain image "
            "(.jpg, .png, untiled .tif) with `vips tiffsave in.jpg out.tif --tile --pyramid`; read an image with "
            "measured spots with `ds.io.from_anndata`."
        ) from error


def _pyramid(reader: _Reader, not_rgb: set[tuple[int, int]]) -> DataTree:
    """Return the levels in the format of SpatialData, with coordinates of the full-resolution level."""
    from wsidata.reader import to_datatree
    from xarray import DataTree

    raw = reader.reader.raw_properties if reader.properties.raw else {}
    finest, *others = [level.to_dataset()["image"] for level in to_datatree(reader).children.values()]
    levels, finer = [finest], _Part(0, finest.sizes["y"], finest.sizes["x"])
    for number, level in enumerate(others, 1):
        whole = _Part(number, level.sizes["y"], level.sizes["x"])
        tile = [int(raw.get(f"level[{number}].tile-{side}") or 1) for side in ("height", "width")]
        copy = None if (whole.height, whole.width) in not_rgb else _smaller_copy(reader, finer, whole, tile)
        if copy is None:
            message = "%s: level %d (%d × %d px) is not a smaller copy of the slide in RGB and is left out."
            logger.info(message, reader.file.name, number, whole.width, whole.height)
        else:
            levels.append(level.isel(y=slice(copy.height), x=slice(copy.width)))
            finer = copy
    tree = {}
    for number, level in enumerate(levels):
        # The coordinates of wsidata start at 0 in each level, so that crops in µm would differ between levels.
        coords = {axis: (np.arange(n) + 0.5) * finest.sizes[axis] / n for axis, n in level.sizes.items() if axis != "c"}
        tree[f"scale{number}"] = level.to_dataset(name="image").assign_coords(coords)
    return DataTree.from_dict(tree)


class _Part(NamedTuple):
    """Upper left part of a level."""

    level: int
    height: int
    width: int


def _smaller_copy(reader: _Reader, finer: _Part, whole: _Part, tile: list[int]) -> _Part | None:
    """Return the part of a level that shows the same as a finer level, or None if there is none.

    Other images, such as a photo of the glass, may be stored as if they were levels. Some writers fill up the last
    tiles of a level and count this padding as a part of it.
    """
    full, size = np.array(finer[1:]), np.array(whole[1:])
    parts = [whole] if same_aspect(finer[1:], whole[1:]) else []
    least = int(np.ceil((full / size).max()))
    for factor in range(least, min(2 * least, MAX_FACTOR + 1)):
        padding = size - full / factor
        if not (size % tile).any() and (padding < tile).all() and (padding > 2).any():
            parts.append(_Part(whole.level, *np.round(full / factor).astype(int).tolist()))
    if not parts or (parts == [whole] and size.prod() > MAX_PHOTO):
        return parts[0] if parts else None
    side = min(np.clip(CELLS * least, SIDE, 4 * SIDE), full.min()) / full
    corners = list(product(*(np.linspace(0, 1 - share, GRID) for share in side)))
    wanted = _squares(reader, finer, corners, side)
    differences = [_difference(wanted, _squares(reader, part, corners, side)) for part in parts]
    return parts[np.argmin(differences)] if min(differences) < np.inf else None


def _squares(reader: _Reader, part: _Part, corners: list[tuple[float, ...]], side: np.ndarray) -> np.ndarray:
    """Return squares (n, 8, 8, 3) of a part, with corners and sides relative to its size; NaN where it is damaged."""
    from PIL import Image

    size = np.array(part[1:])
    squares = np.full((len(corners), CELLS, CELLS, 3), np.nan)
    for square, corner in zip(squares, np.array(corners), strict=True):
        start, stop = corner * size, np.minimum((corner + side) * size, size)
        first = np.floor(start)
        y, x = np.ceil(first * reader.properties.level_downsample[part.level]).astype(int).tolist()
        height, width = (np.ceil(stop) - first).astype(int).tolist()
        try:
            pixels = Image.fromarray(reader.get_region(x, y, width, height, level=part.level))
        except OSError:
            reader.reader.detach_reader()  # OpenSlide reads nothing after an error
            continue
        box = (*(start - first)[::-1], *(stop - first)[::-1])
        square[:] = pixels.resize((CELLS, CELLS), Image.Resampling.BOX, box=box)
    return squares


def _difference(wanted: np.ndarray, shown: np.ndarray) -> float:
    """Return the difference between squares of two levels, infinite if they show different images.

    Only squares that are no glass in one of them count.
    """
    known = np.isfinite(wanted + shown).all(axis=(1, 2, 3))
    if not known.any():
        return 0
    means = np.array([wanted[known], shown[known]]).mean(axis=(2, 3))
    content = np.abs(means - np.median(means[0], axis=0)).max(axis=0)
    tissue = content > NOISE
    if np.abs(means[0] - means[1])[tissue].sum() > SIMILAR * content[tissue].sum():
        return np.inf
    return float(np.abs(wanted - shown)[known].mean(axis=(1, 2))[tissue].sum())


def _scale(reader: Any, file: Path, mpp: float | None) -> tuple[float, str]:
    """Return µm per pixel and their source, `"file"` or `"argument"`."""
    raw = reader.raw_properties if reader.properties.raw else {}
    along = [float(raw.get(f"mpp-{axis}") or reader.properties.mpp or 0) for axis in "xy"]
    known = all(0 < value < float("inf") for value in along)
    stated = float(np.sqrt(np.prod(along))) if known else None
    if mpp is not None:
        if stated is not None and not 1 / AGREE <= mpp / stated <= AGREE:
            logger.warning("%s states %.4g µm per pixel; `mpp=%.4g` is used instead.", file.name, stated, mpp)
        return mpp, "argument"
    if stated is None:
        raise InputError(f"The scale of {file.name} is unknown: its header does not state it. {STATE_IT}")
    check_mpp(stated, file.name)
    if max(along) > SQUARE * min(along):
        raise InputError(
            f"Pixels of {file.name} are not square: {along[0]:.4g} by {along[1]:.4g} µm. Resample the slide, or pass "
            "`mpp=` if the header is wrong."
        )
    return stated, "file"
