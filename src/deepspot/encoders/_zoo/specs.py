"""Specifications of encoders with published weights, from the pages of their authors. Notes state discrepancies."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from deepspot._core.logging import logger
from deepspot.encoders._card import EncoderCard
from deepspot.errors import InputError


class Spec(BaseModel):
    """Specification of an encoder of the zoo: its network and its weights.

    Attributes
    ----------
    card
        Card of the encoder. `card.architecture` is the name of the network in its library.
    library, options
        Library that builds the network, and its arguments, which are part of the fingerprint.
    repositories
        Hugging Face ids of the official weights. The first is downloaded; the others are alternative spellings.
    parameters
        Published number of parameters in millions, without those in `unused`.
    prefix_tokens
        Number of tokens before the patch tokens: class token and registers.
    unused, stripped
        Prefixes of the names of tensors that the embedding does not use, such as classifiers; prefix that is removed
        from the names of the others.
    weights_of
        Name of another encoder with the same weights.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    card: EncoderCard
    library: Literal["timm", "transformers"]
    options: dict[str, Any] = {}
    repositories: tuple[str, ...]
    parameters: float
    prefix_tokens: int = 1
    unused: tuple[str, ...] = ()
    stripped: str = ""
    weights_of: str = ""

    @property
    def folder(self) -> str:
        """Name of the weights in the folder of weights."""
        return self.weights_of or self.card.name


def _card(name: str, entry: dict[str, Any]) -> EncoderCard:
    fields = {key: value for key, value in entry.items() if key in EncoderCard.model_fields}
    page = entry["repositories"][0]
    return EncoderCard(name=name, source=f"Hugging Face: {page}", url=f"https://huggingface.co/{page}", **fields)


def _spec(name: str, entry: dict[str, Any]) -> Spec:
    fields = {key: value for key, value in entry.items() if key not in EncoderCard.model_fields}
    return Spec(card=_card(name, entry), **fields)


_ZOO = json.loads(Path(__file__).with_name("zoo.json").read_text(encoding="utf-8"))
SPECS = {name: _spec(name, entry) for name, entry in _ZOO["loaded"].items()}
REFUSED = {name: _card(name, entry) for name, entry in _ZOO["refused"].items()}
# Reviewed image models of lazyslide-models 0.1: networks of timm or transformers whose weights are plain tensors.
READ = frozenset(_ZOO["lazyslide_models"])


def refusal(card: EncoderCard) -> ValueError:
    """Return the error for an encoder that can be built only with code of its repository."""
    return InputError(
        f"Encoder {card.name!r} is not loaded: {card.remote_code}. deepspot runs no code from repositories. If "
        f"you trust that code, load the module yourself and register it with `ds.encoders.register(card, load)`; its "
        f"page is {card.url}, its license {card.license}."
    )


def log_license(card: EncoderCard) -> None:
    """Log the license of an encoder once per process."""
    if card.name not in _logged:
        _logged.add(card.name)
        logger.info("Encoder %s: the license of its weights is %s, see %s.", card.name, card.license, card.url)


_logged: set[str] = set()
