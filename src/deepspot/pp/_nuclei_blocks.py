"""Nuclei of a slide, block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deepspot._core.logging import bar
from deepspot._image.blocks import read_blocks
from deepspot._image.nuclei import (
    MARGIN_UM,
    WORK_UM,
    draw_labels,
    hematoxylin,
    nuclear_threshold,
    outlines,
    segment,
    texture,
)
from deepspot._image.tiles import coarse_image, level_sizes
from deepspot._image.tissue import PER_TILE, TISSUE_RULES, glass_color
from deepspot._spatial.neighbors import nearest_within

if TYPE_CHECKING:
    import pandas as pd
    from xarray import DataArray

COLUMNS = ("area_um2", "eccentricity", "solidity", "hematoxylin", "hematoxylin_std")
TISSUE_UM = 50.0
CORE, MARGIN = 1536, round(MARGIN_UM / WORK_UM)
"""Side of a block and of its overlap in pixels of 0.5 µm."""
# The threshold is found on this number of parts of the tissue.
SAMPLES, SAMPLE = 64, 128


@dataclass(frozen=True)
class Tissue:
    """Map of the tissue of a slide, and the color of its glass."""

    shown: np.ndarray  # (rows, columns) bool: squares of `side`
    side: float  # pixels of full resolution
    glass: np.ndarray  # (3,)

    def at(self, xy: np.ndarray) -> np.ndarray:
        """Return whether positions (n, 2) in pixels of full resolution are in tissue."""
        column, row = np.clip((xy / self.side).astype(int), 0, np.array(self.shown.shape)[::-1] - 1).T
        return self.shown[row, column]


def tissue_map(pyramid: list[DataArray], mpp: float, rule: str | None, name: str) -> Tissue:
    """Detect tissue in squares of 50 µm that cover the image."""
    height, width = level_sizes(pyramid)[0]
    side = TISSUE_UM / mpp
    rgb, scale = coarse_image(pyramid, side / PER_TILE)
    shape = (int(np.ceil(height / side)), int(np.ceil(width / side)))
    shown = np.ones(shape, dtype=bool)
    if rule is not None:
        centers = (np.indices(shape).reshape(2, -1).T[:, ::-1] + 0.5) * side
        shown = TISSUE_RULES[rule](rgb, centers / scale, side / scale, name).reshape(shape)
    return Tissue(shown, side, glass_color(rgb))


@dataclass(frozen=True)
class BlockPlan:
    """Blocks of a slide that have tissue and, if only the surroundings of spots are wanted, are near a spot."""

    pyramid: list[DataArray]
    mpp: float
    tissue: Tissue
    near: tuple[np.ndarray, float] | None  # centers (n, 2) and distance in pixels of full resolution
    core: int  # side without the overlap, in pixels of 0.5 µm
    first: np.ndarray  # (blocks, 2) row and column of the first pixel of the core

    @classmethod
    def of(
        cls, pyramid: list[DataArray], mpp: float, tissue: Tissue, near: tuple[np.ndarray, float] | None = None
    ) -> BlockPlan:
        """Cover the image by blocks, and leave out those without tissue or spots."""
        height, width = (int(np.ceil(size * mpp / WORK_UM)) for size in level_sizes(pyramid)[0])
        core = min(CORE, max(height, width))
        first = np.array([(y, x) for y in range(0, height, core) for x in range(0, width, core)])
        low, high = first * WORK_UM / mpp, (first + core) * WORK_UM / mpp
        squares = np.stack([np.floor(low / tissue.side), np.ceil(high / tissue.side)], axis=1).astype(int)
        wanted = np.array([tissue.shown[a[0] : b[0], a[1] : b[1]].any() for a, b in squares])
        if near is not None:
            centers, reach = near[0][:, ::-1], near[1]
            limits = zip(low - reach, high + reach, strict=True)
            wanted &= [((centers >= a) & (centers <= b)).all(axis=1).any() for a, b in limits]
        return cls(pyramid, mpp, tissue, near, core, first[wanted])

    @property
    def step(self) -> float:
        """Pixels of full resolution in one of 0.5 µm."""
        return WORK_UM / self.mpp

    def densities(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Read the blocks with their overlap: row and column of the first pixel (2,), and hematoxylin (h, w)."""
        corners, side = self.first - MARGIN, self.core + 2 * MARGIN
        with bar("Nuclei", total=len(corners), unit="block") as shown:
            for number, block in read_blocks(self.pyramid, corners, side, self.step):
                yield corners[number], hematoxylin(block, self.tissue.glass)
                shown.update()

    def owns(self, corner: np.ndarray, xy: np.ndarray) -> np.ndarray:
        """Return whether the nuclei with centers (n, 2), in pixels of a block, belong to it."""
        return ((xy >= MARGIN) & (xy < MARGIN + self.core)).all(axis=1) & self._wanted(self.px(corner, xy))

    def px(self, corner: np.ndarray, xy: np.ndarray) -> np.ndarray:
        """Convert positions (n, 2) in a block to pixels of full resolution."""
        return (xy + corner[::-1]) * self.step

    def _wanted(self, xy: np.ndarray) -> np.ndarray:
        inside = self.tissue.at(xy) & (xy >= 0).all(axis=1) & (xy < level_sizes(self.pyramid)[0][::-1]).all(axis=1)
        if self.near is not None:
            inside &= nearest_within(xy, *self.near) >= 0
        return inside

    def threshold(self) -> float:
        """Return the density between nuclei and the rest, from parts of the tissue that are spread over the blocks."""
        rows, columns = np.nonzero(self.tissue.shown)
        some = np.linspace(0, len(rows) - 1, min(len(rows), SAMPLES)).astype(int)
        centers = (np.column_stack([rows, columns])[some] + 0.5) * self.tissue.side / self.step
        corners = np.round(centers - SAMPLE / 2).astype(np.int64)
        parts = read_blocks(self.pyramid, corners, SAMPLE, self.step)
        return nuclear_threshold([hematoxylin(part, self.tissue.glass) for _, part in parts])


