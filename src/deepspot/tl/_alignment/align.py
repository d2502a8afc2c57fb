"""The registration check on arrays: whether a measured field lies where a predicted one says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import pandas as pd

from deepspot._spatial.transforms import pitch_px
from deepspot.errors import InputError

from .moves import AS_IS, MIN_OVERLAP, Moves, make_moves
from .null import Agreement, block_noise, shuffles, standardize, surrogates

Verdict = Literal["aligned", "misaligned", "partly misaligned", "undecided"]

MIN_SPOTS = 20
# More spots and genes than these tell nothing more about where a slide lies, and take long.
MAX_SPOTS, MAX_GENES = 500, 200
N_CHANCE, N_BOOTSTRAP = 99, 1000
# A slide is only called aligned or misaligned if chance agrees so well this seldom.
CHANCE = 0.01
CONFIDENCE = 0.95
# A best place within one distance between spots is no other place: neighboring spots are alike.
NEAR = 1.0
WORDS = {
    "aligned": "measured spots lie where the image says",
    "misaligned": "measured spots do not lie where the image says",
    "partly misaligned": "some measured spots do not lie where the image says",
    "undecided": "the image does not tell whether measured spots lie right",
}


@dataclass(frozen=True, eq=False, repr=False)
class Alignment:
    """Where the measured spots of a slide fit its image best.

    Attributes
    ----------
    verdict
        ``"aligned"``: nothing is surely better than as they are, and the best place is at most one spot away.
        ``"misaligned"``: another place is better, by more than chance. ``"partly misaligned"``: so it is for some parts
        of the slide. ``"undecided"``: the prediction fits nowhere, or
        does not tell the places apart.
    table
        One row for each move: `symmetry`, shift `dx` and `dy` in µm (right and down in the image) and `dx_pitches` and
        `dy_pitches` in distances between spots, `overlap` (share of the spots that find a predicted one) and `r`, the
        agreement (NaN where under half overlap). The first row leaves the spots as they are.
    best
        Row number of the best move; where r is equal, a larger overlap is better.
    gain
        Its r minus that of the spots as they are.
    gain_low
        The gain is at least so large, with 95 % confidence and the choice among all moves allowed for.
    p_best, p_as_is
        How often chance fits so well anywhere, and as the spots are. Chance is of two kinds, shuffled spots and smooth
        fields that lie elsewhere (see :func:`deepspot.tl._alignment.null.surrogates`); the larger share counts.
    matrix
        (3, 3) affine of the best move, for columns of x, y and 1 in µm of the image: it takes the spots from where they
        are to where they fit best; of the slide as a whole, also where only parts of it lie wrongly.
    n_spots, n_genes, pitch
        What was compared: spots, genes, and the distance between spots in µm.
    misplaced
        Names of the parts of a partly misaligned slide that lie wrongly; they may overlap.
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
    pitch: float
    misplaced: tuple[str, ...] = ()

    @property
    def is_wrong(self) -> bool:
        """Whether the slide, or a part of it, surely lies wrongly."""
        return self.verdict in ("misaligned", "partly misaligned")

    @property
    def r(self) -> float:
        """Agreement of the best move."""
        return float(self.table["r"].iloc[self.best])

    @property
    def r_as_is(self) -> float:
        """Agreement of the spots as they are."""
        return float(self.table["r"].iloc[0])

    @property
    def move(self) -> str:
        """The best move in words."""
        return in_words(*self.table.loc[self.best, ["symmetry", "dx", "dy"]])

    def __repr__(self) -> str:
        as_is, moved = f"r {self.r_as_is:.2f} as they are", f"{self.r:.2f} when {self.move}"
        if self.best:
            as_is += ", " + (moved if self.verdict == "misaligned" else f"not surely better: {moved}")
        where = f" in the {', the '.join(self.misplaced)}" if self.misplaced else ""
        return f"{self.verdict.capitalize()}: {WORDS[self.verdict]}{where} ({as_is})"


def in_words(symmetry: str, dx: float, dy: float) -> str:
    """A move as a pathologist would say it."""
    shifts = [
        f"{abs(length):.0f} µm {backwards if length < 0 else forwards}"
        for length, forwards, backwards in ((dx, "right", "left"), (dy, "down", "up"))
        if round(abs(length)) > 0
    ]
    parts = [symmetry] if symmetry != AS_IS else []
    if shifts:
        parts.append("moved " + " and ".join(shifts))
    return " and then ".join(parts) or AS_IS


