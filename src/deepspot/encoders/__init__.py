"""Image encoders, which compute an embedding of each tile."""

from ._card import Encoder, EncoderCard
from ._lazyslide import adapt
from ._registry import available, get, register

__all__ = ["Encoder", "EncoderCard", "adapt", "available", "get", "register"]
