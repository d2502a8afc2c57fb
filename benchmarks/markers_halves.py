"""Whether the block test has its nominal level for very smooth genes against a whole half of the slide.

    DEEPSPOT_DATA=../shared/data python benchmarks/markers_halves.py

Genes are Gaussian random fields of a given range, in distances between spots, without noise or with as much noise as
pattern, at the spots of real sections, which are about 16 × 20 spots large. Groups are the halves of the section.
"Rotations alone" leaves out the correction for smooth fields, as before. Writes benchmarks/results/markers_halves.md.
"""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import numpy as np
from scipy.spatial.distance import cdist

import deepspot as ds
from deepspot._spatial.transforms import pitch_px, place_spots
from deepspot._stats import spatial_null

SECTIONS, RANGES, NOISE, N_GENES, N = ("C2", "C5", "B4"), (3, 6, 12), (0.5, 0.0), 1000, 499
OUT = Path(__file__).parent / "results" / "markers_halves.md"


def main() -> None:
    lines = [
        "| section | range | noise | left and right: rotations alone | now | top and bottom: rotations alone | now |",
        "|" + "---|" * 7,
    ]
    for section in SECTIONS:
        placement = place_spots(ds.datasets.her2st(section), f"{section}_image", "spots")
        centers = placement.centers / pitch_px(placement.centers)
        for reach in RANGES:
            root = np.linalg.cholesky(
                np.exp(-cdist(centers, centers, "sqeuclidean") / (2 * reach**2)) + 1e-6 * np.eye(len(centers))
            )
            for noise in NOISE:
                rng = np.random.default_rng(1)
                X = np.sqrt(1 - noise) * root @ rng.standard_normal((len(centers), N_GENES))
                X += np.sqrt(noise) * rng.standard_normal(X.shape)
                cells = [f"{share:.1%}" for axis in (0, 1) for share in levels(X, centers, axis)]
                lines.append(f"| {section} | {reach} | {noise:.0%} | {' | '.join(cells)} |")
                print(lines[-1], flush=True)
    OUT.write_text("Share of the genes with p < 0.05, where it ought to be 5 %:\n\n" + "\n".join(lines) + "\n")


def levels(X: np.ndarray, centers: np.ndarray, axis: int) -> list[float]:
    half = centers[:, axis] > np.median(centers[:, axis])
    contrast = (half / half.sum() - ~half / (~half).sum())[None]
    shares, smooth_fields = [], spatial_null._smooth_fields

    def without_correction(*args: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        power, ratio = smooth_fields(*args)
        return power, np.ones_like(ratio)

    for function in (without_correction, smooth_fields):
        with patch.object(spatial_null, "_smooth_fields", function):
            p = spatial_null.spatial_p_values(X, contrast, centers, N, np.random.default_rng(2))
        shares.append(float((p < 0.05).mean()))
    return shares


if __name__ == "__main__":
    main()
