from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from deepspot._core.validate import check_positive
from deepspot.errors import InputError, InputTypeError

from .image import draw, stain_colors
from .tissue import CLASSES, DIAMETER_UM, Array, grow_tissue, hex_array, scatter_cells, spot_composition, spot_signals

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

PROGRAMS = {
    "tumor": ("TUMOR", 0.25),
    "lymphoid": ("LYMPH", 0.20),
    "stroma": ("STROMA", 0.15),
    "necrosis": ("NECRO", 0.08),
    "border": ("BORDER", 0.12),
    "noise": ("NOISE", 0.20),
}
"""What a gene may follow: how the names of such genes begin, and their share of all genes."""

SIGNALS = (*CLASSES, "border")
NOISE_SHARE = 0.2
TARGET_SUM = 1e4


def toy(
    n_patients: int = 2,
    slides_per_patient: int = 1,
    *,
    n_rows: int = 10,
    n_cols: int = 12,
    n_genes: int = 60,
    mpp: float = 1.0,
    depth: float = 3000.0,
    stain_shift: float = 0.5,
    batch_effect: float = 0.2,
    seed: int = 0,
) -> dict[str, SpatialData]:
    """Synthetic H&E slides of several patients, with the answers.

    Tumor, lymphoid tissue, stroma and necrosis are laid out as smooth random fields; the image is drawn from
    them, nucleus by nucleus, and so is the expression. Nothing is downloaded, and the same seed gives the same bytes.

    Parameters
    ----------
    n_patients
        Number of patients; each has colors and a batch effect of its own.
    slides_per_patient
        Number of slides of each.
    n_rows, n_cols
        Size of the array of spots: 55 µm wide, 100 µm apart, in hexagons and numbered as Visium's.
    n_genes
        Number of genes, 6 or more; one in five follows nothing that the image shows.
    mpp
        µm per pixel of the image. Tissue, cells and counts do not depend on it.
    depth
        Median number of counts per spot.
    stain_shift
        How much the stains differ between patients; 0 gives all the same colors.
    batch_effect
        Standard deviation of the logarithm of the patient's factor per gene.
    seed
        Seed of everything.

    Returns
    -------
    Slides by name, ``"P1_S1"``, ``"P1_S2"``, ``"P2_S1"``, …. Each holds an image, the circles ``spots`` and
    the table ``table``:

    - `X`: counts (n, g), CSR of int32
    - ``layers["expected"]``: float32 (n, g), the expression without noise as log1p of 10,000,
      with the patient's batch effect; constant per patient for noise genes
    - ``obsm["composition"]``: float32 (n, 4), shares of the classes named in ``uns["composition"]``
    - ``var["program"]``: what the gene follows: one of the classes, ``"border"`` (tumor in the spot times
      lymphoid tissue within 150 µm) or ``"noise"``
    - ``obs``: ``array_row``, ``array_col``, ``in_tissue``, ``patient``, ``slide``

    Raises
    ------
    ValueError
        If a number is out of range.

    Examples
    --------
    >>> import deepspot as ds
    >>> slides = ds.datasets.toy(n_patients=2, n_rows=3, n_cols=4)
    >>> sorted(slides)
    ['P1_S1', 'P2_S1']
    """
    from deepspot.io import from_anndata

    _at_least(n_patients, 1, "n_patients")
    _at_least(slides_per_patient, 1, "slides_per_patient")
    slides = {}
    for patient in range(1, n_patients + 1):
        for slide in range(1, slides_per_patient + 1):
            adata, image = toy_slide(
                patient, slide, n_rows, n_cols, n_genes, mpp, depth, stain_shift, batch_effect, seed
            )
            name = f"P{patient}_S{slide}"
            slides[name] = from_anndata(adata, image, mpp=mpp, diameter_um=DIAMETER_UM, name=name)
    return slides


