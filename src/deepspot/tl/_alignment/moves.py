"""The ways in which a slide may have been laid on its image wrongly: symmetries of the square, each with shifts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

AS_IS = "as they are"

# x to the right and y downwards, as in an image; a point is a column.
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

# Half a pitch finds the rows of hexagonal arrays, which are 0.87 apart, and the middle of an array with an even side.
STEP = 0.5
# In units of the pitch: nowhere inside an array of squares is the nearest spot farther away than 0.71 (hexagons: 0.58).
TOLERANCE = 0.75
MIN_OVERLAP = 0.5


@dataclass(frozen=True, eq=False)
class Moves:
    """Candidate moves of n measured spots over the predicted ones.

    Attributes
    ----------
    symmetry
        (c,) name in :data:`SYMMETRIES`; the first move leaves the spots where they are.
    shift
        (c, 2) µm by which x and y are shifted after the symmetry.
    nearest
        (c, n) the predicted spot nearest to every moved spot, -1 where there is none.
    middle
        (2,) point in µm about which the symmetries turn and mirror.
    """

    symmetry: np.ndarray
    shift: np.ndarray
    nearest: np.ndarray
    middle: np.ndarray

    @property
    def overlap(self) -> np.ndarray:
        """Share (c,) of the measured spots that find a predicted one."""
        return (self.nearest >= 0).mean(axis=1)

    def matrix(self, number: int) -> np.ndarray:
        """Affine matrix (3, 3) of a move, for columns of x, y and 1 in µm."""
        linear = SYMMETRIES[self.symmetry[number]]
        affine = np.eye(3)
        affine[:2, :2] = linear
        affine[:2, 2] = self.middle - linear @ self.middle + self.shift[number]
        return affine


def make_moves(measured_um: np.ndarray, predicted_um: np.ndarray, pitch: float, max_shift: float) -> Moves:
    """Lay measured spots over predicted ones in every way.

    Parameters
    ----------
    measured_um, predicted_um
        (n, 2) and (m, 2) centers in µm.
    pitch
        Distance between spots in µm.
    max_shift
        Largest shift along x and along y, in pitches.
    """
    middle = (predicted_um.min(axis=0) + predicted_um.max(axis=0)) / 2
    shifts = _shifts(max_shift, STEP, pitch)
    return _lay(measured_um, predicted_um, middle, pitch, dict.fromkeys(SYMMETRIES, shifts))


def make_few_moves(measured_um: np.ndarray, predicted_um: np.ndarray, pitch: float, max_shift: float) -> Moves:
    """Lay a part of a slide over the prediction: in whole pitches, and turned or mirrored about the part's own middle.

    With the moves of a whole slide chance would fit the few spots of a part well somewhere.

    Parameters
    ----------
    measured_um, predicted_um, pitch, max_shift
        As in :func:`make_moves`; what is turned is shifted by one pitch at most.
    """
    middle = (measured_um.min(axis=0) + measured_um.max(axis=0)) / 2
    turned = _shifts(min(1.0, max_shift), 1.0, pitch)
    shifts = dict.fromkeys(SYMMETRIES, turned) | {AS_IS: _shifts(max_shift, 1.0, pitch)}
    return _lay(measured_um, predicted_um, middle, pitch, shifts)


def _shifts(largest: float, step: float, pitch: float) -> np.ndarray:
    steps = int(largest / step + 1e-9)
    grid = np.stack(np.meshgrid(*[np.arange(-steps, steps + 1)] * 2), axis=-1).reshape(-1, 2)
    # The smaller move comes first, and so wins a tie.
    return grid[np.argsort((grid**2).sum(axis=1), kind="stable")] * step * pitch


def _lay(
    measured_um: np.ndarray, predicted_um: np.ndarray, middle: np.ndarray, pitch: float, shifts: dict[str, np.ndarray]
) -> Moves:
    from scipy.spatial import cKDTree

    tree, nearest = cKDTree(predicted_um), []
    for symmetry, by in shifts.items():
        moved = (measured_um - middle) @ SYMMETRIES[symmetry].T + middle + by[:, None]
        distance, found = tree.query(moved, distance_upper_bound=TOLERANCE * pitch)
        nearest.append(np.where(np.isfinite(distance), found, -1))
    names = np.repeat(np.array(list(shifts), dtype=object), [len(by) for by in shifts.values()])
    return Moves(names, np.concatenate(list(shifts.values())), np.concatenate(nearest), middle)
