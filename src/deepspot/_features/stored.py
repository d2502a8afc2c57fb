"""Feature tables that are used whatever their fingerprint: named by the user, or made by other software."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.keys import FEATURES, UNS, key_in
from deepspot._core.logging import logger
from deepspot._sdata.tables import rows_of
from deepspot._spatial.geometry import TileGeometry
from deepspot._spatial.transforms import AGREE_PX
from deepspot.encoders import EncoderCard
from deepspot.errors import InputError

if TYPE_CHECKING:
    from deepspot._sdata.view import SlideView

IMPORTED = "imported"
"""Entry of ``uns["deepspot"]`` of features that were made elsewhere: their source. They have no fingerprint."""

SAME_TILE = 0.05
"""Tiles of the same number of pixels differ between slides, because the scale of a magnification is nominal."""


@dataclass(frozen=True, eq=False)
class StoredEncoder:
    """Encoder of features that are in a table already: its card, without weights.

    The fingerprint is empty if the features were made elsewhere.
    """

    card: EncoderCard
    fingerprint: str = ""

    def to(self, device: Any) -> StoredEncoder:
        """Return the encoder itself."""
        return self

    def encode(self, tiles: np.ndarray) -> np.ndarray:
        """Raise: there are no weights."""
        raise InputError(
            f"Only stored features of encoder {self.card.name!r} are used, and other tiles cannot be embedded. Pass "
            "the encoder as `encoder=`."
        )


@dataclass(frozen=True, eq=False)
class StoredFeatures:
    """A feature table of the spots of a view, in their order."""

    key: str
    encoder: StoredEncoder
    tile: TileGeometry
    subspots: bool  # whether it has those of all sub-spots
    imported: bool  # whether it was made elsewhere


def read_stored(view: SlideView, key: str) -> StoredFeatures:
    """Return a feature table by name; raise if its rows are not the spots, in their order and at their places."""
    table = view.sdata.tables[key_in(key, view.tables(FEATURES), f"feature tables of {view.shapes_key!r}")]
    if not np.array_equal(rows_of(table, view.shapes_key), view.index):
        raise InputError(
            f"The rows of feature table {key!r} are not the spots {view.shapes_key!r} in their order: one of them was "
            "filtered or sorted. Make the table again with `ds.pp.embed` or `ds.pp.use_features`."
        )
    if np.abs(np.asarray(table.obsm["spatial"]) - view.centers).max(initial=0) > AGREE_PX:
        raise InputError(
            f"Feature table {key!r} was made for other positions of the spots {view.shapes_key!r}. Make it again with "
            "`ds.pp.embed` or `ds.pp.use_features`."
        )
    made = table.uns[UNS]
    return StoredFeatures(
        key,
        StoredEncoder(EncoderCard.model_validate_json(made["encoder"]), str(made.get("encoder_fingerprint", ""))),
        TileGeometry.model_validate(made["geometry"]),
        made["subspots"] == "all",
        IMPORTED in made,
    )


def find_imported(
    view: SlideView, card: EncoderCard, tile: TileGeometry, *, subspots: bool, fingerprint: str
) -> StoredFeatures | None:
    """Return the features that were made elsewhere with an encoder and tile, by what their maker says, or None.

    A warning is logged if the encoder of the model has a `fingerprint`, which these features lack.
    """
    for key in view.tables(FEATURES):
        made = view.sdata.tables[key].uns[UNS]
        theirs = json.loads(made["encoder"])
        if IMPORTED not in made or (theirs["name"], theirs["dim"]) != (card.name, card.dim):
            continue
        side = made["geometry"]["tile_um"]
        if not same_tile(side, tile.tile_um):
            logger.info(
                "sdata.tables[%r] has tiles of %g µm and is not used: the model has %g.", key, side, tile.tile_um
            )
            continue
        if tile.stain is not None:
            logger.info("sdata.tables[%r] is not used: the model normalizes stains, and its maker is another.", key)
            continue
        if subspots:
            logger.info("sdata.tables[%r] has no sub-spots and is not used: the model needs them.", key)
            continue
        found = read_stored(view, key)
        if fingerprint:
            logger.warning(
                "Using sdata.tables[%r], which was made elsewhere. Whether it has the weights and the preprocessing of "
                "the model's encoder %r cannot be checked.",
                *(key, card.name),
            )
        return found
    return None


def same_tile(one_um: float, other_um: float) -> bool:
    """Return whether two tiles have the same side, up to the tolerance of a nominal magnification."""
    return abs(one_um / other_um - 1) <= SAME_TILE
