"""Encoders whose weights others publish: cards, networks, and how weights are found and read."""

from .hub import at_hand
from .load import Refused, Zoo
from .others import PREFIX, from_lazyslide
from .specs import IMAGENET, PATHOLOGY, REFUSED, Spec

SPECS = {spec.card.name: spec for spec in (*PATHOLOGY, *IMAGENET)}

__all__ = ["PREFIX", "REFUSED", "SPECS", "Refused", "Spec", "Zoo", "at_hand", "from_lazyslide"]
