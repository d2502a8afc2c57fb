"""Candidate moves of the measured spots: symmetries of the square, each with shifts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

AS_IS = "not moved"

# For column vectors of x (to the right) and y (downwards, as in an image).
SYMMETRIES: dict[str, np.ndarray] = {
    AS_IS: np.array([[1.0, 0.0], [0.0, 1.0]]),
    "mirrored left-right": np.array([[-1.0, 0.0], [0.0, 1.0]]),
    "mirrored up-down": np.array([[1.0, 0.0], [0.0, -1.0]]),
    "turned by half": np.array([[-1.0, 0.0], [0.0, -1.0]]),
    "turned clockwise": np.array([[0.0, -1.0], [1.0, 0.0]]),
    "turned anticlockwise": np.array([[0.0, 1.0], [-1.0, 0.0]]),
    "x and y swapped": np.array([[0.0, 1.0], [1.0, 0.0]]),
    "x and y swapped, turned by half": np.array([[0.0, -1.0], [-1.0, 0.0]]),
}

# Half a pitch reaches the rows of hexagonal arrays, which are 0.87 apart, and the center of an array of even size.
STEP = 0.5
# In pitches: inside an array, the nearest spot is at most 0.71 (square) or 0.58 (hexagonal) away.
TOLERANCE = 0.75
MIN_OVERLAP = 0.5
NEAR = 1.0  # pitches: moves up to this length count as the same place, because neighboring spots are similar


@dataclass(frozen=True, eq=False)
class Moves:
    """Candidate moves of n measured spots; the first leaves the spots as they are."""

    symmetry: np.ndarray  # (c,) name in `SYMMETRIES`
    shift: np.ndarray  # (c, 2) in µm, after the symmetry
    nearest: np.ndarray  # (c, n) the predicted spot nearest to each moved spot, -1 if there is none
    center: np.ndarray  # (2,) of the symmetries, in µm

    @property
    def overlap(self) -> np.ndarray:
        """Share (c,) of the measured spots with a predicted spot."""
        return (self.nearest >= 0).mean(axis=1)

    def matrix(self, number: int) -> np.ndarray:
        """Return the affine matrix (3, 3) of a move, for column vectors of x, y and 1 in µm."""
        linear = SYMMETRIES[self.symmetry[number]]
        affine = np.eye(3)
        affine[:2, :2] = linear
        affine[:2, 2] = self.center - linear @ self.center + self.shift[number]
        return affine


def make_moves(measured_um: np.ndarray, predicted_um: np.ndarray, pitch: float, max_shift: float) -> Moves:
    """Make the moves of a whole slide, centers (n, 2) and (m, 2), with shifts of up to `max_shift` pitches."""
    center = (predicted_um.min(axis=0) + predicted_um.max(axis=0)) / 2
    shifts = dict.fromkeys(SYMMETRIES, _shifts(max_shift, STEP, pitch))
    return _apply(measured_um, predicted_um, center, pitch, shifts)


def make_few_moves(measured_um: np.ndarray, predicted_um: np.ndarray, pitch: float, max_shift: float) -> Moves:
    """Make the moves of a part of a slide: whole pitches, and symmetries about its center with one pitch at most.

    A part has few spots, which would match somewhere by chance with the many moves of a whole slide.
    """
    center = (measured_um.min(axis=0) + measured_um.max(axis=0)) / 2
    shifts = dict.fromkeys(SYMMETRIES, _shifts(min(1.0, max_shift), 1.0, pitch))
    return _apply(measured_um, predicted_um, center, pitch, shifts | {AS_IS: _shifts(max_shift, 1.0, pitch)})


def _shifts(largest: float, step: float, pitch: float) -> np.ndarray:
    steps = int(largest / step + 1e-9)
    grid = np.stack(np.meshgrid(*[np.arange(-steps, steps + 1)] * 2), axis=-1).reshape(-1, 2)
    # Short shifts first: they win ties.
    return grid[np.argsort((grid**2).sum(axis=1), kind="stable")] * step * pitch


def _apply(
    measured_um: np.ndarray, predicted_um: np.ndarray, center: np.ndarray, pitch: float, shifts: dict[str, np.ndarray]
) -> Moves:
    from scipy.spatial import cKDTree

    tree, nearest = cKDTree(predicted_um), []
    for symmetry, by in shifts.items():
        moved = (measured_um - center) @ SYMMETRIES[symmetry].T + center + by[:, None]
        distance, spot = tree.query(moved, distance_upper_bound=TOLERANCE * pitch)
        nearest.append(np.where(np.isfinite(distance), spot, -1))
    names = np.repeat(np.array(list(shifts), dtype=object), [len(by) for by in shifts.values()])
    return Moves(names, np.concatenate(list(shifts.values())), np.concatenate(nearest), center)
