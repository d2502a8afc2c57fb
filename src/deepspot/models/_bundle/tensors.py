"""The numbers of a bundle: how they are written, and whether what was read can be those of a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deepspot.models._confidence.ood import LEAST

if TYPE_CHECKING:
    from torch import Tensor

# Small, and what everything else is scaled with: never in float16.
EXACT = {"scaler.mean", "scaler.std", "ridge.mean", "ridge.std", "novelty.threshold"}
# Products of weights beyond it, summed over an embedding, overflow.
LARGEST = 1e9


def stored(tensors: dict[str, Tensor], *, half: bool) -> dict[str, Tensor]:
    """Tensors as a bundle keeps them: in float32, or with `half` the large ones in float16."""
    return {
        name: (value.half() if half and name not in EXACT else value.float()).contiguous()
        for name, value in tensors.items()
    }


def check_tensors(tensors: dict[str, Tensor], file: str) -> None:
    """Raise if the numbers in a file are none of a model; names and shapes are those that its card asks for."""
    import torch

    if not all(torch.isfinite(value).all() for value in tensors.values()):
        raise ValueError(f"{file} holds weights that are not finite. Get a new copy.")
    largest = max(float(value.abs().max()) for value in tensors.values())
    if largest > LARGEST:
        raise ValueError(f"{file} holds weights as large as {largest:.0e}, which no model has. Get a new copy.")
    if any((tensors[name] <= 0).any() for name in ("scaler.std", "ridge.std") if name in tensors):
        raise ValueError(f"{file} holds a scale that is not positive. Get a new copy.")
    if "novelty.core" in tensors:
        core, threshold = tensors["novelty.core"], tensors["novelty.threshold"]
        # Lengths are 1, but for float16, or 0, else the distances are none; thresholds are what a fit makes.
        if threshold < torch.tensor(LEAST) or (core.norm(dim=1) > 1.01).any():
            raise ValueError(f"{file} does not fit its card: its 'novelty' is no set of embeddings with a distance.")
