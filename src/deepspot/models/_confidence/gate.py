"""Ridge gate: comparison of the network with tuned ridge on held-out units."""

from __future__ import annotations

from typing import Literal

import numpy as np
from pydantic import AliasChoices, BaseModel, ConfigDict, Field

from deepspot._stats.metrics import mean_r

from .folds import Folds, Unit

Verdict = Literal["network", "blend", "ridge"]
# Share of the network. On separate toy cohorts no rule for the share of the blend was better than one half, see
# docs/result_tables.md.
SHARES: dict[Verdict, float] = {"ridge": 0.0, "blend": 0.5, "network": 1.0}
LEVEL = 0.9
UNITS = {"patients": "patients", "slides": "slides of one patient", "blocks": "blocks of one slide"}


class Gate(BaseModel):
    """Gain of the network over tuned ridge on the same context features, and the resulting verdict.

    Attributes
    ----------
    unit, n
        Held-out unit and its number: patients; with one patient its slides; with one slide parts of it. Only patients
        measure accuracy on new patients.
    r_ridge, r_network, r_used
        Mean Pearson r over genes within held-out slides, mean over units: of ridge, of the network alone, and of the
        final predictor. The last one is slightly too high, because the predictor was chosen by these numbers.
    gain, low, high
        Gain in r of the network over ridge: mean over units, and its 90 % interval (Student's t).
    blend_gain, blend_low, blend_high
        The same for the blend, half network and half ridge.
    weight
        Share of the network in the prediction; the rest is ridge.
    verdict
        ``"network"``, ``"blend"`` or ``"ridge"``. It is ``"network"`` only if the interval of the gain is above 0.
    applied
        Whether the verdict selects the predictor. Otherwise the network predicts, as in presets of published models.
    rank
        Number of principal components of the targets on which the predictions are projected; None without projection.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=True)

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
    verdict: Verdict
    # Bundles of the first release name it "binding".
    applied: bool = Field(default=True, validation_alias=AliasChoices("applied", "binding"))
    rank: int | None = None

    def __str__(self) -> str:
        doubt = "its gain is significant" if self.blend_low > 0 else "its gain is not significant"
        used = {
            "network": "the network predicts",
            "blend": f"a blend predicts ({self.weight:.0%} network), {doubt}",
            "ridge": "no gain, so ridge predicts alone",
        }[self.verdict]
        what, gain, low, high = "blend", self.blend_gain, self.blend_low, self.blend_high
        if self.verdict == "network" or not self.applied:
            what, gain, low, high = "network", self.gain, self.low, self.high
        if not self.applied:
            used = "the network predicts, as the preset requires"
        return (
            f"r {self.r_used:.3f} on {self.n} held-out {UNITS[self.unit]}; {what} over tuned ridge {gain:+.3f} "
            f"(90 % interval {low:+.3f} to {high:+.3f}): {used}"
        )


def judge(
    network: np.ndarray, ridge: np.ndarray, targets: np.ndarray, *, folds: Folds, slides: np.ndarray, applied: bool
) -> Gate:
    """Compare the out-of-fold predictions of network and ridge for `targets` (n, genes), and choose the predictor.

    It is the network if it is better than its blend with ridge and the lower 90 % bound of its gain over ridge is above
    0; else the blend if it gains over ridge; else ridge. If not `applied`, the network predicts in any case. r is
    computed within `slides`, so that shifts between slides do not count.
    """
    units = folds.by_unit()
    r = {}
    for name, share in SHARES.items():
        mixed = share * network + (1 - share) * ridge
        r[name] = np.array([mean_r(mixed[rows], targets[rows], slides[rows]) for rows in units])
    gain, low, high = interval(r["network"] - r["ridge"])
    blend_gain, blend_low, blend_high = interval(r["blend"] - r["ridge"])
    verdict: Verdict = "blend" if blend_gain > 0 else "ridge"
    if low > 0 and gain > blend_gain:
        verdict = "network"
    used = verdict if applied else "network"
    return Gate(
        unit=folds.unit,
        n=len(units),
        r_ridge=float(r["ridge"].mean()),
        r_network=float(r["network"].mean()),
        r_used=float(r[used].mean()),
        gain=gain,
        low=low,
        high=high,
        blend_gain=blend_gain,
        blend_low=blend_low,
        blend_high=blend_high,
        weight=SHARES[used],
        verdict=verdict,
        applied=applied,
    )


def interval(values: np.ndarray) -> tuple[float, float, float]:
    """Return the mean of one value per unit (two or more), and its 90 % interval by Student's t."""
    from scipy.stats import t

    mean = float(values.mean())
    half = float(t.ppf((1 + LEVEL) / 2, len(values) - 1) * values.std(ddof=1) / np.sqrt(len(values)))
    return mean, mean - half, mean + half
