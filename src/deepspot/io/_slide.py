from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.hashing import hash_file
from deepspot._core.keys import SLIDE, valid_name
from deepspot._core.logging import logger
from deepspot._core.validate import check_positive, check_text
from deepspot._spatial.transforms import write_scale
from deepspot.errors import InputError

if TYPE_CHECKING:
    from spatialdata import SpatialData
    from xarray import DataTree

PLAUSIBLE = (0.05, 10.0)
"""µm per pixel: 100x oil immersion has about 0.1; at 10 a nucleus is one pixel."""

SQUARE, AGREE = 1.02, 1.05
STATE_IT = "State it with `mpp=` (a manifest has a column for it): µm per pixel of the finest level, 0.25 at 40x."


def slide(path: str | Path, *, mpp: float | None = None, name: str | None = None) -> SpatialData:
    """Open a whole slide, with its scale, through the readers of wsidata. No pixel is read before it is needed.

    Parameters
    ----------
    path
        File of a slide scanner: what OpenSlide reads (.svs, .ndpi, .scn, .mrxs, tiled .tif, …), or another reader that
        wsidata finds installed.
    mpp
        µm per pixel of the finest level. By default what the file states; needed if it states none.
    name
        Name of the slide, by default that of the file.

    Returns
    -------
    A SpatialData with ``images["<name>_image"]`` (the levels of the file, read in blocks of 1,024 pixels when they are
    needed), the coordinate systems ``"global"`` (pixels of the finest level) and ``"microns"``, and
    ``attrs["deepspot_slide"]``: `path`, `fingerprint` of the file, `mpp`, `mpp_from` (``"file"`` or ``"argument"``) and
    `name`. Nothing else of the file's header comes along: it may name the patient.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    ValueError
        If no reader opens it, or its scale is unknown, implausible (outside 0.05–10 µm per pixel) or not the same in
        x and y. Pixels that turn out to be broken raise an OSError when they are read.

    See Also
    --------
    deepspot.pp.spots : Lay spots over the tissue.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.io.slide("slide.svs")  # doctest: +SKIP
    >>> sdata = ds.io.slide("slide.tif", mpp=0.5)  # doctest: +SKIP
    """
    from spatialdata import SpatialData

    file = Path(path).expanduser().resolve()
    if not file.is_file():
        raise FileNotFoundError(f"There is no slide {file}. Pass the path of a file that a slide scanner wrote.")
    if mpp is not None:
        mpp = _plausible(float(check_positive(mpp, "mpp")), "`mpp`")
    reader = _open(file)
    scale, stated_by = _scale(reader, file, mpp)
    name = valid_name(file.stem if name is None else check_text(name, "name"))
    image_key = f"{name}_image"
    sdata = SpatialData(images={image_key: _pyramid(_NamingReader(reader, file))})
    write_scale(sdata, image_key, scale)
    known = {"path": str(file), "fingerprint": hash_file(file), "mpp": scale, "mpp_from": stated_by, "name": name}
    sdata.attrs[SLIDE] = known
    height, width = reader.properties.shape
    size, levels = f"{width:,} × {height:,} px", reader.properties.n_level
    logger.info("Opened %s: %s, %d levels, %.4g µm per pixel (from the %s).", name, size, levels, scale, stated_by)
    return sdata


class _NamingReader:
    """A reader whose errors are OSErrors that name the file, which OpenSlide's own are not."""

    def __init__(self, reader: Any, file: Path) -> None:
        self.reader, self.file = reader, file
        self.properties = reader.properties

    def get_region(self, *place: int, level: int) -> np.ndarray:
        try:
            return self.reader.get_region(*place, level=level)
        except MemoryError:
            raise
        except Exception as error:  # every reader has errors of its own
            x, y, width, height = place
            raise OSError(
                f"{self.file} is damaged: {width} × {height} px of level {level} at x = {x}, y = {y} cannot be read "
                f"({error}). Copy or export the slide again."
            ) from error


def _open(file: Path) -> Any:
    from wsidata.reader import READERS

    try:
        return READERS.try_open(str(file))
    except Exception as error:
        raise InputError(
            f"No reader opens {file}: it is damaged, cut off, or not a whole slide. A plain image (.jpg, .png, untiled "
            ".tif) becomes one with `vips tiffsave in.jpg out.tif --tile --pyramid`; with spots, read it by "
            "`ds.io.from_anndata`."
        ) from error


def _pyramid(reader: _NamingReader) -> DataTree:
    """Levels as SpatialData has them: pixels of coarser ones lie at coordinates of the finest."""
    from wsidata.reader import to_datatree
    from xarray import DataTree

    tree = to_datatree(reader)
    finest, levels = tree["scale0"].sizes, {}
    for scale, level in tree.items():
        # wsidata counts from 0 in each level, so that a crop in µm would cut other tissue out of each.
        places = {axis: (np.arange(n) + 0.5) * finest[axis] / n for axis, n in level.sizes.items() if axis != "c"}
        levels[scale] = level.to_dataset().assign_coords(places)
    return DataTree.from_dict(levels)


def _scale(reader: Any, file: Path, mpp: float | None) -> tuple[float, str]:
    """µm per pixel, and who stated them: `"file"` or `"argument"`."""
    raw = reader.raw_properties if reader.properties.raw else {}
    along = [float(raw.get(f"mpp-{axis}") or reader.properties.mpp or 0) for axis in "xy"]
    known = all(0 < value < float("inf") for value in along)
    stated = float(np.sqrt(np.prod(along))) if known else None
    if mpp is not None:
        if stated is not None and not 1 / AGREE <= mpp / stated <= AGREE:
            logger.warning("%s states %.4g µm per pixel; `mpp=%.4g` is used instead.", file.name, stated, mpp)
        return mpp, "argument"
    if stated is None:
        raise InputError(f"The scale of {file.name} is unknown: its header states none. {STATE_IT}")
    _plausible(stated, file.name)
    if max(along) > SQUARE * min(along):
        raise InputError(
            f"Pixels of {file.name} are not square: {along[0]:.4g} by {along[1]:.4g} µm. Resample the slide, or state "
            "`mpp=` if its header is wrong."
        )
    return stated, "file"


def _plausible(mpp: float, who: str) -> float:
    low, high = PLAUSIBLE
    if not low <= mpp <= high:
        raise InputError(
            f"{who} states {mpp:.4g} µm per pixel, which no slide scanner has ({low:g} to {high:g}); 72 dots per inch, "
            f"the default of many programs, would be 353. {STATE_IT}"
        )
    return mpp
