"""The three resolutions of a prediction: spots, their sub-spots, a finer grid. Checks first, then the work."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from deepspot._core.keys import grid_name, subspots_name
from deepspot._core.settings import settings
from deepspot._features.bags import Bags
from deepspot._features.feature_table import Request, add_features, bags_of, plan_features
from deepspot._image.tiles import level_sizes, pyramid_levels
from deepspot._sdata.tables import array_positions, rows_of
from deepspot._spatial.neighbors import check_array, find_neighbors
from deepspot._spatial.transforms import Placement, place_spots

from .layout import add_circles, grid_neighbors, lay_grid, lay_subspots, plan_circles
from .subspots import predict_in_blocks, predict_subspots

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from deepspot._spatial.geometry import Geometry
    from deepspot.encoders import Encoder
    from deepspot.models import DeepSpot

Resolution = Literal["spot", "subspot", "grid"]
CALLED = {"spot": "spots", "subspot": "sub-spots", "grid": "grid points"}


@dataclass(frozen=True)
class Source:
    """What a prediction is made from, and where; see :func:`deepspot.tl.predict`."""

    image_key: str
    shapes_key: str
    encoder: str | Encoder | None = None
    coordinate_system: str | None = None
    device: str | None = None
    batch_size: int | None = None


@dataclass(frozen=True, eq=False)
class Job:
    """A checked prediction.

    Attributes
    ----------
    sdata, model, request
        Object, fitted model, and the features of the spots.
    key, overwrite
        Table to make.
    copies
        Layers that it will have, with `X`.
    grid_um
        Distance between the points of a grid.
    device, batch_size
        Where to compute, and how many tiles at once.
    """

    sdata: SpatialData
    model: DeepSpot
    request: Request
    key: str
    overwrite: bool = False
    copies: int = 1
    grid_um: float | None = None
    device: str | None = None
    batch_size: int | None = None

    @property
    def geometry(self) -> Geometry:
        """Tile and neighbour rule of the model."""
        return self.model.geometry

    def spots(self) -> Placement:
        """Where the spots lie."""
        request = self.request
        return place_spots(self.sdata, request.image_key, request.shapes_key, request.coordinate_system)

    def features(self) -> str:
        """Embed the spots, unless that was done before. Return the name of the table."""
        plan = plan_features(self.sdata, self.request)
        return add_features(plan, device=self.device, batch_size=self.batch_size)


@dataclass(frozen=True, eq=False)
class Predicted:
    """What a model predicts, and for which shapes.

    Attributes
    ----------
    expression
        (m, genes) float32 log-expression; of spots as it left the model.
    shapes_key, index, centers
        Shapes, their index, and their x and y in the image (m, 2).
    features_key, rows
        Feature table, and the row in it whose spot tile each of them was predicted from (m,).
    provenance
        What `uns` shall say of it.
    """

    expression: np.ndarray
    shapes_key: str
    index: pd.Index
    centers: np.ndarray
    features_key: str
    rows: np.ndarray
    provenance: dict[str, Any]


def make_job(sdata: SpatialData, model: DeepSpot, source: Source, key: str, **options: Any) -> Job:
    """Check that the encoder is the model's and the spots have what its neighbours need. Changes nothing."""
    shapes_key, geometry = source.shapes_key, model.geometry
    check_array(geometry.neighbors, array_positions(sdata, shapes_key))
    request = Request(
        model.get_encoder(source.encoder), geometry.tile, source.image_key, shapes_key,
        "subspots" in model.card.network.context, source.coordinate_system,
    )  # fmt: skip
    return Job(sdata, model, request, key, device=source.device, batch_size=source.batch_size, **options)


def target(resolution: Resolution, shapes_key: str) -> str:
    """Name of the shapes that a prediction is for."""
    names: dict[str, Callable[[str], str]] = {"subspot": subspots_name, "grid": grid_name}
    return names[resolution](shapes_key) if resolution in names else shapes_key


