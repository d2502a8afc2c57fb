"""Registration check on arrays: the move of a measured field that fits a predicted one best."""

from __future__ import annotations

from dataclasses import dataclass, field
from html import escape
from typing import Literal

import numpy as np
import pandas as pd

from deepspot._spatial.transforms import pitch_px
from deepspot._stats.spatial_null import surrogates
from deepspot.errors import InputError

from .moves import AS_IS, MIN_OVERLAP, NEAR, make_moves
from .null import Agreement, block_noise, shuffles, standardize

Verdict = Literal["aligned", "misaligned", "partly misaligned", "undecided"]

MIN_SPOTS = 20
MAX_SPOTS, MAX_GENES = 500, 200  # more take long without changing the result
N_CHANCE, N_BOOTSTRAP = 99, 1000
CHANCE = 0.01  # largest p of the verdicts aligned and misaligned
CONFIDENCE = 0.95
MEANING = {
    "aligned": "measured spots match the image",
    "misaligned": "measured spots do not match the image",
    "partly misaligned": "some measured spots do not match the image",
    "undecided": "the image is not sufficient to decide whether measured spots match it",
}


@dataclass(frozen=True, eq=False, repr=False)
class Alignment:
    """Result of :func:`deepspot.tl.check_alignment`: the move of the measured spots that fits the image best.

    Attributes
    ----------
    verdict
        ``"aligned"``: no move is significantly better, and the best move is at most one spot. ``"misaligned"``: a move
        is significantly better. ``"partly misaligned"``: a move is better for some parts of the slide, by far more than
        on an aligned slide.
        ``"undecided"``: the prediction fits nowhere, or fits several places.
    table
        One row for each move: `symmetry`, shift `dx_um` and `dy_um` (to the right and down in the image), `dx_pitches`
        and `dy_pitches` in distances between spots, `overlap` (share of the measured spots with a predicted spot) and
        `r`, the correlation (NaN if the overlap is below half). The first row leaves the spots as they are.
    best
        Row number of the best move; if r is equal, a larger overlap is better.
    gain
        Its r minus that of the spots as they are.
    gain_low
        Lower 95 % confidence bound of the gain, corrected for the choice among all moves.
    p_best, p_as_is
        p-values of the best move and of the spots as they are: the share of null models that fit as well. The null
        models are permuted spots, and smooth fields at random positions (Moran spectral randomization); the larger
        share is reported.
    matrix
        (3, 3) affine of the best move of the whole slide, for column vectors of x, y and 1 in µm of the image. It
        moves the spots to the place that fits best.
    n_spots, n_genes, pitch_um
        Numbers of spots and genes that were compared, and distance between spots.
    misplaced
        Names of the misplaced parts of a partly misaligned slide; they may overlap.
    misplaced_spots
        Names (index of the shapes) of the spots of the misplaced part that stands out most.
    """

    verdict: Verdict
    table: pd.DataFrame
    best: int
    gain: float
    gain_low: float
    p_best: float
    p_as_is: float
    matrix: np.ndarray = field(compare=False)
    n_spots: int
    n_genes: int
    pitch_um: float
    misplaced: tuple[str, ...] = ()
    misplaced_spots: pd.Index = field(default_factory=lambda: pd.Index([]), compare=False)

    @property
    def is_misaligned(self) -> bool:
        """Whether the slide, or a part of it, is misaligned."""
        return self.verdict in ("misaligned", "partly misaligned")

    @property
    def r(self) -> float:
        """Correlation of the best move."""
        return float(self.table["r"].iloc[self.best])

    @property
    def r_as_is(self) -> float:
        """Correlation of the spots as they are."""
        return float(self.table["r"].iloc[0])

    @property
    def move(self) -> str:
        """Description of the best move."""
        return describe_move(*self.table.loc[self.best, ["symmetry", "dx_um", "dy_um"]])

    def __repr__(self) -> str:
        as_is, moved = f"r {self.r_as_is:.2f} without a move", f"{self.r:.2f} when {self.move}"
        if self.best:
            better = self.verdict == "misaligned" or (self.verdict == "partly misaligned" and self.gain_low > 0)
            as_is += ", " + (moved if better else f"not significantly better: {moved}")
        where = f" in the {', the '.join(self.misplaced)}" if self.misplaced else ""
        return f"{self.verdict.capitalize()}: {MEANING[self.verdict]}{where} ({as_is})"

    def _repr_html_(self) -> str:
        verdict, _, reason = repr(self).partition(":")
        numbers = f"{self.n_spots:,} spots, {self.n_genes:,} genes, spots {self.pitch_um:.0f} µm apart"
        return f"<p><b>{escape(verdict)}</b>:{escape(reason)}</p><p>{numbers}</p>"


