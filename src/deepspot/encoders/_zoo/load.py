from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from deepspot._core.hashing import digest
from deepspot._core.logging import logger
from deepspot.encoders._card import EncoderCard

from .hub import find
from .specs import Spec

if TYPE_CHECKING:
    from deepspot.encoders._torch import MapEncoder

_told: set[str] = set()


class Zoo:
    """Loads one encoder of the zoo."""

    def __init__(self, spec: Spec) -> None:
        self.spec = spec

    def find(self, weights: str | Path | None, token: str | None) -> Path:
        """File with the weights."""
        return find(self.spec, weights, token)

    def load(self, path: Path) -> MapEncoder:
        """Encoder with the weights in a file, which are checked first."""
        from deepspot.encoders._torch import MapEncoder

        from .build import model_class
        from .fill import check_finite, content, fill, needed
        from .pooling import Pooled
        from .read import read

        spec = self.spec
        if spec.library == "transformers":
            model_class(spec.card.architecture)  # what is not installed is said before gigabytes are read
        tensors = needed(read(path), spec)
        check_finite(tensors, path)
        module = Pooled(fill(spec, tensors, path), spec.card.pooling, spec.prefix_tokens)
        tell_licence(spec.card)
        return MapEncoder(spec.card, module, identity=identity(spec, content(tensors)))


class Refused:
    """Stands for an encoder that only code of its repository could build."""

    def __init__(self, card: EncoderCard) -> None:
        self.card = card

    def find(self, weights: str | Path | None, token: str | None) -> NoReturn:
        """Say why not."""
        raise refusal(self.card)

    load = find


def refusal(card: EncoderCard) -> ValueError:
    """Why an encoder is not loaded, and what a user can do."""
    return ValueError(
        f"Encoder {card.name!r} is not loaded: {card.remote_code}. Nothing that deepspot loads runs code. If you trust "
        f"that code, load the module yourself and make it an encoder with `ds.encoders.register(card, load)`; its page "
        f"is {card.url}, its licence {card.licence}."
    )


def identity(spec: Spec, weights: str) -> str:
    """Network, pooling and weights, in words that do not change with the library that builds the network."""
    network = [spec.card.architecture, spec.options, spec.card.pooling, spec.prefix_tokens]
    return f"zoo 1, {digest(network)}, {weights}"


def tell_licence(card: EncoderCard) -> None:
    """Say the licence of an encoder, once."""
    if card.name not in _told:
        _told.add(card.name)
        logger.info("Encoder %s: licence of the weights %s, %s.", card.name, card.licence, card.url)
