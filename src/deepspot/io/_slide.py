from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.hashing import hash_file
from deepspot._core.keys import PIXELS, SLIDE, checked, valid_name
from deepspot._core.logging import logger
from deepspot._core.validate import check_positive, check_text
from deepspot._sdata import write
from deepspot._spatial.geometry import same_aspect
from deepspot._spatial.transforms import write_scale
from deepspot.errors import InputError

from ._elements import reading
from ._image_file import check_name, check_size, check_slide_tiff, is_tiff

if TYPE_CHECKING:
    from spatialdata import SpatialData
    from xarray import DataArray, DataTree

PLAUSIBLE = (0.05, 10.0)
"""Accepted µm per pixel: 100x oil immersion has about 0.1; at 10 a nucleus is one pixel."""

SQUARE, AGREE = 1.02, 1.05
MAX_COMPARED = 2**28
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
    without padding, and without levels of another aspect, such as a photo of the glass),
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
        mpp = _plausible(float(check_positive(mpp, "mpp")), "`mpp`")
    reader = _open(file)
    check_size(file, *reader.properties.shape)
    if is_tiff(file):
        with reading(file, "image"):
            check_slide_tiff(file, *reader.properties.shape)
    scale, source = _scale(reader, file, mpp)
    name = valid_name(file.stem if name is None else check_text(name, "name"))
    image_key = f"{name}_image"
    write.check_name(image_key)
    pyramid = _pyramid(_Reader(reader, file))
    sdata = SpatialData(images={image_key: pyramid})
    write_scale(sdata, image_key, scale)
    facts = {"path": str(file), "fingerprint": hash_file(file), "mpp": scale, "mpp_from": source, "name": name}
    sdata.attrs |= {SLIDE: facts, PIXELS: "global"}
    height, width = reader.properties.shape
    size = f"{width:,} × {height:,} px"
    logger.info("Opened %s: %s, %d levels, %.4g µm per pixel (from the %s).", name, size, len(pyramid), scale, source)
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


def _pyramid(reader: _Reader) -> DataTree:
    """Return the levels in the format of SpatialData, with coordinates of the full-resolution level."""
    from wsidata.reader import to_datatree
    from xarray import DataTree

    raw = reader.reader.raw_properties if reader.properties.raw else {}
    finest, *others = [level.to_dataset()["image"] for level in to_datatree(reader).children.values()]
    levels = [finest]
    for number, level in enumerate(others, 1):
        tile = [int(raw.get(f"level[{number}].tile-{side}") or 1) for side in ("height", "width")]
        if (shown := _part_of_slide(levels[-1], level, finest, tile)) is None:
            message = "%s: level %d (%d × %d px) has another aspect than the slide and is left out."
            logger.info(message, reader.file.name, number, level.sizes["x"], level.sizes["y"])
        else:
            levels.append(shown)
    tree = {}
    for number, level in enumerate(levels):
        # The coordinates of wsidata start at 0 in each level, so that crops in µm would differ between levels.
        coords = {axis: (np.arange(n) + 0.5) * finest.sizes[axis] / n for axis, n in level.sizes.items() if axis != "c"}
        tree[f"scale{number}"] = level.to_dataset(name="image").assign_coords(coords)
    return DataTree.from_dict(tree)


def _part_of_slide(finer: DataArray, level: DataArray, finest: DataArray, tile: list[int]) -> DataArray | None:
    """Return the part of a level that shows the slide, or None if it is another image, such as a photo of the glass.

    Tiles are read at positions that follow from the sizes of the levels. Some writers fill up the last tiles of a level
    and count this padding as a part of it.
    """
    full, size = (np.array([image.sizes["y"], image.sizes["x"]]) for image in (finest, level))
    similar = same_aspect(tuple(full), tuple(size))
    # The factor of a padded level is a power of two.
    content = full / 2 ** np.round(np.log2((full / size).max()))
    padding = size - content
    if (abs(padding) <= 2).all() or (size % tile).any() or not ((padding > -1) & (padding < tile)).all():
        return level if similar else None
    height, width = np.round(content).astype(int)
    part = level.isel(y=slice(height), x=slice(width))
    return level if similar and _closer(level, part, finer) else part


def _closer(level: DataArray, part: DataArray, finer: DataArray) -> bool:
    """Return whether a level is more similar to a finer one than a part of it is."""
    from skimage.transform import resize_local_mean

    def small(image: DataArray) -> np.ndarray:
        step = max(1, min(image.shape[1:]) // 1024)
        pixels = np.asarray(image[:, ::step, ::step].data).transpose(1, 2, 0)
        return resize_local_mean(pixels, (64, 64), preserve_range=True)

    if finer.size > MAX_COMPARED:
        return False
    whole, cut, wanted = small(level), small(part), small(finer)
    return bool(np.abs(whole - wanted).sum() < np.abs(cut - wanted).sum())


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
    _plausible(stated, file.name)
    if max(along) > SQUARE * min(along):
        raise InputError(
            f"Pixels of {file.name} are not square: {along[0]:.4g} by {along[1]:.4g} µm. Resample the slide, or pass "
            "`mpp=` if the header is wrong."
        )
    return stated, "file"


def _plausible(mpp: float, source: str) -> float:
    low, high = PLAUSIBLE
    if not low <= mpp <= high:
        raise InputError(
            f"{source} states {mpp:.4g} µm per pixel; slide scanners have {low:g} to {high:g} (353 are 72 dots per "
            f"inch, the default of many programs). {STATE_IT}"
        )
    return mpp
