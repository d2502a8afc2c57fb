"""The ridge gate: whether the network is better than tuned ridge on units that neither has seen."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import BaseModel, ConfigDict

from deepspot._metrics import mean_r

from ._folds import Folds, Unit

WEIGHTS = np.array([0.0, 0.25, 0.5, 0.75, 1.0])
LEVEL = 0.9
UNITS = {"patients": "patients", "slides": "slides of one patient", "blocks": "blocks of one slide"}


class Gate(BaseModel):
    """What a network gained over tuned ridge on the same context features, and what was made of it.

    Attributes
    ----------
    unit, n
        What was held out in turn, and how many: patients; with one patient its slides; with one slide parts of it.
        Only patients say something of the next patient.
    r_ridge, r_network, r_used
        Mean Pearson r over genes within held-out slides, mean over units: of ridge, of the network alone, and of what
        predicts now.
    gain, low, high
        Of the network over ridge: the mean over units, and its 90 % interval (Student's t).
    blend_gain, blend_low, blend_high
        The same for the blend, whose weight is chosen on the other units, each in turn.
    weight
        Share of the network in the prediction; the rest is ridge.
    verdict
        ``"network"``, ``"blend"`` or ``"ridge"``: what predicts. A blend whose interval holds 0 gained on every unit.
    binding
        Whether the verdict was obeyed, or the network predicts whatever the verdict (presets that reproduce others).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    unit: Unit
    n: int
    r_ridge: float
    r_network: float
    r_used: float
    gain: float
    low: float
    high: float
    blend_gain: float
    blend_low: float
    blend_high: float
    weight: float
    verdict: Literal["network", "blend", "ridge"]
    binding: bool = True

    def __str__(self) -> str:
        reason = "its gain is beyond doubt" if self.blend_low > 0 else f"which gained on all of these {self.unit}"
        used = {
            "network": "the network predicts",
            "blend": f"a blend predicts ({self.weight:.0%} network), {reason}",
            "ridge": "no gain that is beyond doubt, so ridge predicts",
        }[self.verdict]
        if not self.binding:
            used = "the network predicts, as its preset says"
        blend = self.verdict == "blend" and self.binding
        gain, low, high = (
            (self.blend_gain, self.blend_low, self.blend_high) if blend else (self.gain, self.low, self.high)
        )
        return (
            f"r {self.r_used:.3f} on {self.n} held-out {UNITS[self.unit]}; {'blend' if blend else 'network'} over "
            f"tuned ridge {gain:+.3f} (90 % interval {low:+.3f} to {high:+.3f}): {used}"
        )


def judge(
    network: np.ndarray, ridge: np.ndarray, targets: np.ndarray, *, folds: Folds, slides: np.ndarray, binding: bool
) -> tuple[Gate, np.ndarray]:
    """Compare two out-of-fold predictions, and choose what shall predict.

    The network predicts alone if it is best alone and the lower 90 % bound of its gain is above 0. Else the best blend
    predicts if the bound of its gain is above 0 or it gained on every single unit; else ridge.

    The share of the network in a blend is chosen on all units; what the blend gains is measured on every unit with the
    share that is best on all others.

    Parameters
    ----------
    network, ridge
        (n, genes) predictions by fits that did not see the row's unit, NaN for rows that were never held out.
    targets
        (n, genes) what was measured.
    folds
        Units.
    slides
        (n,) r is computed within slides: shifts between them are no skill.
    binding
        Whether the network has to yield where its gain is not beyond doubt.

    Returns
    -------
    The gate, and the share of the network (n,) that a fit without the row's unit would have used.
    """
    held = np.concatenate([rows for _, rows in folds.splits])
    units = [held[folds.labels[held] == unit] for unit in np.unique(folds.labels[held])]
    r = np.array(
        [[mean_r(w * network[rows] + (1 - w) * ridge[rows], targets[rows], slides[rows]) for w in WEIGHTS]
         for rows in units]
    )  # fmt: skip
    gains = r - r[:, :1]
    # The first of equals is the one with more ridge; a blend holds some ridge, as a net under the network.
    best, alone = int(r[:, :-1].mean(axis=0).argmax()), int(r.mean(axis=0).argmax()) == len(WEIGHTS) - 1
    gain, low, high = interval(gains[:, -1])
    elsewhere = _chosen_elsewhere(r[:, :-1])
    fair = gains[np.arange(len(units)), elsewhere]
    blend_gain, blend_low, blend_high = interval(fair)
    verdict: Literal["network", "blend", "ridge"] = "ridge"
    if low > 0 and alone:
        verdict = "network"
    elif best > 0 and (blend_low > 0 or (fair > 0).all()):
        verdict = "blend"
    used = {"network": len(WEIGHTS) - 1, "blend": best, "ridge": 0}[verdict] if binding else len(WEIGHTS) - 1
    each = elsewhere if verdict == "blend" and binding else np.full(len(units), used)
    weights = np.zeros(len(targets))
    for rows, at in zip(units, each, strict=True):
        weights[rows] = WEIGHTS[at]
    gate = Gate(
        unit=folds.unit,
        n=len(units),
        r_ridge=float(r[:, 0].mean()),
        r_network=float(r[:, -1].mean()),
        r_used=float(r[np.arange(len(units)), each].mean()),
        gain=gain,
        low=low,
        high=high,
        blend_gain=blend_gain,
        blend_low=blend_low,
        blend_high=blend_high,
        weight=float(WEIGHTS[used]),
        verdict=verdict,
        binding=binding,
    )
    return gate, weights


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Mean of one value per unit (two or more), and its 90 % interval by Student's t, which knows how few they are."""
    from scipy.stats import t

    mean = float(values.mean())
    half = float(t.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return mean, mean - half, mean + half


def _chosen_elsewhere(r: np.ndarray) -> np.ndarray:
    """For every unit the weight that is best on all others."""
    return np.array([np.delete(r, unit, axis=0).mean(axis=0).argmax() for unit in range(len(r))])