def segment_blocks(plan: BlockPlan, min_area_um2: float, max_area_um2: float) -> tuple[np.ndarray, pd.DataFrame]:
    """Segment the nuclei: polygons (n,) in pixels of full resolution, and their columns (n rows)."""
    import pandas as pd
    import shapely

    threshold = plan.threshold()
    polygons, columns = [np.empty(0, dtype=object)], []
    for corner, density in plan.densities():
        labels = segment(density, threshold, min_area_um2)
        frame = texture(labels, density)
        frame = frame[plan.owns(corner, frame[["x", "y"]].to_numpy())]
        shapes = outlines(labels, frame.index.to_numpy())
        fits = _between(shapely.area(shapes) * WORK_UM**2, min_area_um2, max_area_um2)
        polygons.append(shapely.transform(shapes[fits], lambda xy, corner=corner: plan.px(corner, xy)))
        columns.append(frame[fits])
    found = np.concatenate(polygons)
    frame = pd.concat(columns, ignore_index=True) if columns else pd.DataFrame(columns=list(COLUMNS))
    return found, _with_outline(frame, found, plan.mpp)


def measure_given(plan: BlockPlan, polygons: np.ndarray) -> pd.DataFrame:
    """Return the columns of given nuclei, in the order of their polygons (n,) in pixels of full resolution."""
    import pandas as pd
    import shapely

    centers = shapely.get_coordinates(shapely.centroid(polygons))
    frame = pd.DataFrame(np.nan, index=range(len(polygons)), columns=["eccentricity", "hematoxylin", "hematoxylin_std"])
    for corner, density in plan.densities():
        at = centers / plan.step - corner[::-1]
        own = np.flatnonzero(((at >= MARGIN) & (at < MARGIN + plan.core)).all(axis=1))
        local = shapely.transform(polygons[own], lambda xy, corner=corner: xy / plan.step - corner[::-1])
        measured = texture(draw_labels(local, density.shape[0]), density)
        frame.iloc[own[measured.index - 1]] = measured[frame.columns]
    return _with_outline(frame, polygons, plan.mpp)


def _between(values: np.ndarray, low: float, high: float) -> np.ndarray:
    return (values >= low) & (values <= high)


def _with_outline(frame: pd.DataFrame, polygons: np.ndarray, mpp: float) -> pd.DataFrame:
    """Add what follows from the outlines, and order the columns."""
    import shapely

    area, hull = shapely.area(polygons), shapely.area(shapely.convex_hull(polygons))
    solidity = np.divide(area, hull, out=np.full(len(area), np.nan), where=hull > 0)
    return frame.assign(area_um2=area * mpp**2, solidity=solidity)[list(COLUMNS)].astype(float)