def align(
    measured: np.ndarray,
    measured_um: np.ndarray,
    predicted: np.ndarray,
    predicted_um: np.ndarray,
    *,
    max_shift: float = 3.0,
    confidence: float = CONFIDENCE,
    make: Callable[[np.ndarray, np.ndarray, float, float], Moves] = make_moves,
    seed: int = 0,
) -> Alignment:
    """Find the move of measured spots that fits a prediction best.

    Parameters
    ----------
    measured, predicted
        (n, genes) and (m, genes) log-expression of the same genes, that all vary.
    measured_um, predicted_um
        (n, 2) and (m, 2) centers in µm.
    max_shift
        Largest shift along x and along y, in distances between spots.
    confidence
        With which a gain has to be above 0.
    make
        Makes the moves to try.
    seed
        Of the sample of spots (where there are many), the bootstrap and the surrogates.
    """
    rng = np.random.default_rng(seed)
    pitch = pitch_px(predicted_um)
    if len(measured) > MAX_SPOTS:
        rows = rng.choice(len(measured), MAX_SPOTS, replace=False)
        measured, measured_um = measured[rows], measured_um[rows]
    moves = make(measured_um, predicted_um, pitch, max_shift)
    if moves.overlap[0] < MIN_OVERLAP:
        raise InputError(
            f"Only {moves.overlap[0]:.0%} of the measured spots have a predicted one at their place, at least "
            f"{MIN_OVERLAP:.0%} are needed. Predict all spots of the slide."
        )
    enough = np.flatnonzero(moves.overlap >= MIN_OVERLAP)
    a = standardize(measured)
    agreement = Agreement(moves.nearest[enough], standardize(predicted))
    r, certain = agreement.r(a), np.sqrt(moves.overlap[enough])
    # With fewer spots chance reaches a higher r, in proportion to the square root.
    best = int(np.argmax(r * certain))
    p_best, p_as_is = 0.0, 0.0
    for fields in (shuffles(a, N_CHANCE, rng), surrogates(a, measured_um, N_CHANCE, rng)):
        chance = np.stack([agreement.r(field) for field in fields])
        p_best = max(p_best, _share((chance * certain).max(axis=1), (r * certain)[best]))
        p_as_is = max(p_as_is, _share(chance[:, 0], r[0]))
    noise = block_noise(agreement.contributions(a), measured_um, pitch, N_BOOTSTRAP, rng)
    gain, gain_low = float(r[best] - r[0]), _at_least(r, noise, best, confidence)
    table = pd.DataFrame(
        {
            "symmetry": moves.symmetry,
            "dx": moves.shift[:, 0],
            "dy": moves.shift[:, 1],
            "dx_pitches": moves.shift[:, 0] / pitch,
            "dy_pitches": moves.shift[:, 1] / pitch,
            "overlap": moves.overlap,
            "r": np.nan,
        }
    )
    table.loc[enough, "r"] = r.astype(float)
    place = table.loc[enough[best]]
    near = place["symmetry"] == AS_IS and max(abs(place["dx_pitches"]), abs(place["dy_pitches"])) <= NEAR
    return Alignment(
        verdict=_verdict(gain_low, p_best, p_as_is, near=near),
        table=table,
        best=int(enough[best]),
        gain=gain,
        gain_low=gain_low,
        p_best=p_best,
        p_as_is=p_as_is,
        matrix=moves.matrix(int(enough[best])),
        n_spots=len(measured),
        n_genes=measured.shape[1],
        pitch=pitch,
    )


def _share(chance: np.ndarray, value: float) -> float:
    """How often chance reaches a value, the slide itself counted in."""
    return float(1 + (chance >= value).sum()) / (1 + len(chance))


def _at_least(r: np.ndarray, noise: np.ndarray, best: int, confidence: float) -> float:
    """Lower bound of the gain that holds for all moves at once, as the best of many is too good by chance."""
    if best == 0:
        return 0.0
    error = noise - noise[0]
    spread = error.std(axis=1)
    spread = np.where(spread > 0, spread, np.inf)
    largest = np.quantile((error / spread[:, None]).max(axis=0), confidence)
    return float(r[best] - r[0] - largest * spread[best])


def _verdict(gain_low: float, p_best: float, p_as_is: float, *, near: bool) -> Verdict:
    if gain_low > 0 and p_best <= CHANCE:
        return "misaligned"
    # As they are is one place and not the best of many, so it is held against chance in that one place. Where a place
    # far away fits better, though not surely, nobody can say that the spots lie right.
    return "aligned" if near and gain_low <= 0 and p_as_is <= CHANCE else "undecided"
