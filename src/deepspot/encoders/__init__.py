"""Image encoders: tiles in, embeddings out."""

from ._card import EncoderCard
from ._lazyslide import adapt
from ._protocol import Encoder
from ._registry import available, get, register

__all__ = ["Encoder", "EncoderCard", "adapt", "available", "get", "register"]
