from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from deepspot._check import key_in

from ._card import EncoderCard
from ._lite0 import LITE0, LITE0_STATS, lite0, lite0_stats
from ._protocol import Encoder

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

DEFAULT = LITE0_STATS.name

_registry: dict[str, tuple[EncoderCard, Callable[[], Encoder]]] = {
    LITE0.name: (LITE0, lite0),
    LITE0_STATS.name: (LITE0_STATS, lite0_stats),
}
# Reading and hashing the weights of a large encoder takes seconds, so that it is done once.
_built: dict[str, Encoder] = {}


def available() -> pd.DataFrame:
    """List the encoders that can be named.

    Returns
    -------
    One row per encoder, with the fields of its card: `dim`, `input_px`, `mpp`, `licence`, `gated`, `source`, `note`.

    Examples
    --------
    >>> import deepspot as ds
    >>> ds.encoders.available().loc["lite0", "licence"]
    'Apache-2.0'
    """
    import pandas as pd

    return pd.DataFrame([card.model_dump() for card, _ in _registry.values()]).set_index("name")


def get(name: str | Encoder | None = None) -> Encoder:
    """Load an encoder.

    Parameters
    ----------
    name
        Name in the registry; None takes the embedded default; an encoder is handed back as it is.

    Returns
    -------
    An object with a `card`, a `fingerprint` and `encode(tiles)`.

    Raises
    ------
    KeyError
        If the name is not registered.
    TypeError
        If an object is given that is no encoder.

    Examples
    --------
    >>> import deepspot as ds
    >>> ds.encoders.get("lite0").card.dim
    1280
    """
    name = DEFAULT if name is None else name
    if isinstance(name, str):
        _, build = _registry[key_in(name, _registry, "ds.encoders.available()")]
        if name not in _built:
            _built[name] = build()
        return _built[name]
    if isinstance(name, Encoder):
        return name
    raise TypeError(
        f"{type(name).__name__} is no encoder: it needs `card`, `fingerprint`, `to(device)` and `encode(tiles)`. Wrap "
        "a torch module with `ds.encoders.register(card, load)`."
    )


def register(
    card: EncoderCard,
    load: Callable[[], nn.Module],
    *,
    transform: Callable[[Tensor], Tensor] | None = None,
    overwrite: bool = False,
) -> None:
    """Make a torch module available as an encoder.

    Parameters
    ----------
    card
        Name, dimension, input side, normalisation and licence.
    load
        Builds the module, which maps normalised RGB (n, 3, px, px) to embeddings (n, dim). Called on first use.
    transform
        Takes RGB in 0 to 1 (n, 3, px, px) to what the module wants; by default the card's mean and std.
    overwrite
        Replace an encoder of the same name.

    Raises
    ------
    ValueError
        If the name is taken.

    Examples
    --------
    >>> import deepspot as ds
    >>> from torch import nn
    >>> card = ds.encoders.EncoderCard(name="mean_colour", dim=3, input_px=32)
    >>> ds.encoders.register(card, lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), overwrite=True)
    >>> ds.encoders.get("mean_colour").card.dim
    3
    """
    if card.name in _registry and not overwrite:
        raise ValueError(f"Encoder {card.name!r} is registered already. Choose another name, or pass `overwrite=True`.")

    def build() -> Encoder:
        from ._torch import TorchEncoder

        return TorchEncoder(card, load(), transform)

    _registry[card.name] = (card, build)
    _built.pop(card.name, None)
