"""Augmented copies of slides: other stain intensities, and mirrored."""

from __future__ import annotations

import zlib

import numpy as np
import shapely
from spatialdata import SpatialData
from spatialdata.models import Image2DModel, ShapesModel
from spatialdata.transformations import get_transformation

from deepspot.encoders._statistics import STAINS

ROWS = 256
TISSUE = 0.15  # optical density above which a pixel is no background


def augmented(sdata: SpatialData, name: str) -> SpatialData:
    """Return a copy of a slide, mirrored from left to right, with other intensities of hematoxylin and eosin."""
    key, rng = next(iter(sdata.images)), np.random.default_rng(zlib.crc32(name.encode()))
    image, spots = sdata.images[key], sdata.shapes["spots"].copy()
    pixels = jitter_stains(np.asarray(image.data), rng)[:, :, ::-1]
    spots["geometry"] = shapely.points(pixels.shape[2] - spots.geometry.x, spots.geometry.y)
    transformations = get_transformation(image, get_all=True)
    new = Image2DModel.parse(
        np.ascontiguousarray(pixels), dims=("c", "y", "x"), transformations=transformations, chunks=(3, 1024, 1024)
    )
    shapes = ShapesModel.parse(spots)  # a copy keeps its transformations
    tables = {"table": sdata.tables["table"].copy()}
    return SpatialData(images={key: new}, shapes={"spots": shapes}, tables=tables, attrs=sdata.attrs)


def jitter_stains(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Multiply the density of each stain by 0.8 to 1.25, and add up to 0.04 to it in tissue (Tellez et al., 2019)."""
    scale, shift = rng.uniform(0.8, 1.25, 3), rng.uniform(-0.04, 0.04, 3)
    mix = np.array(STAINS)
    change = np.linalg.inv(mix) @ np.diag(scale) @ mix
    result = np.empty_like(image)
    for start in range(0, image.shape[1], ROWS):
        part = image[:, start : start + ROWS]
        density = -np.log(np.clip(part / 255, 1 / 255, 1)).reshape(3, -1).T
        changed = density @ change + (density.sum(axis=1, keepdims=True) > TISSUE) * (shift @ mix)
        result[:, start : start + ROWS] = (255 * np.exp(-changed).clip(0, 1)).T.reshape(part.shape)
    return result
