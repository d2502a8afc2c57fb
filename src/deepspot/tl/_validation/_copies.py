"""The same measurement under two names would be on both sides without anybody noticing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from deepspot._fingerprint import digest
from deepspot.tl._slides import MeasuredSlide

SAME = 0.5


def spot_hashes(slide: MeasuredSlide) -> list[str]:
    """Content hash of the counts of every spot, whatever the order of spots and genes."""
    counts = slide.counts[:, np.argsort(np.asarray(slide.genes, dtype=str), kind="stable")].astype(np.int64).tocsr()
    counts.sum_duplicates()
    counts.eliminate_zeros()
    counts.sort_indices()
    ends = zip(counts.indptr[:-1], counts.indptr[1:], strict=True)
    return [digest(counts.indices[a:b], counts.data[a:b]) for a, b in ends]


def check_copies(slides: Sequence[MeasuredSlide], units: Sequence[str]) -> None:
    """Raise if slides of two units (patients, or slides where these are held out) share most of their spots.

    Parameters
    ----------
    slides
        Measured slides.
    units
        What is held out together: one label for each slide.
    """
    hashes = [set(spot_hashes(slide)) for slide in slides]
    for a, b in combinations(range(len(slides)), 2):
        if units[a] != units[b] and len(hashes[a] & hashes[b]) > SAME * min(len(hashes[a]), len(hashes[b])):
            raise ValueError(
                f"Slides {slides[a].name!r} (patient {slides[a].patient!r}) and {slides[b].name!r} (patient "
                f"{slides[b].patient!r}) hold the same counts, so that a model would be tested on what it learnt from. "
                "Leave one out, or correct `patient_key`."
            )
