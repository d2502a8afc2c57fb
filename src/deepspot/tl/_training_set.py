"""From measured slides to targets: which genes, over which depth, on the documented scale."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from deepspot._logging import logger
from deepspot._tables import SHARED
from deepspot.pp._expression import most_variable, normalize

from ._slides import MeasuredSlide


def choose_genes(slides: Sequence[MeasuredSlide], genes: int | Sequence[str], min_detected: float = 0.0) -> list[str]:
    """Genes to learn: so many of the most variable among those that all slides share, or a list.

    Parameters
    ----------
    slides
        Measured slides.
    genes
        Number, or names; a named gene has to be measured on one slide at least.
    min_detected
        Share of the spots of every slide in which a gene has to be seen to be chosen.
    """
    if isinstance(genes, int):
        if genes < 1:
            raise ValueError(f"`genes` must be at least 1, got {genes}.")
        common = common_genes(slides)
        counts = [slide.counts[:, slide.genes.get_indexer(common)] for slide in slides]
        seen = np.min([np.asarray((part > 0).mean(axis=0)).ravel() for part in counts], axis=0) >= min_detected
        return most_variable([part[:, seen] for part in counts], list(common[seen]), genes)
    if isinstance(genes, str):
        raise TypeError(f"`genes` must be a number or a list of names, got the text {genes!r}. Write [{genes!r}].")
    wanted = list(dict.fromkeys(genes))
    known = set().union(*(slide.genes for slide in slides))
    missing = [gene for gene in wanted if gene not in known]
    if missing:
        raise KeyError(
            f"{len(missing)} of {len(wanted)} genes are measured on no slide, first {missing[:5]}. The slides name "
            f"genes like {list(slides[0].genes[:3])}: choose these identifiers, or `gene_id_key` when reading."
        )
    return wanted


def common_genes(slides: Sequence[MeasuredSlide]) -> pd.Index:
    """Genes that all slides measure, in the order of the first; at least half of the smallest panel."""
    common = slides[0].genes
    for slide in slides[1:]:
        common = common[common.isin(slide.genes)]
    smallest = min(slides, key=lambda slide: len(slide.genes))
    if len(common) < SHARED * len(smallest.genes):
        raise ValueError(
            f"The slides share {len(common)} genes, under half of {len(smallest.genes)} of slide {smallest.name!r}. "
            "Are they of one species, and named with the same identifiers (`gene_id_key` when reading)?"
        )
    return common


def targets(slides: Sequence[MeasuredSlide], genes: Sequence[str]) -> tuple[list[np.ndarray], str]:
    """Log-expression (n, genes) of every slide, NaN where it did not measure a gene, and what the depth was.

    With one panel the depth of a spot is its total; with mixed panels it is summed over the genes that all share, or
    the same tissue would have another expression on another panel.
    """
    common = common_genes(slides)
    mixed = any(len(slide.genes) != len(common) for slide in slides)
    depth = f"the {len(common):,} genes that all training slides share" if mixed else "all measured genes"
    if mixed:
        logger.info("The slides measured different genes: spots are normalised over %s.", depth)
    return [_target(slide, genes, common if mixed else slide.genes) for slide in slides], depth


def _target(slide: MeasuredSlide, genes: Sequence[str], depth_genes: pd.Index) -> np.ndarray:
    columns = slide.genes.get_indexer(pd.Index(genes))
    depth = np.asarray(slide.counts[:, slide.genes.get_indexer(depth_genes)].sum(axis=1)).ravel()
    expression: csr_matrix = normalize(slide.counts[:, columns[columns >= 0]], depth)
    target = np.full((len(slide.rows), len(columns)), np.nan, dtype=np.float32)
    target[:, columns >= 0] = expression.toarray()
    target[depth == 0] = np.nan
    return target
