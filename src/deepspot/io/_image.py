from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

CHUNK = 2048


def load_image(image: str | Path | np.ndarray) -> np.ndarray:
    """Load an image as RGB uint8 (h, w, 3) from a file (.jpg, .png, .tif) or an array of that shape."""
    pixels: Any = _open(Path(image)) if isinstance(image, str | Path) else image
    shape, dtype = np.shape(pixels), getattr(pixels, "dtype", None)
    if len(shape) != 3 or shape[2] != 3 or dtype != np.uint8:
        raise ValueError(
            f"`image` must be RGB in uint8 of shape (height, width, 3), got {dtype} {shape}. Drop an alpha channel "
            "with `image[..., :3]`, rescale other types to 0–255, and stack a grey image three times only if it is H&E."
        )
    return np.asarray(pixels)


def _open(path: Path) -> np.ndarray:
    if not path.is_file():
        raise FileNotFoundError(f"There is no image {path}. Pass the path of a .jpg, .png or .tif file.")
    if path.suffix.lower() in (".tif", ".tiff", ".btf"):
        import tifffile

        return tifffile.imread(path)
    from PIL import Image

    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # slides are larger than what Pillow calls a bomb
    try:
        with Image.open(path) as picture:
            return np.asarray(picture)
    finally:
        Image.MAX_IMAGE_PIXELS = limit
