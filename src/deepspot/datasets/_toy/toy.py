from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from deepspot._core.validate import check_positive

from .cells import scatter_cells, spot_composition
from .expression import PROGRAMS, draw_counts, expected_expression, make_genes, proportions, spot_signals
from .image import draw, stain_colours
from .tissue import CLASSES, DIAMETER_UM, grow_tissue, hex_array

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData


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

    Tumour, lymphoid tissue, stroma and necrosis are laid out as smooth random fields; the image is drawn from
    them, nucleus by nucleus, and so is the expression. Nothing is downloaded, and the same seed gives the same bytes.

    Parameters
    ----------
    n_patients
        Number of patients; each has colours and a batch effect of its own.
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
        How much the stains differ between patients; 0 gives all the same colours.
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
    - ``var["program"]``: what the gene follows: one of the classes, ``"border"`` (tumour in the spot times
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

    for name, value in {"n_patients": n_patients, "slides_per_patient": slides_per_patient}.items():
        _at_least(value, 1, name)
    slides = {}
    for patient in range(1, n_patients + 1):
        for slide in range(1, slides_per_patient + 1):
            adata, image = toy_slide(
                patient,
                slide,
                n_rows=n_rows,
                n_cols=n_cols,
                n_genes=n_genes,
                mpp=mpp,
                depth=depth,
                stain_shift=stain_shift,
                batch_effect=batch_effect,
                seed=seed,
            )
            name = f"P{patient}_S{slide}"
            slides[name] = from_anndata(adata, image, mpp=mpp, spot_diameter_um=DIAMETER_UM, name=name)
    return slides


def toy_slide(
    patient: int,
    slide: int,
    *,
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
    for name, value in {"n_rows": n_rows, "n_cols": n_cols}.items():
        _at_least(value, 1, name)
    _at_least(n_genes, len(PROGRAMS), "n_genes")
    check_positive(mpp, "mpp")
    check_positive(depth, "depth")
    for name, size in {"stain_shift": stain_shift, "batch_effect": batch_effect}.items():
        if not 0 <= size < np.inf:
            raise ValueError(f"`{name}` must be 0 or above, got {size}.")

    # One stream per purpose: a finer image or another depth leaves the tissue where it is.
    def stream(purpose: int, *of: int) -> np.random.Generator:
        return np.random.default_rng([seed, purpose, *of])

    row, col, xy = hex_array(n_rows, n_cols)
    tissue = grow_tissue(stream(0, patient, slide), xy)
    cells = scatter_cells(stream(1, patient, slide), tissue)
    image = draw(stream(2, patient, slide), tissue, cells, mpp, stain_colours(stream(3, patient), stain_shift))

    composition = spot_composition(tissue, cells, xy)
    signals = spot_signals(tissue, composition, xy)
    genes = make_genes(stream(4), n_genes)
    batch = np.exp(stream(5, patient).normal(0, batch_effect, n_genes))
    counting = stream(6, patient, slide)
    hidden = np.exp(counting.normal(0, 0.5, (len(xy), n_genes)))
    counts = draw_counts(counting, proportions(genes, signals, batch, hidden), depth)
    expected = expected_expression(proportions(genes, signals, batch))

    table = _table(f"P{patient}", f"P{patient}_S{slide}", row, col, counts, genes.names)
    table.var["program"] = genes.programs.astype(object)
    table.layers["expected"] = expected
    table.obsm["spatial"] = xy / mpp
    table.obsm["composition"] = composition.astype(np.float32)
    table.uns["composition"] = list(CLASSES)
    return table, image


def _table(patient: str, slide: str, row: NDArray, col: NDArray, counts: NDArray, genes: list[str]) -> AnnData:
    import pandas as pd
    from anndata import AnnData
    from scipy.sparse import csr_matrix

    names = [f"{slide}_r{r}c{c}" for r, c in zip(row, col, strict=True)]
    obs = pd.DataFrame({"array_row": row, "array_col": col, "in_tissue": 1}, index=names)
    obs["patient"] = pd.Categorical([patient] * len(obs))
    obs["slide"] = pd.Categorical([slide] * len(obs))
    return AnnData(csr_matrix(counts), obs=obs, var=pd.DataFrame(index=genes))


def _at_least(value: int, least: int, argument: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise TypeError(f"`{argument}` must be an integer, got {type(value).__name__}.")
    if value < least:
        raise ValueError(f"`{argument}` must be {least} or more, got {value}.")
