"""Input of a network on whole slides, and the base of these networks. Imports torch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Self

import torch
from torch import Tensor, nn


def _nothing() -> Tensor:
    return torch.empty(0)


@dataclass(frozen=True, eq=False)
class SlidePart:
    """Spots of a slide, or of a rectangular part of it, that a network sees together.

    Attributes
    ----------
    inputs
        (n, d) embeddings; or tiles in the layout of the network, from 0 to 255.
    positions
        (n, 2) columns and rows of the spots in their array, from 0.
    edges
        (2, e) pairs of a spot and one of its neighbors.
    targets
        (n, genes) expression, 0 where it is not known. The arrays from here on are empty where they are not needed.
    weights
        (n, genes) weights of the targets in the loss, 0 where they are not known.
    counts
        (n, genes) counts, 0 where they are not known.
    size
        (n,) depth of the spots in units of the median of the slide.
    window
        (n, 25) numbers of the spots at the 5 × 5 places around a spot, -1 where there is none.
    target
        (n, t, d) features of the spot itself.
    present
        (n, t) which of these exist; empty if all do.
    rows
        (b,) spots of a training step, to which `targets` and `weights` then belong.
    """

    inputs: Tensor
    positions: Tensor
    edges: Tensor
    targets: Tensor = field(default_factory=_nothing)
    weights: Tensor = field(default_factory=_nothing)
    counts: Tensor = field(default_factory=_nothing)
    size: Tensor = field(default_factory=_nothing)
    window: Tensor = field(default_factory=_nothing)
    target: Tensor = field(default_factory=_nothing)
    present: Tensor = field(default_factory=_nothing)
    rows: Tensor = field(default_factory=_nothing)

    def __len__(self) -> int:
        return len(self.inputs)

    def to(self, device: torch.device) -> Self:
        """Return the part on a device, with tiles in float32."""
        return self._each(lambda values: values.to(device, torch.float32 if values.dtype == torch.uint8 else None))

    def double(self) -> Self:
        """Return the part in double precision."""
        return self._each(lambda values: values.double() if values.is_floating_point() else values)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Self:
        return type(self)(**{each.name: change(getattr(self, each.name)) for each in fields(self)})

    def squared_error(self, predicted: Tensor) -> Tensor:
        """Return the weighted mean squared error of a prediction (b, genes) over the known targets."""
        return (self.weights * (predicted - self.targets).square()).sum() / self.weights.sum()


class SlideNetwork(nn.Module):
    """Network that predicts the expression (n, genes) of the spots of a part together."""

    def loss(self, part: SlidePart) -> Tensor:
        """Return the loss of a training step: the mean squared error."""
        return part.squared_error(self(part))
