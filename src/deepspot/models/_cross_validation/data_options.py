"""Settings of a grid that change the data of a model instead of its parameters."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from deepspot._core.keys import key_in
from deepspot._stats.normalize import LOG1P_10K, SCALES, Scale
from deepspot._stats.oversample import require
from deepspot.errors import InputTypeError
from deepspot.models._network.config import changed
from deepspot.models._training.config import TileConfig
from deepspot.models._training.targets import Oversample

if TYPE_CHECKING:
    from deepspot.encoders import Encoder


@dataclass(frozen=True)
class DataOptions:
    """What the bags and targets of a model depend on; arguments of :func:`deepspot.models.cross_validate`."""

    encoder: str | Encoder | None = None
    tiles: TileConfig = field(default_factory=TileConfig)
    oversample: Oversample | None = None
    normalize: str = LOG1P_10K.name

    @property
    def scale(self) -> Scale:
        """Scale of the targets."""
        return SCALES[self.normalize]

    @property
    def features(self) -> tuple[str | Encoder | None, TileConfig]:
        """What the bags depend on."""
        return self.encoder, self.tiles

    def changed(self, setting: Mapping[str, Any]) -> DataOptions:
        """Return the options with those in a setting of a grid; `tiles` there are fields that differ."""
        changes = {name: value for name, value in setting.items() if name in DATA}
        if "tiles" in changes:
            if not isinstance(changes["tiles"], Mapping):
                raise InputTypeError(
                    f"`tiles` in a grid must be a mapping such as {{'radius_um': 300}}, got {changes['tiles']!r}."
                )
            changes["tiles"] = changed(self.tiles, dict(changes["tiles"]), "tiles")
        if changes.get("oversample") is not None:
            require(changes["oversample"])
        if "normalize" in changes:
            key_in(changes["normalize"], SCALES, "scales")
        return replace(self, **changes)


DATA = tuple(DataOptions.__dataclass_fields__)
