"""Image encoders: tiles in, embeddings out."""

from ._card import Encoder, EncoderCard
from ._lazyslide import adapt
from ._registry import available, get, register

__all__ = ["Encoder", "EncoderCard", "adapt", "available", "get", "register"]
