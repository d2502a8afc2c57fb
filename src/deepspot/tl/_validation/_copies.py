"""The same measurement under two names would be on both sides without anybody noticing."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from deepspot._fingerprint import digest
from deepspot.tl._slides import MeasuredSlide

SAME = 0.5


def spot_hashes(slide: MeasuredSlide, names: pd.Index) -> list[str]:
    """Content hash of the counts of every spot by gene name, whatever the order of spots and genes.

    `names` holds the genes of all slides, so that a gene without counts that one copy lacks makes no difference.
    """
    counts = slide.counts.tocoo()
    places = names.get_indexer(pd.Index(np.asarray(slide.genes, dtype=str)))[counts.col]
    counts = csr_matrix((counts.data.astype(np.int64), (counts.row, places)), shape=(counts.shape[0], len(names)))
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
    names = pd.Index(sorted({str(gene) for slide in slides for gene in slide.genes}))
    hashes = [set(spot_hashes(slide, names)) for slide in slides]
    for a, b in combinations(range(len(slides)), 2):
        if units[a] != units[b] and len(hashes[a] & hashes[b]) > SAME * min(len(hashes[a]), len(hashes[b])):
            raise ValueError(
                f"Slides {slides[a].name!r} (patient {slides[a].patient!r}) and {slides[b].name!r} (patient "
                f"{slides[b].patient!r}) hold the same counts, so that a model would be tested on what it learnt from. "
                "Leave one out, or correct `patient_key`."
            )
