"""Losses on spots × genes in which genes that a slide did not measure do not count."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from .config import Loss

LossFunction = Callable[[Tensor, Tensor, Tensor], Tensor]


def make_loss(name: Loss, mean: Tensor, std: Tensor) -> LossFunction:
    """Return a function of standardised prediction, standardised target and mask (1 where measured), all (n, genes).

    Parameters
    ----------
    name
        Which loss.
    mean, std
        Gene-wise standardisation (genes,), to return to expression where the loss is defined on it.
    """

    def poisson(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        # A sharp softplus keeps rates positive and leaves values above 0.1 as they are.
        rate = F.softplus(prediction * std + mean, beta=20)
        expression = (target * std + mean).clamp(min=0)
        return _mean(F.poisson_nll_loss(rate, expression, log_input=False, reduction="none"), mask)

    def mse_cosine(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
        return mse(prediction, target, mask) + cosine(prediction, target, mask)

    choices: dict[str, LossFunction] = {
        "mse": mse, "pearson": pearson, "cosine": cosine, "poisson": poisson, "mse_cosine": mse_cosine,
    }  # fmt: skip
    return choices[name]


def mse(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Mean squared error."""
    return _mean((prediction - target).square(), mask)


def cosine(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """One minus the cosine between predicted and measured genes of a spot."""
    return 1 - F.cosine_similarity(prediction * mask, target * mask, dim=1).mean()


def pearson(prediction: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """One minus the correlation across the genes of a spot, as in the published code."""
    return cosine(_centered(prediction, mask), _centered(target, mask), mask)


def _centered(values: Tensor, mask: Tensor) -> Tensor:
    return values - (values * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)


def _mean(values: Tensor, mask: Tensor) -> Tensor:
    return (values * mask).sum() / mask.sum().clamp(min=1)
