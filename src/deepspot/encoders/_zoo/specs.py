"""Encoders whose weights others publish, as their authors' pages say; where others disagree, the note says so."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from deepspot._core.logging import logger
from deepspot.encoders._card import EncoderCard
from deepspot.errors import InputError


class Spec(BaseModel):
    """How an encoder of the zoo is built, and where its weights are.

    Attributes
    ----------
    card
        Describes it. `card.architecture` is the name of the network in its library.
    library, options
        Who builds the network, and what it is told: names and numbers, which are part of the fingerprint.
    repositories
        Hugging Face ids of the official weights; the first is downloaded from, the others are spellings in use.
    parameters
        Published number of parameters, in millions, without what `unused` leaves out.
    prefix_tokens
        Class token and registers, which come before the patch tokens.
    unused, stripped
        How tensors of a file begin that the embedding does not need, such as classifiers; and what the names of the
        others may begin with.
    weights_of
        Name of another encoder whose weights it takes, if not its own.
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
        """Name under which the weights lie in the folder of weights."""
        return self.weights_of or self.card.name


def _card(name: str, entry: dict[str, Any]) -> EncoderCard:
    fields = {key: value for key, value in entry.items() if key in EncoderCard.model_fields}
    page = entry["repositories"][0]
    return EncoderCard(name=name, source=f"Hugging Face: {page}", url=f"https://huggingface.co/{page}", **fields)


def _spec(name: str, entry: dict[str, Any]) -> Spec:
    rest = {key: value for key, value in entry.items() if key not in EncoderCard.model_fields}
    return Spec(card=_card(name, entry), **rest)


_ZOO = json.loads(Path(__file__).with_name("zoo.json").read_text(encoding="utf-8"))
SPECS = {name: _spec(name, entry) for name, entry in _ZOO["loaded"].items()}
REFUSED = {name: _card(name, entry) for name, entry in _ZOO["refused"].items()}
# Image models of lazyslide-models 0.1 whose source was read: networks of timm or transformers, weights as bare tensors.
READ = frozenset(_ZOO["lazyslide_models"])


def refusal(card: EncoderCard) -> ValueError:
    """Why an encoder is not loaded that only code of its repository could build, and what a user can do."""
    return InputError(
        f"Encoder {card.name!r} is not loaded: {card.remote_code}. Nothing that deepspot loads runs code. If you trust "
        f"that code, load the module yourself and make it an encoder with `ds.encoders.register(card, load)`; its page "
        f"is {card.url}, its license {card.license}."
    )


def log_license(card: EncoderCard) -> None:
    """Log the license of an encoder, once."""
    if card.name not in _logged:
        _logged.add(card.name)
        logger.info("Encoder %s: license of the weights %s, %s.", card.name, card.license, card.url)


_logged: set[str] = set()
