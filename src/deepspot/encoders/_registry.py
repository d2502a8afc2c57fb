from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from deepspot._core.keys import key_in
from deepspot.errors import InputError, InputTypeError

from ._card import Encoder, EncoderCard
from ._lazyslide import PREFIX, adapt, from_lazyslide
from ._lite0 import LITE0, LITE0_STATS, LITE0_STATS_336, lite0, lite0_stats, lite0_stats_336
from ._zoo.find import find_weights, local_weights
from ._zoo.specs import REFUSED, SPECS, Spec, refusal
from ._zoo.weights import load

if TYPE_CHECKING:
    import pandas as pd
    from torch import Tensor, nn

DEFAULT = LITE0_STATS.name

# Card and source of each encoder: a function that builds it, a Spec of published weights, or None (refused).
_registry: dict[str, tuple[EncoderCard, Callable[[], Encoder] | Spec | None]] = {
    LITE0.name: (LITE0, lite0),
    LITE0_STATS.name: (LITE0_STATS, lite0_stats),
    LITE0_STATS_336.name: (LITE0_STATS_336, lite0_stats_336),
    **{name: (spec.card, spec) for name, spec in SPECS.items()},
    **{name: (card, None) for name, card in REFUSED.items()},
}
# Cache of built encoders by name, with the source they were built from, because reading and hashing large weights
# takes seconds. Only the last weights of a name are kept in memory.
_built: dict[str, tuple[object, Encoder]] = {}


def available() -> pd.DataFrame:
    """List the registered encoders.

    Image models of lazyslide-models are available in addition, as ``"lazyslide:<key>"``.

    Returns
    -------
    One row per encoder, with the fields of its card (`dim`, `input_px`, `mpp`, `license`, `gated`, `source`, `url`,
    `note` and others), and `ready`: whether its weights are on this machine. `remote_code` is the reason if an encoder
    is refused.

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
    """Return the card of a registered encoder without building it, or None."""
    return _registry[name][0] if name in _registry else None


# Names of registered encoders in TRIDENT and in LazySlide.
_ELSEWHERE = {
    "uni_v1": "uni",
    "uni_v2": "uni2-h",
    "uni2": "uni2-h",
    "gigapath": "prov-gigapath",
    "hoptimus0": "h-optimus-0",
    "hoptimus1": "h-optimus-1",
    "phikon_v2": "phikon-v2",
    "phikonv2": "phikon-v2",
    "conch_v15": "conch_v1_5",
    "midnight12k": "midnight",
}


def registered_name(name: str) -> str:
    """Return the name in the registry of an encoder that TRIDENT or LazySlide names; other names are unchanged."""
    return _ELSEWHERE.get(name, name)


def get(name: str | Encoder | None = None, *, weights: str | Path | None = None, token: str | None = None) -> Encoder:
    """Load an encoder.

    Parameters
    ----------
    name
        Name in the registry; None selects the embedded default. ``"lazyslide:<key>"`` selects an image model of the
        registry of lazyslide-models, which loads its own weights. An encoder is returned unchanged. An image model
        object of LazySlide is converted with :func:`deepspot.encoders.adapt`.
    weights
        File or folder of weights, or the Hugging Face id ``"org/name"`` of a copy. By default the weights are searched
        in `settings.weights_dir`, then in the cache of Hugging Face, and then downloaded into that cache.
    token
        Hugging Face token for gated weights; by default the one in the environment variable HF_TOKEN or stored on the
        machine. It is used for this call only.

    Returns
    -------
    An object with a `card`, a `fingerprint` and `encode(tiles)`.

    Raises
    ------
    KeyError
        If the name is not registered.
    TypeError
        If `name` is an object that is not an encoder.
    ValueError
        If a file does not contain the weights of this encoder, or building the encoder would run code from its
        repository.
    FileNotFoundError
        If the file, folder or repository does not exist.
    PermissionError
        If access to the weights must be requested.
    ConnectionError
        If the weights are not on this machine and cannot be downloaded.
    ImportError
        If a library is not installed: ``pip install ".[zoo]"``.

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
        raise InputError(
            "`weights` can only be combined with the name of an encoder, but an encoder was passed. Omit it."
        )
    if isinstance(name, Encoder):
        return name
    if hasattr(name, "encode_image"):
        return adapt(name)
    raise InputTypeError(
        f"{type(name).__name__} is not an encoder: it needs `card`, `fingerprint`, `to(device)` and `encode(tiles)`. "
        "Wrap a torch module with `ds.encoders.register(card, load)`."
    )


def _by_name(name: str, weights: str | Path | None, token: str | None) -> Encoder:
    source = _source(name)
    if isinstance(source, Spec):
        path = find_weights(source, weights, token)
        stat = path.stat()
        return _build_once(name, (path, stat.st_size, stat.st_mtime_ns), partial(load, source, path))
    if weights is not None or (token is not None and name.startswith(PREFIX)):
        raise InputError(
            f"Encoder {name!r} loads its own weights: omit `weights` and `token`. A token can be set in the "
            "environment variable HF_TOKEN."
        )
    return _build_once(name, None, source)


def _source(name: str) -> Callable[[], Encoder] | Spec:
    if name.startswith(PREFIX):
        return partial(from_lazyslide, name)
    card, source = _registry[key_in(name, _registry, "ds.encoders.available()")]
    if source is None:
        raise refusal(card)
    return source


def _build_once(name: str, origin: object, build: Callable[[], Encoder]) -> Encoder:
    if name not in _built or _built[name][0] != origin:
        _built.pop(name, None)
        _built[name] = (origin, build())
    return _built[name][1]


def register(
    card: EncoderCard,
    load: Callable[[], nn.Module],
    *,
    transform: Callable[[Tensor], Tensor] | None = None,
    overwrite: bool = False,
) -> None:
    """Register a torch module as an encoder.

    Parameters
    ----------
    card
        Name, dimension, input side, normalization and license.
    load
        Function that builds the module, called on first use. The module maps normalized RGB (n, 3, px, px) to
        embeddings (n, dim). If it has a method `with_map`, sub-spots can be embedded with ``subspots="tokens"``. That
        method returns the same embeddings and a feature map of the tile (n, rows, columns, dim); the average over a
        part of the map is the embedding of that part of the tile.
    transform
        Function that preprocesses RGB in 0 to 1 (n, 3, px, px); by default normalization by the card's mean and std.
    overwrite
        Replace an encoder of the same name. Refused encoders can be replaced without it.

    Raises
    ------
    ValueError
        If the name is already registered.

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
        raise InputError(f"Encoder {card.name!r} is already registered. Choose another name, or pass `overwrite=True`.")

    def build() -> Encoder:
        from ._torch import MapEncoder, TorchEncoder

        module = load()
        return (MapEncoder if hasattr(module, "with_map") else TorchEncoder)(card, module, transform)

    _registry[card.name] = (card, build)
    _built.pop(card.name, None)
