"""Encoders whose weights others publish: cards, networks, and how weights are found and read."""

from ._find import at_hand
from ._imagenet import SPECS as IMAGENET
from ._load import Refused, Zoo
from ._others import PREFIX, from_lazyslide
from ._pathology import SPECS as PATHOLOGY
from ._refused import REFUSED
from ._spec import Spec

SPECS = {spec.card.name: spec for spec in (*PATHOLOGY, *IMAGENET)}

__all__ = ["PREFIX", "REFUSED", "SPECS", "Refused", "Spec", "Zoo", "at_hand", "from_lazyslide"]
