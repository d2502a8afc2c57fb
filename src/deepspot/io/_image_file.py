"""Image files: what they hold is checked before pixels are read, so that no other colors are taken for RGB."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from deepspot.errors import InputError

TIFF = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
ORIENTATION = 274
"""Tag of TIFF and EXIF. With a value other than 1, the image is turned or mirrored when it is shown."""

MAX_PIXELS, MAX_TILE = 4e11, 2**28
"""Pixels of an image and of one of its tiles: larger numbers are those of a damaged file.

Whole slides have up to 1e11. OpenSlide ends the process if there is no memory for a tile.
"""

ALWAYS_8_BITS, MAX_BITS = ("BMP", "GIF", "JPEG", "MPO", "TGA", "WEBP"), 38
"""Formats that have no other pixels in RGB, and the maximum of JPEG 2000."""

GRAY = ("1", "L", "LA", "La", "I", "F", "MINISBLACK", "MINISWHITE")
ALPHA = ("RGBA", "RGBa")
NAMES = {"SEPARATED": "CMYK", "P": "indexed colors", "PALETTE": "indexed colors"}
CONVERT = "Convert it to RGB with 8 bits per channel, for example with `vips colourspace in.tif out.tif srgb`."


DARK = 64
"""Median gray level below which three channels are fluorescence and not H&E, whose glass is white."""


def read_image(path: Path, *, planes: bool = False) -> np.ndarray:
    """Read a .jpg, .png or .tif file (or another that Pillow reads) as RGB uint8 (h, w, 3).

    With `planes`, three channels of an OME-TIFF may be red, green and blue, as in files of 10x Genomics.
    """
    if not path.is_file():
        raise FileNotFoundError(f"There is no image {path}. Pass the path of a .jpg, .png or .tif file.")
    check_name(path)
    return _read_tiff(path, planes) if is_tiff(path) else _read_other(path)


def check_name(path: Path) -> None:
    """Raise if a file is one that macOS adds to others, with the same ending."""
    if path.name.startswith("._"):
        raise InputError(
            f"{path} is not an image, but a file that macOS adds to one on a shared disk. Pass the file whose name has "
            "no '._' at the beginning."
        )


def is_tiff(path: Path) -> bool:
    """Return whether a file is a TIFF, by its first bytes: many formats of slides are, with other endings."""
    with path.open("rb") as file:
        return file.read(4) in TIFF


def check_slide_tiff(path: Path, height: int, width: int) -> set[tuple[int, int]]:
    """Raise if OpenSlide would show a TIFF of this full resolution in other colors, turned, or not in full.

    Returns the height and width of the other images that it would show in other colors or turned.
    """
    from tifffile import TiffFile

    others = set()
    with TiffFile(path) as file:
        pages: Any = file.pages
        page = max(pages, key=_size)
        check_size(path, page.imagelength, page.imagewidth)
        _check_first(path, (height, width), page, 2)
        for each in pages:
            if each.tilelength * each.tilewidth > MAX_TILE:
                raise InputError(
                    f"{path} states tiles of {each.tilewidth:,} × {each.tilelength:,} px: it is damaged, or needs "
                    "smaller tiles. Copy or export it again."
                )
            try:
                # OpenSlide converts Y, Cb and Cr of any compression, and removes an alpha channel.
                colors = _colors(each)
                _check_colors(path, "RGB" if colors in ("YCBCR", *ALPHA) else colors, _depth(each))
                _check_orientation(path, _orientation(each))
            except InputError:
                if each is page:
                    raise
                others.add((each.imagelength, each.imagewidth))
    return others


def _size(page: Any) -> int:
    return int(page.imagelength * page.imagewidth)


def _check_first(path: Path, size: tuple[int, int], largest: Any, factor: float = 1) -> None:
    """Raise if the image that is read has another size than the largest one, and is smaller by more than a factor."""
    height, width = size
    if _size(largest) > factor * height * width:
        raise InputError(
            f"{path} begins with an image of {width:,} × {height:,} px, which readers take for full resolution, "
            f"and holds a larger one of {largest.imagewidth:,} × {largest.imagelength:,} px. Export the larger one "
            "alone."
        )


def check_size(path: Path, height: int, width: int) -> None:
    """Raise if the size of an image is that of a damaged file."""
    if height * width > MAX_PIXELS:
        raise InputError(
            f"{path} states a size of {width:,} × {height:,} px, more than any slide scanner makes: it is damaged. "
            "Copy or export it again."
        )


def _read_tiff(path: Path, planes: bool) -> np.ndarray:
    from tifffile import TiffFile

    with TiffFile(path) as file:
        series = file.series[0]
        page: Any = series.keyframe
        separate = planes and series.axes == "CYX" and series.shape[0] == 3
        if not separate and series.axes not in ("YX", "YXS", "SYX"):
            raise InputError(
                f"{path} holds {len(series.pages):,} images (axes {series.axes}, shape {series.shape}) and not one in "
                "RGB. Export the H&E image alone; if these are its red, green and blue, stack them as the last axis."
            )
        pages: Any = file.pages
        # Pages of an OME-TIFF that are like another one are frames, whose size is that of their keyframe.
        largest = max((each.keyframe for each in pages), key=_size)
        _check_first(path, (page.imagelength, page.imagewidth), largest)
        _check_colors(path, "RGB" if separate else _colors(page), _depth(page))
        _check_orientation(path, _orientation(page))
        _check_memory(path, page.imagelength, page.imagewidth)
        pixels = series.asarray()
    if separate and np.median(pixels[:, ::16, ::16]) < DARK:
        raise InputError(f"{path} holds three dark channels, which are fluorescence. Pass the H&E image.")
    return np.moveaxis(pixels, 0, -1) if separate or series.axes == "SYX" else pixels


def _read_other(path: Path) -> np.ndarray:
    from PIL import Image

    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # slides exceed Pillow's limit
    try:
        with Image.open(path) as picture:
            _check_colors(path, picture.mode, _stored_depth(path, picture.format))
            _check_memory(path, picture.height, picture.width)
            pixels = np.asarray(picture)
            _check_orientation(path, picture.getexif().get(ORIENTATION, 1))
            return pixels
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _stored_depth(path: Path, kind: str | None) -> str:
    """Return the data type of the pixels in a file: Pillow reads more than 8 bits as 8 without a message."""
    with path.open("rb") as file:
        head = file.read(4096)
    bits = 8 if kind in ALWAYS_8_BITS else 0
    if kind == "PNG":
        bits = head[24]
    elif kind == "JPEG2000":  # in a box of the file, or in the header of a codestream alone
        box = head.find(b"ihdr")
        bits = 1 + (head[42] if box < 0 else head[box + 14])
    elif kind == "PPM":  # the fourth word is the largest value
        bits = int(re.sub(rb"#.*", b"", head).split()[3]).bit_length()
    return f"uint{bits}" if 0 < bits <= MAX_BITS else "an unknown number of bits"


def _colors(page: Any) -> str:
    """Return the colors of an image in a TIFF: ``"RGB"``, or what they are instead."""
    name, n = getattr(page.photometric, "name", str(page.photometric)), page.samplesperpixel
    if name == "YCBCR" and page.compression.name in ("JPEG", "OJPEG", "ALT_JPEG"):
        return "RGB"  # every reader converts these
    if page.compression.name == "APERIO_JP2000_YCBC":
        return "YCBCR"  # and the tag says RGB
    if name == "RGB" and n != 3:
        is_alpha = n == 4 and page.extrasamples[:1] in ((1,), (2,))  # associated or not; 0 is any fourth channel
        return "RGBA" if is_alpha else f"{n} channels"
    return name


def _depth(page: Any) -> str:
    # tifffile reads 4 bits as uint8.
    return f"uint{page.bitspersample}" if page.dtype == np.uint8 else str(page.dtype)


def _orientation(page: Any) -> int:
    tag = page.tags.get(ORIENTATION)
    return 1 if tag is None else int(tag.value)


def _check_colors(path: Path, colors: str, depth: str) -> None:
    """Raise unless an image is RGB in uint8, with advice for what it is instead."""
    problem, advice = "", CONVERT
    if colors in GRAY or colors.startswith("I;"):
        problem, advice = "is gray", "Export the H&E image in color, with red, green and blue in one image."
    elif colors in ALPHA:
        problem = "has an alpha channel"
        advice = "Remove it, for example with `vips flatten in.png out.tif --background 255`."
    elif colors != "RGB":
        problem = f"holds {NAMES.get(colors, colors)} and not RGB"
    elif depth != "uint8":
        problem = f"holds {depth} and not uint8"
        advice = "Rescale it to 0–255: divide by 16 if the camera has 12 bits, by 256 if it has 16."
    if problem:
        raise InputError(f"{path} {problem}. {advice}")


def _check_orientation(path: Path, orientation: int) -> None:
    """Raise if an image is not stored upright: spots may have been placed on it with or without the turn."""
    if orientation != 1:
        raise InputError(
            f"{path} is turned or mirrored by its orientation tag ({orientation}), which only some programs apply. "
            "Save it upright, for example with `vips autorot in.tif out.tif`, or set the tag to 1 if measured spots "
            "belong to the pixels as they are stored."
        )


def _check_memory(path: Path, height: int, width: int) -> None:
    from distributed.system import MEMORY_LIMIT

    check_size(path, height, width)
    n_bytes = 3 * height * width
    if n_bytes > MEMORY_LIMIT:
        raise InputError(
            f"{path} states a size of {width:,} × {height:,} px: {n_bytes / 1e9:,.0f} GB, more than the memory of this "
            f"machine ({MEMORY_LIMIT / 1e9:,.0f} GB). If this is its size, downscale it; otherwise it is damaged."
        )