def at_spots(job: Job) -> Predicted:
    """Predict the spots themselves."""
    sdata, shapes_key = job.sdata, job.request.shapes_key
    _check_size(job, len(sdata.shapes[shapes_key]), CALLED["spot"])
    key = job.features()
    bags = bags_of(sdata, key, shapes_key, job.geometry.neighbors)
    expression = predict_in_blocks(job.model, bags, device=job.device)
    features = sdata.tables[key]
    index = pd.Index(rows_of(features, shapes_key))
    centers = np.asarray(features.obsm["spatial"])
    return Predicted(expression, shapes_key, index, centers, key, np.arange(len(bags)), {})


def at_subspots(job: Job) -> Predicted:
    """Predict the sub-spots of every spot, on average the spot."""
    sdata, request, made = job.sdata, job.request, subspots_name(job.request.shapes_key)
    layout = lay_subspots(job.spots(), request.geometry)
    _check_size(job, len(layout.parents), CALLED["subspot"])
    circles = plan_circles(sdata, made, request, layout, table_key=job.key, overwrite=job.overwrite)
    key = job.features()
    bags = bags_of(sdata, key, request.shapes_key, job.geometry.neighbors)
    expression = predict_subspots(job.model, bags, device=job.device)
    add_circles(sdata, made, circles, what=f"{CALLED['subspot']} of {request.shapes_key!r}")
    return Predicted(
        expression.reshape(len(layout.parents), -1), made, layout.placement.index, layout.placement.centers, key,
        layout.parents, {},
    )  # fmt: skip


def at_grid(job: Job) -> Predicted:
    """Predict a finer grid over the spots: a spot tile around each point, and its central sub-spot."""
    sdata, request, made = job.sdata, job.request, grid_name(job.request.shapes_key)
    spots, rule = job.spots(), job.geometry.neighbors
    size = level_sizes(pyramid_levels(sdata, request.image_key))[0]
    if job.grid_um is not None:  # spots alone hold so many: too many are refused before they are laid out
        _check_size(job, len(spots.centers) * int(request.geometry.tile_um / job.grid_um) ** 2 // 2, CALLED["grid"])
    layout = lay_grid(spots, size, request.geometry.tile_um, job.grid_um)
    _check_size(job, len(layout.parents), CALLED["grid"])
    circles = plan_circles(sdata, made, request, layout, table_key=job.key, overwrite=job.overwrite)
    finer = replace(request, shapes_key=made, only_central=True)
    plan = plan_features(sdata, finer, placement=layout.placement)
    array = array_positions(sdata, request.shapes_key) if rule.kind == "box" else None
    neighbors = grid_neighbors(layout, spots, find_neighbors(spots.centers * spots.mpp, rule, array))
    add_circles(sdata, made, circles, what=f"{CALLED['grid']} over {request.shapes_key!r}")
    key = add_features(plan, device=job.device, batch_size=job.batch_size)
    features, centers = sdata.tables[key], layout.placement.centers
    bags = Bags(np.asarray(features.X, dtype=np.float32), features.obsm.get("subspots"), neighbors,
                (centers * spots.mpp).astype(np.float32))  # fmt: skip
    expression = predict_in_blocks(job.model, bags, device=job.device)
    return Predicted(
        np.maximum(expression, 0, out=expression), made, layout.placement.index, centers, key,
        np.arange(len(bags)), {"grid_um": layout.step * spots.mpp},
    )  # fmt: skip


def _check_size(job: Job, n: int, what: str) -> None:
    genes = len(job.model.card.genes)
    gb = n * genes * job.copies * np.dtype(np.float32).itemsize / 1e9
    if gb > settings.max_table_gb:
        raise ValueError(
            f"The prediction of {n:,} {what} × {genes:,} genes would take {gb:.1f} GB in memory, above "
            f"`ds.settings.max_table_gb` = {settings.max_table_gb:g}. Stream it to disk with `out='predicted.zarr'` "
            "(spots only), raise the limit, or predict a part of the spots."
        )
