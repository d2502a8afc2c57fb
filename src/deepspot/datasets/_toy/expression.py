from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .tissue import CLASSES, Array, Tissue, disc_mean

BORDER_UM = 150.0
PROGRAMS = {"tumour": 0.25, "lymphoid": 0.20, "stroma": 0.15, "necrosis": 0.08, "border": 0.12, "noise": 0.20}
PREFIXES = {
    "tumour": "TUMOR",
    "lymphoid": "LYMPH",
    "stroma": "STROMA",
    "necrosis": "NECRO",
    "border": "BORDER",
    "noise": "NOISE",
}
SIGNALS = (*CLASSES, "border")
NOISE_SHARE = 0.2
TARGET_SUM = 1e4


@dataclass(frozen=True)
class Genes:
    """Genes of one toy data set: names and programs, loadings (g, 5) over the signals, base levels (g,)."""

    names: list[str]
    programs: NDArray[np.str_]
    loadings: Array
    base: Array


def make_genes(rng: np.random.Generator, n_genes: int) -> Genes:
    """Share the genes out among the programs, at least one each."""
    wanted = np.array(list(PROGRAMS.values())) * n_genes
    numbers = np.maximum(np.floor(wanted), 1).astype(int)
    while numbers.sum() != n_genes:  # the rest goes where most is missing, or comes from where most is too many
        missing = wanted - numbers
        if numbers.sum() < n_genes:
            numbers[missing.argmax()] += 1
        else:
            numbers[np.where(numbers > 1, missing, np.inf).argmin()] -= 1
    programs = np.repeat(list(PROGRAMS), numbers)
    names = [f"{PREFIXES[p]}{i + 1}" for p, n in zip(PROGRAMS, numbers, strict=True) for i in range(n)]
    loadings = np.abs(rng.normal(0, 0.06, (n_genes, len(SIGNALS))))
    loadings += programs[:, None] == np.array(SIGNALS)
    return Genes(names, programs, loadings, np.exp(rng.normal(0, 0.7, n_genes)))


def spot_signals(tissue: Tissue, composition: Array, xy: Array) -> Array:
    """Compute what the genes respond to, (n, 5): the composition of the spot, and the tumour-lymphoid border.

    The border is the tumour share of the spot times the lymphoid share of the tissue within 150 µm,
    so it cannot be seen inside the spot alone.
    """
    on_tissue = (tissue.edge_um > 0).astype(float)
    lymphoid = tissue.composition[CLASSES.index("lymphoid")] * on_tissue
    around = disc_mean(lymphoid, xy, 2 * BORDER_UM, 300) / disc_mean(on_tissue, xy, 2 * BORDER_UM, 300)
    border = 4 * composition[:, CLASSES.index("tumour")] * around
    return np.column_stack([composition, border])


def proportions(genes: Genes, signals: Array, batch: Array, hidden: Array | None = None) -> Array:
    """Compute the share of every gene in the counts of every spot, (n, g).

    Parameters
    ----------
    genes
        The genes.
    signals
        What they respond to, (n, 5).
    batch
        The patient's factor per gene, (g,).
    hidden
        Factors (n, g) that no image shows; only noise genes take them.
    """
    level = genes.base * batch
    noise = genes.programs == "noise"
    rates = level * (0.05 + signals @ genes.loadings.T)
    rates[:, noise] = level[noise] if hidden is None else level[noise] * hidden[:, noise]
    # Both groups are closed on their own: else noise genes would mirror the tissue through the total.
    for group, share in ((noise, NOISE_SHARE), (~noise, 1 - NOISE_SHARE)):
        rates[:, group] *= share / rates[:, group].sum(axis=1, keepdims=True)
    return rates


def draw_counts(rng: np.random.Generator, shares: Array, depth: float) -> NDArray[np.int32]:
    """Negative binomial counts (n, g), with a lognormal depth per spot around `depth`."""
    depths = depth * np.exp(rng.normal(0, 0.3, len(shares)))
    overdispersed = shares * rng.gamma(20.0, 1 / 20.0, shares.shape)
    return rng.poisson(depths[:, None] * overdispersed).astype(np.int32)


def expected_expression(shares: Array) -> NDArray[np.float32]:
    """Shares (n, g) on the scale of measured expression: log1p of 10,000 per spot."""
    return np.log1p(TARGET_SUM * shares).astype(np.float32)
