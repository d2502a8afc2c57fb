"""The card of a bundle without its weights: what lists and downloads need."""

from __future__ import annotations

from pathlib import Path

from deepspot.models._card import ModelCard

from ._card_file import read_content, understood
from ._files import CARD, opened
from ._header import most_bytes, shapes_of


def read_card(path: Path) -> ModelCard:
    """Read and check the card of a bundle."""
    with opened(path) as files:
        card = understood(read_content(files), files.named(CARD))
        shapes_of(card, files.named(CARD))
    return card


def largest(card: ModelCard) -> int:
    """Most bytes that the weights of a model may have."""
    return most_bytes(shapes_of(card, CARD), card.dim)
