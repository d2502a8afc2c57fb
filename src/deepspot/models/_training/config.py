"""Configuration that `train` and `cross_validate` share: elements of the slides, scale, tiles and neighbors."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field

from deepspot._spatial.geometry import Stain, SubspotsFrom
from deepspot._stats.normalize import SCALES, Scale
from deepspot.errors import InputTypeError
from deepspot.models._network.config import changed

Config = TypeVar("Config", bound=BaseModel)


class SlideKeys(BaseModel):
    """Elements of every slide that are used, and the scale to which their counts are transformed.

    A key is needed only where a slide has several candidates.

    Attributes
    ----------
    image_key, shapes_key, table_key
        Image, spots, and table with the measured genes.
    layer
        Layer of the table with the raw counts; by default `X`.
    coordinate_system
        Coordinate system that relates spots and image, if they share several that disagree.
    nuclei_key
        Shapes of nuclei that are the sub-spots with ``tiles={"subspots": "nuclei"}``; by default ``<image>_nuclei``,
        those of :func:`deepspot.pp.nuclei`. The model keeps this name: slides that it predicts need nuclei of the same
        kind under the same name.
    features_key
        Feature table of every slide to use, whatever its fingerprint, such as that of
        :func:`deepspot.pp.use_features`. Nothing is embedded, and slides need no image. Encoder and tiles are those of
        the table.
    normalize
        Scale of the targets, and so of the predictions: ``"log1p_10k"`` is log1p of counts per 10,000, ``"log1p_cpm"``
        of counts per 1,000,000, and ``"log1p_counts"`` of the raw counts, as in HEST-Bench and STP-Bench. Raw counts
        contain the depth of a spot, which is partly an effect of the measurement. The card of the model and the
        predicted tables state the scale, and :func:`deepspot.tl.evaluate` and others transform counts to it.

    Examples
    --------
    >>> import deepspot as ds
    >>> ds.models.SlideKeys(table_key="counts").table_key
    'counts'
    >>> ds.models.SlideKeys(normalize="log1p_counts").scale.text
    'log1p of raw counts'
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    image_key: str | None = None
    shapes_key: str | None = None
    table_key: str | None = None
    layer: str | None = None
    coordinate_system: str | None = None
    nuclei_key: str | None = None
    features_key: str | None = None
    normalize: Literal["log1p_10k", "log1p_counts", "log1p_cpm"] = "log1p_10k"

    @property
    def scale(self) -> Scale:
        """Properties of the scale `normalize`."""
        return SCALES[self.normalize]


class TileConfig(BaseModel):
    """Tiles, sub-spots and neighbors that are embedded for every spot.

    Attributes
    ----------
    tile_um
        Side of a spot tile in µm; by default the diameter of the tissue that a spot measures.
    radius_um
        Radius in µm within which spots are neighbors; by default 1.5 times the distance between spots. On a slide with
        another distance, neighbors are sought where they are in the array of the training.
    max_neighbors
        Maximum number of neighbors within the radius; the nearest are kept.
    subspots
        Source of the sub-spot embeddings: ``"tiles"`` embeds a tile of each sub-spot (nine tenths of the work),
        ``"tokens"`` computes them in one pass with the tile of their spot, ``"nuclei"`` embeds a tile around each
        nucleus of a spot, see :func:`deepspot.pp.embed`. False embeds none, for comparisons of models that use none;
        :func:`deepspot.models.train` does not accept it.
    stain
        ``"macenko"`` normalizes the stains of every slide to a fixed reference, see :func:`deepspot.pp.embed`. The
        model keeps the reference, and normalizes the slides that it predicts.
    array_box
        Take as neighbors the spots within this number of rows and columns of the spot array (1 in the paper), unless
        `radius_um` is given. The presets ``"paper"`` and ``"published"`` of :func:`deepspot.models.train` set it.
    tiles_px
        Side in pixels of the tiles for models that learn from pixels, such as ``"stnet_finetuned"``. Only for
        :func:`deepspot.models.cross_validate`.

    Examples
    --------
    >>> import deepspot as ds
    >>> ds.models.TileConfig(radius_um=300).max_neighbors
    8
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    tile_um: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    radius_um: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    max_neighbors: int = Field(default=8, gt=0)
    subspots: SubspotsFrom | Literal[False] = "tiles"
    stain: Stain | None = None
    array_box: int | None = Field(default=None, gt=0)
    tiles_px: int | None = Field(default=None, gt=0)


class CardText(BaseModel):
    """Text fields of a model card that the user sets."""

    name: str = "deepspot"
    tissue: str = ""
    license: str = "unknown"

    model_config = ConfigDict(frozen=True, extra="forbid")


def as_config(kind: type[Config], value: Config | Mapping[str, Any] | None, argument: str) -> Config:
    """Return an argument that is a configuration, a mapping of some of its fields, or None for the defaults."""
    if isinstance(value, kind):
        return value
    if value is not None and not isinstance(value, Mapping):
        raise InputTypeError(
            f"`{argument}` must be a {kind.__name__} or a mapping with some of {list(kind.model_fields)}, got "
            f"{type(value).__name__}."
        )
    return changed(kind(), dict(value or {}), argument)
