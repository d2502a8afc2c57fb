"""Slides that are in a training set twice, under two names or two patients."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations
from typing import TYPE_CHECKING

import numpy as np
from scipy.sparse import csr_matrix

from deepspot._core.logging import logger
from deepspot._image.tiles import EXACT_FINGERPRINT, coarse_image, level_sizes
from deepspot.errors import InputError

from .slides import MeasuredSlide

if TYPE_CHECKING:
    from deepspot._sdata.view import SlideView

# Share of equal spots above which two slides are copies.
SAME = 0.5
# Spots of a slide that are compared, the deepest; spots of the other slide that are compared at once.
COMPARED, CHUNK = 50, 5000
# Genes without which spots may be equal by chance, and different counts without which sorted counts may be.
DETECTED, DISTINCT = 10, 10
# Limit of the mean difference of two spots (1 for two measurements of one tissue), and quantile of chance, which is
# low because the nearest of many spots are compared.
ALIKE, CHANCE = 0.5, 1e-7
# Side in pixels of the images that are compared, and correlation from which they are copies.
SIDE, SAME_IMAGE = 32, 0.98
# Standard deviation below which an image shows nothing that could be compared, of 255.
FLAT = 2.0


def check_copies(slides: Sequence[MeasuredSlide], units: Sequence[str]) -> None:
    """Raise if slides of two units (the patient or slide of each) are copies; warn if slides of one unit are.

    Copies may lack spots and genes (:func:`same_counts`), have other names of genes (the sorted counts of most spots
    are equal), or have the image alone in common (:func:`same_image`).
    """
    hashes = [_sorted_counts(slide) for slide in slides]
    for a, b in combinations(range(len(slides)), 2):
        small, large = sorted((slides[a], slides[b]), key=lambda slide: len(slide.rows))
        if _renamed(hashes[a], hashes[b]) or same_counts(small, large):
            what = "counts"
        elif same_image(small, large):
            what = "image"
        else:
            continue
        named = " and ".join(f"{slides[i].name!r} (patient {slides[i].patient!r})" for i in (a, b))
        if units[a] != units[b]:
            raise InputError(
                f"Slides {named} have the same {what}, so a model would be tested on its training data. Remove one of "
                "them, or correct `patient_key`."
            )
        logger.warning("Slides %s have the same %s, so they count twice. Remove one of them.", named, what)


def same_counts(small: MeasuredSlide, large: MeasuredSlide) -> bool:
    """Return whether most spots of a slide are in another slide, by the counts of the genes with a common name.

    They differ less from the spot with the most correlated counts than two measurements of one tissue would: the
    squared difference of two Poisson counts divided by their sum is 1 on average, and its sum over genes is about
    chi-squared.
    """
    from scipy.stats import chi2

    genes = small.genes.intersection(large.genes)
    a, b = (slide.counts[:, slide.genes.get_indexer(genes)].astype(np.float64) for slide in (small, large))
    a = a[np.argsort(-np.asarray(a.sum(axis=1)).ravel(), kind="stable")[:COMPARED]]
    a = a[np.diff(a.tocsr().indptr) >= DETECTED]
    if not a.shape[0]:
        return False
    best, highest = np.zeros(a.shape[0], dtype=int), np.full(a.shape[0], -np.inf)
    for start in range(0, b.shape[0], CHUNK):
        similarity = _cosine(a, b[start : start + CHUNK])
        chosen = similarity.argmax(axis=1)
        value = similarity[np.arange(len(chosen)), chosen]
        best[value > highest] = start + chosen[value > highest]
        highest = np.maximum(highest, value)
    ours, theirs = a.toarray(), b[best].toarray()
    total = ours + theirs
    n = np.count_nonzero(total, axis=1)
    difference = (np.divide((ours - theirs) ** 2, total, out=np.zeros(total.shape), where=total > 0)).sum(axis=1) / n
    limit = np.minimum(chi2.ppf(CHANCE, n) / n, ALIKE)
    return bool(np.count_nonzero(difference <= limit) > SAME * len(ours))


def _sorted_counts(slide: MeasuredSlide) -> np.ndarray:
    """Return hashes of the sorted counts of the spots that have enough different counts."""
    counts = slide.counts.tocsr()
    rows = (np.sort(counts.data[start:end]) for start, end in zip(counts.indptr[:-1], counts.indptr[1:], strict=True))
    kept = (row[row > 0].astype(np.int64) for row in rows)
    return np.unique([hash(row.tobytes()) for row in kept if len(np.unique(row)) >= DISTINCT])


def _renamed(a: np.ndarray, b: np.ndarray) -> bool:
    return len(np.intersect1d(a, b)) > SAME * max(1, min(len(a), len(b)))


def _cosine(a: csr_matrix, b: csr_matrix) -> np.ndarray:
    """Return the correlation about 0 (n, m) of the logarithms of counts."""
    from sklearn.metrics.pairwise import cosine_similarity

    return cosine_similarity(a.log1p(), b.log1p())


def thumbnail(view: SlideView) -> tuple[np.ndarray, np.ndarray] | None:
    """Return a slide in 32 × 32 gray pixels, and its spots (n, 2) as shares of width and height.

    None for an image that is too large to be read for this alone, or uniform.
    """
    from skimage.transform import resize_local_mean

    if view.pyramid[-1].nbytes > EXACT_FINGERPRINT:
        return None
    height, width = level_sizes(view.pyramid)[0]
    pixels, _ = coarse_image(view.pyramid, max(1, min(height, width) / (2 * SIDE)))
    gray = resize_local_mean(pixels.mean(axis=2), (SIDE, SIDE), preserve_range=True)
    return None if gray.std() < FLAT else (gray, view.centers / (width, height))


def same_image(a: MeasuredSlide, b: MeasuredSlide) -> bool:
    """Return whether two slides have the same image, of any resolution, and spots at the same places in it.

    Different places are different pieces of tissue in one scan.
    """
    if a.thumbnail is None or b.thumbnail is None:
        return False
    (image_a, spots_a), (image_b, spots_b) = a.thumbnail, b.thumbnail
    if np.corrcoef(image_a.ravel(), image_b.ravel())[0, 1] < SAME_IMAGE:
        return False
    inside = (spots_a >= spots_b.min(axis=0)) & (spots_a <= spots_b.max(axis=0))
    return bool(inside.all(axis=1).mean() > SAME)
