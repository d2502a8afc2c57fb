"""Patches of spots in an HDF5 file, as one image that is read when it is needed."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import numpy as np

from deepspot.errors import InputError
from deepspot.io._elements import CHUNK, reading

if TYPE_CHECKING:
    from dask.array import Array

WHITE = 255
FACTS = ("patch_size_src", "patch_size_target", "pixel_size")
# Pixels of an image without which the scale or the positions are wrong: the largest slides at 0.25 µm per pixel.
MOST_PIXELS = 4e10


@dataclass(frozen=True, eq=False)
class Patches:
    """Square RGB patches of one size in the layout of HEST, and their places in an image of their resolution.

    `corners` (n, 2) are x and y of the first pixel of a patch, in pixels of the patches. The image ends at the
    outermost patches.
    """

    path: Path
    barcodes: list[str]
    corners: np.ndarray
    side: int
    mpp: float

    @classmethod
    def open(cls, path: Path) -> Self:
        """Read barcodes, places and scale, and check that all patches can be read."""
        import h5py

        with reading(path, ".h5"), h5py.File(path) as file:
            name = "barcode" if "barcode" in file else "barcodes"
            missing = [key for key in ("img", "coords", name) if key not in file]
            if missing:
                raise InputError(f"{path} has no {missing[0]!r}, only {list(file)}. Patches of HEST are needed.")
            shape, dtype, coords = file["img"].shape, file["img"].dtype, np.asarray(file["coords"])
            barcodes = [_text(value) for value in np.asarray(file[name]).ravel()]
            attributes: dict[str, Any] = dict(file["coords"].attrs) | dict(file["img"].attrs)
        n = len(barcodes)
        if len(shape) != 4 or shape[1] != shape[2] or shape[3] != 3 or dtype != np.uint8:
            raise InputError(f"{path} has patches of {dtype} {shape}; square RGB patches in uint8 are needed.")
        if not n or shape[0] != n or coords.shape != (n, 2) or not np.isfinite(coords).all():
            raise InputError(
                f"{path} has {shape[0]} patches, {n} barcodes and coordinates of shape {coords.shape}, which do not "
                "belong together. Get a new copy."
            )
        if len(set(barcodes)) < n:
            repeated = next(barcode for barcode in barcodes if barcodes.count(barcode) > 1)
            raise InputError(f"{path} has several patches of {repeated!r}. Get a new copy.")
        unknown = [fact for fact in FACTS if not 0 < float(attributes.get(fact, np.nan)) < np.inf]
        if unknown:
            raise InputError(f"{path} does not state {unknown[0]!r}, so the scale of its patches is unknown.")
        source, target, pixel_um = (float(attributes[fact]) for fact in FACTS)
        if target != shape[1]:
            raise InputError(f"{path} states patches of {target:g} px, but they have {shape[1]} px. Get a new copy.")
        corners = np.rint((coords - coords.min(axis=0)) * target / source).astype(np.int64)
        patches = cls(path, barcodes, corners, shape[1], pixel_um * source / target)
        if np.prod(patches.shape, dtype=float) > MOST_PIXELS:
            raise InputError(f"{path} has patches that are {patches.shape} px apart. Its coordinates are damaged.")
        return patches

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width of the image."""
        width, height = self.corners.max(axis=0) + self.side
        return int(height), int(width)

    @property
    def side_um(self) -> float:
        """Side of a patch in µm."""
        return self.side * self.mpp

    @property
    def centers(self) -> np.ndarray:
        """Centers (n, 2) of the patches, x and y in pixels of the image."""
        return self.corners + self.side / 2

    def image(self) -> Array:
        """Return the image (h, w, 3), white where there is no patch, in blocks that are read when they are needed.

        Where patches overlap and differ, the last one is seen.
        """
        import dask.array as da

        height, width = self.shape
        chunks = da.core.normalize_chunks((CHUNK, CHUNK, 3), (height, width, 3))
        return da.map_blocks(self._block, chunks=chunks, dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8))

    def _block(self, block_info: Any = None) -> np.ndarray:
        (top, bottom), (left, right), _ = block_info[None]["array-location"]
        pixels = np.full((bottom - top, right - left, 3), WHITE, dtype=np.uint8)
        x, y = self.corners.T
        inside = (x < right) & (x + self.side > left) & (y < bottom) & (y + self.side > top)
        for (x0, y0), patch in zip(self.corners[inside], self.read(np.flatnonzero(inside)), strict=True):
            # The part of the patch that is in the block, in pixels of the image.
            y1, y2 = max(y0, top), min(y0 + self.side, bottom)
            x1, x2 = max(x0, left), min(x0 + self.side, right)
            pixels[y1 - top : y2 - top, x1 - left : x2 - left] = patch[y1 - y0 : y2 - y0, x1 - x0 : x2 - x0]
        return pixels

    def read(self, rows: np.ndarray) -> np.ndarray:
        """Read some patches (n, side, side, 3), by their numbers in increasing order."""
        import h5py

        with reading(self.path, ".h5"), h5py.File(self.path) as file:
            return np.asarray(file["img"][rows]) if len(rows) else np.empty((0, self.side, self.side, 3), np.uint8)


def _text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(value)
