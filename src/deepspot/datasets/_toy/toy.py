from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from deepspot._core.validate import check_positive, check_seed
from deepspot.errors import InputError, InputTypeError

from .cells import cell_signals, cells_per_spot, outlines
from .image import draw, stain_colors
from .tissue import CLASSES, DIAMETER_UM, Array, grow_tissue, hex_array, scatter_cells, spot_composition, spot_signals

if TYPE_CHECKING:
    from anndata import AnnData
    from geopandas import GeoDataFrame
    from spatialdata import SpatialData

PROGRAMS = {
    "tumor": ("TUMOR", 0.25),
    "lymphoid": ("LYMPH", 0.20),
    "stroma": ("STROMA", 0.15),
    "necrosis": ("NECRO", 0.08),
    "border": ("BORDER", 0.12),
    "noise": ("NOISE", 0.20),
}
"""Gene programs: prefix of the gene names, and share of all genes."""

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
    cells: bool = False,
    seed: int | None = None,
) -> dict[str, SpatialData]:
    """Generate synthetic H&E slides of several patients with known ground truth.

    Tumor, lymphoid tissue, stroma and necrosis are smooth random fields, from which the nuclei of the image and the
    expression are drawn. Nothing is downloaded; the same seed gives the same bytes.

    Parameters
    ----------
    n_patients
        Number of patients. Stain colors and batch effect differ between patients.
    slides_per_patient
        Number of slides per patient.
    n_rows, n_cols
        Size of the spot array: spots of 55 µm, 100 µm apart, hexagonal and numbered as in Visium.
    n_genes
        Number of genes, at least 6. One in five is independent of the image.
    mpp
        µm per pixel of the image. Does not change tissue, cells and counts.
    depth
        Median number of counts per spot.
    stain_shift
        Strength of the stain differences between patients; 0 gives identical colors.
    batch_effect
        Standard deviation of the logarithm of the factor per patient and gene.
    cells
        Add the cells, as in data of single cells. Does not change image and spots.
    seed
        Random seed; None takes `settings.seed`.

    Returns
    -------
    Dictionary of SpatialData by name, ``"P1_S1"``, ``"P1_S2"``, ``"P2_S1"``, …. Each has an image, circles ``spots``
    and a table ``table``:

    - `X`: counts (n, g), CSR, int32
    - ``layers["expected"]``: float32 (n, g), expression without noise, log1p of counts per 10,000, with the batch
      effect; constant per patient for noise genes
    - ``obsm["composition"]``: float32 (n, 4), shares of the classes in ``uns["composition"]``
    - ``var["program"]``: determinant of the gene: a class, ``"border"`` (tumor in the spot times lymphoid tissue within
      150 µm) or ``"noise"``
    - ``obs``: ``array_row``, ``array_col``, ``in_tissue``, ``patient``, ``slide``

    With `cells`, also polygons ``cells``, the outlines of the nuclei, with a column `class`, and a table
    ``table_cells`` of all cells on the tissue, with `X`, ``layers["expected"]``, ``var["program"]`` and ``obs`` as
    above, and ``obs["class"]``. A cell has the expression of a spot of its class at its place. The counts of cells are
    such that those in a spot sum to `depth` on average: few for the dense lymphoid cells, many for the others. They
    are drawn anew: the counts of the spots are not their sums (see :func:`deepspot.pp.pool`).

    Raises
    ------
    TypeError, ValueError
        If a number has the wrong type or is out of range.

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
    seed = check_seed(seed)
    slides = {}
    for patient in range(1, n_patients + 1):
        for slide in range(1, slides_per_patient + 1):
            adata, image, made = toy_slide(
                patient, slide, n_rows, n_cols, n_genes, mpp, depth, stain_shift, batch_effect, seed, with_cells=cells
            )
            name = f"P{patient}_S{slide}"
            sdata = slides[name] = from_anndata(adata, image, mpp=mpp, diameter_um=DIAMETER_UM, name=name)
            if made is not None:
                _add_cells(sdata, *made)
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
    *,
    with_cells: bool = False,
) -> tuple[AnnData, NDArray[np.uint8], tuple[GeoDataFrame, AnnData] | None]:
    """Generate one slide of :func:`toy`: table, image (h, w, 3), and cells with their table if they are wanted."""
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

    # One random stream per purpose: another image resolution or depth does not change the tissue.
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
    table.layers["expected"] = np.log1p(TARGET_SUM * proportions(genes, signals, batch)).astype(np.float32)
    table.obsm["spatial"] = xy / mpp
    table.obsm["composition"] = composition.astype(np.float32)
    if not with_cells:
        return table, image, None

    shapes, counting = outlines(cells, mpp), stream(7, patient, slide)
    signals, n = cell_signals(tissue, cells), len(shapes)
    hidden = np.exp(counting.normal(0, 0.5, (n, n_genes)))
    depths = depth / cells_per_spot(shapes["class"])
    counts = draw_counts(counting, proportions(genes, signals, batch, hidden), depths)
    labels = {"class": shapes["class"], "patient": pd.Categorical([f"P{patient}"] * n)}
    labels |= {"slide": pd.Categorical([name] * n), "cell": shapes.index}
    of_cells = AnnData(csr_matrix(counts), obs=pd.DataFrame(labels).set_index(shapes.index.astype(str)), var=var.copy())
    of_cells.layers["expected"] = np.log1p(TARGET_SUM * proportions(genes, signals, batch)).astype(np.float32)
    return table, image, (shapes, of_cells)


def _add_cells(sdata: SpatialData, shapes: GeoDataFrame, table: AnnData) -> None:
    """Add cells in pixels, and their table, with the coordinate systems of the spots."""
    from pandas import Categorical
    from spatialdata.models import ShapesModel, TableModel
    from spatialdata.transformations import get_transformation

    table.obs["region"] = Categorical(["cells"] * table.n_obs)
    placed = get_transformation(sdata["spots"], get_all=True)
    sdata.shapes["cells"] = ShapesModel.parse(shapes, transformations=placed)
    sdata.tables["table_cells"] = TableModel.parse(table, region="cells", region_key="region", instance_key="cell")


def _at_least(value: int, least: int, argument: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise InputTypeError(f"`{argument}` must be an integer, got {type(value).__name__}.")
    if value < least:
        raise InputError(f"`{argument}` must be {least} or more, got {value}.")


@dataclass(frozen=True)
class Genes:
    """Genes of a toy data set: names, programs, loadings (g, 5) on the signals, base levels (g,)."""

    names: list[str]
    programs: NDArray[np.str_]
    loadings: Array
    base: Array


def make_genes(rng: np.random.Generator, n_genes: int) -> Genes:
    """Assign genes to the programs, at least one to each."""
    wanted = np.array([share for _, share in PROGRAMS.values()]) * n_genes
    numbers = np.maximum(np.floor(wanted), 1).astype(int)
    while numbers.sum() != n_genes:  # adjust the program with the largest deviation
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
    """Compute the share of each gene in the counts of each spot (n, g) from the signals (n, 5).

    `batch` (g,) are factors of the patient; `hidden` (n, g) are factors of noise genes that are not in the image.
    """
    level = genes.base * batch
    noise = genes.programs == "noise"
    rates = level * (0.05 + signals @ genes.loadings.T)
    rates[:, noise] = level[noise] if hidden is None else level[noise] * hidden[:, noise]
    # Each group is normalized separately, or noise genes would depend on the tissue through the total.
    for group, share in ((noise, NOISE_SHARE), (~noise, 1 - NOISE_SHARE)):
        rates[:, group] *= share / rates[:, group].sum(axis=1, keepdims=True)
    return rates


def draw_counts(rng: np.random.Generator, shares: Array, depth: float | Array) -> NDArray[np.int32]:
    """Draw negative binomial counts (n, g) with a lognormal depth per spot, whose median may differ between them."""
    depths = depth * np.exp(rng.normal(0, 0.3, len(shares)))
    overdispersed = shares * rng.gamma(20.0, 1 / 20.0, shares.shape)
    return rng.poisson(depths[:, None] * overdispersed).astype(np.int32)
