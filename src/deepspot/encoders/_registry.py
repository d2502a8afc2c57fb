from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from deepspot._core.keys import key_in
from deepspot.errors import InputError, InputTypeError

from ._card import Encoder, EncoderCard
from ._lazyslide import PREFIX, adapt, from_lazyslide
from ._lite0 import LITE0, LITE0_STATS, lite0, lite0_stats
from ._zoo.find import find_weights, local_weights
from ._zoo.specs import REFUSED, SPECS, Spec, refusal
from ._zoo.weights import load

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

DEFAULT = LITE0_STATS.name

# Cards, and what the encoders are made of: a function, weights that others publish, or nothing for those refused.
_registry: dict[str, tuple[EncoderCard, Callable[[], Encoder] | Spec | None]] = {
    LITE0.name: (LITE0, lite0),
    LITE0_STATS.name: (LITE0_STATS, lite0_stats),
    **{name: (spec.card, spec) for name, spec in SPECS.items()},
    **{name: (card, None) for name, card in REFUSED.items()},
}
# Reading and hashing the weights of a large encoder takes seconds, so that it is done once. By name, with what it was
# built of: of other weights for the same name only the last are kept in memory.
_built: dict[str, tuple[object, Encoder]] = {}


def available() -> pd.DataFrame:
    """List the encoders that can be named.

    Besides these there are the image models of lazyslide-models, as ``"lazyslide:<key>"``.

    Returns
    -------
    One row per encoder, with the fields of its card (`dim`, `input_px`, `mpp`, `license`, `gated`, `source`, `url`,
    `note` and more), and `ready`: whether its weights are on this machine. `remote_code` says why one is refused.

    Examples
    --------
    >>> import deepspot as ds
    >>> ds.encoders.available().loc["lite0", ["license", "ready"]].tolist()
    ['Apache-2.0', True]
    >>> ds.encoders.available().loc["uni", ["dim", "gated"]].tolist()
    [1024, True]
    """
    import pandas as pd

    def ready(source: object) -> bool:
        return local_weights(source) is not None if isinstance(source, Spec) else source is not None

    rows = [card.model_dump() | {"ready": ready(source)} for card, source in _registry.values()]
    return pd.DataFrame(rows).set_index("name")


def card_named(name: str) -> EncoderCard | None:
    """Card of an encoder in the registry, without building it; None if there is none of that name."""
    return _registry[name][0] if name in _registry else None


def get(name: str | Encoder | None = None, *, weights: str | Path | None = None, token: str | None = None) -> Encoder:
    """Load an encoder.

    Parameters
    ----------
    name
        Name in the registry; None takes the embedded default; an encoder is handed back as it is; an image model of
        LazySlide becomes one, see :func:`deepspot.encoders.adapt`. ``"lazyslide:<key>"`` takes an image model of the
        registry of lazyslide-models, which finds and loads its weights itself.
    weights
        File or folder of weights, or the Hugging Face id ``"org/name"`` of a copy. By default they are looked for in
        `settings.weights_dir`, then in the cache of Hugging Face, then downloaded into that cache.
    token
        Token of Hugging Face for weights that access has to be asked for; by default the one in the environment
        variable HF_TOKEN or stored on the machine. It is used for this call only.

    Returns
    -------
    An object with a `card`, a `fingerprint` and `encode(tiles)`.

    Raises
    ------
    KeyError
        If the name is not registered.
    TypeError
        If an object is given that is no encoder.
    ValueError
        If a file does not hold the weights of this encoder, or the encoder could only be built by code from its
        repository, which is never run.
    FileNotFoundError
        If there is no such file, folder or repository.
    PermissionError
        If access to the weights has to be asked for.
    ConnectionError
        If the weights are not here and cannot be downloaded.
    ImportError
        If a library is missing: ``pip install "deepspot[zoo]"``.

    Examples
    --------
    >>> import deepspot as ds
    >>> ds.encoders.get("lite0").card.dim
    1280
    >>> ds.encoders.get("uni", weights="/data/uni/pytorch_model.bin")  # doctest: +SKIP
    >>> ds.encoders.get("phikon")  # doctest: +SKIP
    """
    name = DEFAULT if name is None else name
    if isinstance(name, str):
        return _by_name(name, weights, token)
    if weights is not None:
        raise InputError("`weights` goes with the name of an encoder, but an encoder was given. Leave it out.")
    if isinstance(name, Encoder):
        return name
    if hasattr(name, "encode_image"):
        return adapt(name)
    raise InputTypeError(
        f"{type(name).__name__} is no encoder: it needs `card`, `fingerprint`, `to(device)` and `encode(tiles)`. Wrap "
        "a torch module with `ds.encoders.register(card, load)`."
    )


def _by_name(name: str, weights: str | Path | None, token: str | None) -> Encoder:
    source = _source(name)
    if isinstance(source, Spec):
        path = find_weights(source, weights, token)
        stat = path.stat()
        return _once(name, (path, stat.st_size, stat.st_mtime_ns), partial(load, source, path))
    if weights is not None or (token is not None and name.startswith(PREFIX)):
        raise InputError(
            f"Encoder {name!r} finds its weights itself: leave `weights` and `token` out. A token can be given in the "
            "environment variable HF_TOKEN."
        )
    return _once(name, None, source)


def _source(name: str) -> Callable[[], Encoder] | Spec:
    if name.startswith(PREFIX):
        return partial(from_lazyslide, name)
    card, source = _registry[key_in(name, _registry, "ds.encoders.available()")]
    if source is None:
        raise refusal(card)
    return source


def _once(name: str, made_of: object, build: Callable[[], Encoder]) -> Encoder:
    if name not in _built or _built[name][0] != made_of:
        _built.pop(name, None)
        _built[name] = (made_of, build())
    return _built[name][1]


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
        Name, dimension, input side, normalization and license.
    load
        Builds the module, which maps normalized RGB (n, 3, px, px) to embeddings (n, dim). Called on first use. If it
        has a method `with_map`, sub-spots can be embedded with ``subspots="tokens"``: that method gives the same
        embeddings, and a map of the tile (n, rows, columns, dim). The average over a part of the map is taken as the
        embedding of that part of the tile.
    transform
        Takes RGB in 0 to 1 (n, 3, px, px) to what the module wants; by default the card's mean and std.
    overwrite
        Replace an encoder of the same name. Those that are refused can be replaced without.

    Raises
    ------
    ValueError
        If the name is taken.

    Examples
    --------
    >>> import deepspot as ds
    >>> from torch import nn
    >>> card = ds.encoders.EncoderCard(name="mean_color", dim=3, input_px=32)
    >>> ds.encoders.register(card, lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), overwrite=True)
    >>> ds.encoders.get("mean_color").card.dim
    3
    """
    if not overwrite and _registry.get(card.name, (card, None))[1] is not None:
        raise InputError(f"Encoder {card.name!r} is registered already. Choose another name, or pass `overwrite=True`.")

    def build() -> Encoder:
        from ._torch import MapEncoder, TorchEncoder

        module = load()
        return (MapEncoder if hasattr(module, "with_map") else TorchEncoder)(card, module, transform)

    _registry[card.name] = (card, build)
    _built.pop(card.name, None)
