"""Nuclei as the sub-spots of spots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from deepspot._core.keys import nuclei_name
from deepspot._core.logging import logger
from deepspot._spatial.transforms import centers_px
from deepspot.errors import InputError, MissingKeyError

if TYPE_CHECKING:
    from deepspot._sdata.view import SlideView
    from deepspot._spatial.geometry import TileGeometry


@dataclass(frozen=True, eq=False)
class NucleiOfSpots:
    """Nuclei of each spot: their `number` (n,), and spot by spot their `rows` (m,) in the shapes, and `centers` (m, 2).

    Centers are x and y in px. A nucleus is repeated if spots overlap.
    """

    number: np.ndarray
    rows: np.ndarray
    centers: np.ndarray

    @property
    def present(self) -> np.ndarray:
        """Mask (n, s) of the places that are nuclei; s is the largest number of a spot."""
        return np.arange(self.number.max()) < self.number[:, None]

    def of(self, spots: np.ndarray) -> np.ndarray:
        """Return the positions in `rows` and `centers` of the nuclei of some spots, spot by spot."""
        end = np.cumsum(self.number)
        return np.concatenate([np.arange(end[spot] - self.number[spot], end[spot]) for spot in spots])


def check_nuclei(view: SlideView, tile: TileGeometry) -> str:
    """Return the name of the shapes of nuclei that are sub-spots; raise if there are none."""
    key = nuclei_name(view.image_key) if tile.nuclei_key is None else tile.nuclei_key
    if key not in view.sdata.shapes:
        raise MissingKeyError(
            f"The sub-spots are nuclei, but there are no shapes {key!r}. `ds.pp.nuclei(sdata)` makes "
            f"{nuclei_name(view.image_key)!r}. Nuclei of other software are named by `nuclei_key=` in `ds.pp.embed`, "
            f"and by `keys={{'nuclei_key': …}}` in training; in prediction they must have the same name as in "
            f"training. Available shapes: {list(view.sdata.shapes)}."
        )
    return key


def nuclei_of_spots(view: SlideView, tile: TileGeometry) -> NucleiOfSpots:
    """Find the nuclei whose centroids are in the inscribed circle of the tile of each spot, in their order.

    The circle belongs to the model, like all sizes, and not to the slide. By default the tile of the training has the
    diameter of its spots, so that these are the nuclei that a spot measures.
    """
    from scipy.spatial import cKDTree

    key = check_nuclei(view, tile)
    centers = centers_px(view.sdata, view.image_key, key, view.coordinate_system)
    found = cKDTree(centers).query_ball_point(view.centers, tile.tile_um / view.mpp / 2, return_sorted=True)
    number = np.array([len(nuclei) for nuclei in found])
    if not number.any():
        raise InputError(
            f"None of the {len(centers):,} nuclei {key!r} is in a spot of {view.shapes_key!r}. Check that both are of "
            "one slide and share a coordinate system, and that the nuclei around the spots were segmented."
        )
    logger.info(
        "Spots of %r have %.1f nuclei of %r on average, at most %d. %s of %s have none.",
        *(view.shapes_key, number.mean(), key, number.max(), f"{(number == 0).sum():,}", f"{len(number):,}"),
    )
    rows = np.concatenate([np.asarray(nuclei, dtype=int) for nuclei in found])
    return NucleiOfSpots(number, rows, centers[rows])