def toy_slide(
    patient: int,
    slide: int,
    n_rows: int,
    n_cols: int,
    n_genes: int,
    mpp: float,
    depth: float,
    stain_shift: float,
    batch_effect: float,
    seed: int,
) -> tuple[AnnData, NDArray[np.uint8]]:
    """Make one slide of :func:`toy`: the table, and the image (h, w, 3)."""
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    _at_least(n_rows, 1, "n_rows")
    _at_least(n_cols, 1, "n_cols")
    _at_least(n_genes, len(PROGRAMS), "n_genes")
    check_positive(mpp, "mpp")
    check_positive(depth, "depth")
    for argument, size in {"stain_shift": stain_shift, "batch_effect": batch_effect}.items():
        if not 0 <= size < np.inf:
            raise InputError(f"`{argument}` must be 0 or above, got {size}.")

    # One stream per purpose: a finer image or another depth leaves the tissue where it is.
    def stream(purpose: int, *of: int) -> np.random.Generator:
        return np.random.default_rng([seed, purpose, *of])

    row, col, xy = hex_array(n_rows, n_cols)
    tissue = grow_tissue(stream(0, patient, slide), xy)
    cells = scatter_cells(stream(1, patient, slide), tissue)
    image = draw(stream(2, patient, slide), tissue, cells, mpp, stain_colors(stream(3, patient), stain_shift))

    composition = spot_composition(tissue, cells, xy)
    signals = spot_signals(tissue, composition, xy)
    genes = make_genes(stream(4), n_genes)
    batch = np.exp(stream(5, patient).normal(0, batch_effect, n_genes))
    counting = stream(6, patient, slide)
    hidden = np.exp(counting.normal(0, 0.5, (len(xy), n_genes)))
    counts = draw_counts(counting, proportions(genes, signals, batch, hidden), depth)

    name = f"P{patient}_S{slide}"
    obs = pd.DataFrame(
        {
            "array_row": row,
            "array_col": col,
            "in_tissue": 1,
            "patient": pd.Categorical([f"P{patient}"] * len(row)),
            "slide": pd.Categorical([name] * len(row)),
        },
        index=[f"{name}_r{r}c{c}" for r, c in zip(row, col, strict=True)],
    )
    var = pd.DataFrame({"program": genes.programs.astype(object)}, index=genes.names)
    table = AnnData(csr_matrix(counts), obs=obs, var=var, uns={"composition": list(CLASSES)})
    # Expression on the scale on which it is measured, without noise.
    table.layers["expected"] = np.log1p(TARGET_SUM * proportions(genes, signals, batch)).astype(np.float32)
    table.obsm["spatial"] = xy / mpp
    table.obsm["composition"] = composition.astype(np.float32)
    return table, image


def _at_least(value: int, least: int, argument: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InputTypeError(f"`{argument}` must be an integer, got {type(value).__name__}.")
    if value < least:
        raise InputError(f"`{argument}` must be {least} or more, got {value}.")


@dataclass(frozen=True)
class Genes:
    """Genes of one toy data set: names and programs, loadings (g, 5) over the signals, base levels (g,)."""

    names: list[str]
    programs: NDArray[np.str_]
    loadings: Array
    base: Array


def make_genes(rng: np.random.Generator, n_genes: int) -> Genes:
    """Share the genes out among the programs, at least one each."""
    wanted = np.array([share for _, share in PROGRAMS.values()]) * n_genes
    numbers = np.maximum(np.floor(wanted), 1).astype(int)
    while numbers.sum() != n_genes:  # the rest goes where most is missing, or comes from where most is too many
        missing = wanted - numbers
        if numbers.sum() < n_genes:
            numbers[missing.argmax()] += 1
        else:
            numbers[np.where(numbers > 1, missing, np.inf).argmin()] -= 1
    programs = np.repeat(list(PROGRAMS), numbers)
    names = [f"{prefix}{i + 1}" for (prefix, _), n in zip(PROGRAMS.values(), numbers, strict=True) for i in range(n)]
    loadings = np.abs(rng.normal(0, 0.06, (n_genes, len(SIGNALS))))
    loadings += programs[:, None] == np.array(SIGNALS)
    return Genes(names, programs, loadings, np.exp(rng.normal(0, 0.7, n_genes)))


def proportions(genes: Genes, signals: Array, batch: Array, hidden: Array | None = None) -> Array:
    """Compute the share of every gene in the counts of every spot, (n, g), from what they respond to, (n, 5).

    `batch` (g,) is the patient's factor per gene, `hidden` (n, g) factors that no image shows: only noise genes take
    them.
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