def describe_move(symmetry: str, dx: float, dy: float) -> str:
    """Describe a move, such as "mirrored left-right and then moved 200 µm right"."""
    shifts = [
        f"{abs(length):.0f} µm {backwards if length < 0 else forwards}"
        for length, forwards, backwards in ((dx, "right", "left"), (dy, "down", "up"))
        if round(abs(length)) > 0
    ]
    steps = [symmetry] * (symmetry != AS_IS) + ["moved " + " and ".join(shifts)] * bool(shifts)
    return " and then ".join(steps) or AS_IS


def is_near(move: pd.Series) -> bool:
    """Return whether a move, a row of the table, is a shift by at most one spot."""
    return move["symmetry"] == AS_IS and max(abs(move["dx_pitches"]), abs(move["dy_pitches"])) <= NEAR


def align(
    measured: np.ndarray,
    measured_um: np.ndarray,
    predicted: np.ndarray,
    predicted_um: np.ndarray,
    *,
    max_shift: float = 3.0,
    seed: int = 0,
) -> Alignment:
    """Find the move of measured spots that fits a prediction best.

    Parameters
    ----------
    measured, predicted
        (n, genes) and (m, genes) log-expression of the same genes, which must vary.
    measured_um, predicted_um
        (n, 2) and (m, 2) centers in µm.
    max_shift
        Largest shift along x and y, in distances between spots.
    seed
        Seed of the sample of spots, the bootstrap and the null models.
    """
    rng = np.random.default_rng(seed)
    pitch = pitch_px(predicted_um)
    if len(measured) > MAX_SPOTS:
        rows = rng.choice(len(measured), MAX_SPOTS, replace=False)
        measured, measured_um = measured[rows], measured_um[rows]
    moves = make_moves(measured_um, predicted_um, pitch, max_shift)
    if moves.overlap[0] < MIN_OVERLAP:
        raise InputError(
            f"Only {moves.overlap[0]:.0%} of the measured spots have a prediction, at least {MIN_OVERLAP:.0%} are "
            "needed. Predict all spots of the slide."
        )
    enough = np.flatnonzero(moves.overlap >= MIN_OVERLAP)
    a = standardize(measured)
    agreement = Agreement(moves.nearest[enough], standardize(predicted))
    # With fewer spots, chance reaches a higher r, in proportion to the square root of their number.
    r, weight = agreement.r(a), np.sqrt(moves.overlap[enough])
    best = int(np.argmax(r * weight))
    p_best, p_as_is = 0.0, 0.0
    for fields in (shuffles(a, N_CHANCE, rng), surrogates(a, measured_um, N_CHANCE, rng)):
        chance = np.stack([agreement.r(field) for field in fields])
        p_best = max(p_best, _p_value((chance * weight).max(axis=1), (r * weight)[best]))
        p_as_is = max(p_as_is, _p_value(chance[:, 0], r[0]))
    noise = block_noise(agreement.contributions(a), measured_um, pitch, N_BOOTSTRAP, rng)
    gain, gain_low = float(r[best] - r[0]), _lower_bound(r, noise, best)
    table = pd.DataFrame({"symmetry": moves.symmetry, "dx_um": moves.shift[:, 0], "dy_um": moves.shift[:, 1]})
    table = table.assign(
        dx_pitches=table["dx_um"] / pitch, dy_pitches=table["dy_um"] / pitch, overlap=moves.overlap, r=np.nan
    )
    table.loc[enough, "r"] = r.astype(float)
    verdict: Verdict = "undecided"
    if gain_low > 0 and p_best <= CHANCE:
        verdict = "misaligned"
    # Not aligned if a distant place fits better, even if not significantly. `p_as_is` is for one place, not the best.
    elif gain_low <= 0 and p_as_is <= CHANCE and is_near(table.loc[enough[best]]):
        verdict = "aligned"
    return Alignment(
        verdict=verdict,
        table=table,
        best=int(enough[best]),
        gain=gain,
        gain_low=gain_low,
        p_best=p_best,
        p_as_is=p_as_is,
        matrix=moves.matrix(int(enough[best])),
        n_spots=len(measured),
        n_genes=measured.shape[1],
        pitch_um=pitch,
    )


def _p_value(chance: np.ndarray, value: float) -> float:
    return float(1 + (chance >= value).sum()) / (1 + len(chance))


def _lower_bound(r: np.ndarray, noise: np.ndarray, best: int) -> float:
    """Return a lower bound of the gain that holds for all moves simultaneously, since the best of many is selected."""
    if best == 0:
        return 0.0
    error = noise - noise[0]
    spread = error.std(axis=1)
    spread = np.where(spread > 0, spread, np.inf)
    largest = np.quantile((error / spread[:, None]).max(axis=0), CONFIDENCE)
    return float(r[best] - r[0] - largest * spread[best])
