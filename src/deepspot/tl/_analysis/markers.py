from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from deepspot._core.keys import key_in, keys_in
from deepspot._core.logging import logger
from deepspot._core.settings import settings
from deepspot._core.validate import check_positive
from deepspot._sdata.tables import find_expression_table, labels_of, match_rows, regions_of
from deepspot._sdata.write import add_entries, check_entries
from deepspot._spatial.transforms import intrinsic_centers
from deepspot._stats.log_scale import log_expression
from deepspot._stats.spatial_null import spatial_eigenvectors, spatial_p_values
from deepspot.errors import InputError

if TYPE_CHECKING:
    from spatialdata import SpatialData

SCANPY, REST, FEWEST = "rank_genes_groups", "rest", 3
TESTS = ("wilcoxon", "blocks")
NAMES = {"names": "gene", "logfoldchanges": "logfoldchange", "scores": "score", "pvals": "p", "pvals_adj": "p_adj"}


def markers(
    sdata: SpatialData,
    groupby: str,
    *,
    table_key: str | None = None,
    layer: str | None = None,
    groups: Sequence[str] | None = None,
    reference: str = REST,
    test: Literal["wilcoxon", "blocks"] = "wilcoxon",
    n_permutations: int = 10_000,
    alpha: float = 0.05,
    min_logfoldchange: float = 0.0,
    transform: Literal["paper"] | None = None,
    seed: int | None = None,
    key_added: str = "markers",
    overwrite: bool = False,
) -> None:
    """Find genes that are higher in one group of spots than in the others.

    This is scanpy's Wilcoxon rank-sum test with ties corrected; genes are ranked by their log fold change.

    The rank-sum test takes spots for independent. Neighbors resemble one another, predicted ones even more so, and a
    region of 100 spots is not 100 observations: of genes that have nothing to do with the regions 16 to 26 % of the
    measured and 61 to 82 % of the predicted ones come out with p < 0.05 on a real section of 181 spots.
    ``test="blocks"`` adds a test that respects this, with which it is 3 to 7 %, at some cost in power. This is
    Moran spectral randomization: each gene is written in the eigenvectors of the graph of neighboring spots, and blocks
    of eigenvectors of similar wavelength (2, 4, 8, … of them) are rotated at random within themselves. Such a field has
    patches as large and as strong as those of the gene, but elsewhere. The p-value is how often it differs between the
    groups as much as the gene does. Blocks of *spots* were tried too: they must be larger than the patches, and then
    too few of them fit on a section.

    Neither test is valid if the groups were computed from the same genes, such as clusters of this table. Neither
    accounts for variation between patients: a section is one sample.

    Parameters
    ----------
    sdata
        Object with predicted, corrected or measured genes.
    groupby
        Column with the groups, in `obs` of the table or in its shapes, such as ``"annotation"`` of
        :func:`deepspot.pp.annotate`. Spots without a group are left out.
    table_key
        Table with the genes on the log scale; by default the one with predicted or corrected genes.
    layer
        Layer of the table, by default `X`.
    groups
        Groups to find markers of, by default all. They are compared with all others, also with those not named.
    reference
        Group to compare with, by default all other spots that have one.
    test
        ``"blocks"`` adds the test that respects that neighbors resemble one another.
    n_permutations
        Number of random fields of it. P-values below 1 / (this + 1) come from a bound on what such fields can do, and
        so are rather too large than too small.
    alpha
        A gene is significant if its adjusted p-value is below it.
    min_logfoldchange
        A gene is significant only if its log fold change is above it.
    transform
        ``"paper"`` sets negative values to 0 and adds 1 to all, on a copy. The test does not change, as ranks do not.
        Fold changes do, since 1 on the log scale is not 1 count: they become those of counts per 10,000 plus 0.63,
        so that they are smaller, above all for faint genes.
    seed
        Seed of the random fields; None falls back to the settings.
    key_added
        Name of the data frame.
    overwrite
        Replace results of an earlier call, and of scanpy's.

    Returns
    -------
    None. Adds to `uns` of the table, which does not change otherwise:

    ``uns["markers"]``
        DataFrame with a row for each group and gene, by group and then by falling log fold change: ``group``
        (categorical), ``gene``, ``logfoldchange`` (log2; scanpy compares means of the log scale, put back on the scale
        of counts), ``score`` (z of the rank-sum test), ``p`` and ``p_adj`` (Benjamini-Hochberg within the group),
        ``p_block`` and ``p_block_adj`` (NaN unless ``test="blocks"``), ``significant`` (bool: higher in the group, and
        the adjusted p-value is below `alpha`, that of the block test if it was made), ``rank`` (from 1).
    ``uns["rank_genes_groups"]``
        What scanpy adds, by score, for ``sc.get.rank_genes_groups_df`` and scanpy's figures.
    ``uns["deepspot_markers"]``
        Parameters of this call.

    Raises
    ------
    KeyError
        If there is no such table, layer, column or group.
    ValueError
        If there are several candidates for the table, its values are not on the log scale, a group or what it is
        compared with has under 3 spots, entries exist already, or an option does not exist.

    References
    ----------
    DeepSpot, sections 4.4.1 and 4.4.2, for the transform and the rank-sum test. Wagner and Dray, "Generating spatially
    constrained null models for irregularly spaced data using Moran spectral randomization methods", Methods in Ecology
    and Evolution 2015. The numbers are in ``benchmarks/results/markers.md``.

    Examples
    --------
    >>> import deepspot as ds
    >>> import scanpy as sc
    >>> sdata = ds.datasets.toy(n_patients=1)["P1_S1"]
    >>> table = sdata.tables["table"]
    >>> sc.pp.normalize_total(table, target_sum=1e4)
    >>> sc.pp.log1p(table)
    >>> table.obs["class"] = ["tumor" if share > 0.5 else "other" for share in table.obsm["composition"][:, 0]]
    >>> ds.tl.markers(sdata, "class", table_key="table", test="blocks", n_permutations=500)
    >>> markers = table.uns["markers"]
    >>> top = markers[(markers["group"] == "tumor") & markers["significant"]].head(3)["gene"]
    >>> all(gene.startswith("TUMOR") for gene in top)
    True
    """
    import scanpy as sc
    from anndata import AnnData

    table_key = find_expression_table(sdata, table_key)
    if test not in TESTS:
        raise InputError(f"`test` must be one of {list(TESTS)}, got {test!r}.")
    check_positive(alpha, "alpha")
    check_positive(n_permutations, "n_permutations")
    added = [key_added, f"deepspot_{key_added}", SCANPY]
    check_entries(sdata, table_key, "uns", added, overwrite=overwrite, argument="key_added")
    table = sdata.tables[table_key]
    X, known = log_expression(table, table_key, layer, transform)
    labels = labels_of(sdata, table_key, groupby)
    tested = _groups(labels, groups, reference, groupby)
    regions = regions_of(sdata, table_key)
    if test == "blocks" and len(regions) != 1:
        raise InputError(
            f"The block test needs the positions of the spots in one tissue, but table {table_key!r} describes the "
            f"shapes {regions}. Make a table for each, or use `test='wilcoxon'`."
        )

    kept = labels.notna().to_numpy()
    obs, var = pd.DataFrame({groupby: labels[kept]}), table.var.loc[known, []]
    small = AnnData(X[kept], obs=obs, var=var, uns={"log1p": dict(table.uns.get("log1p", {}))})
    # Genes that do not vary have no score, and many groups make many columns: neither is news to the user.
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", pd.errors.PerformanceWarning)
        sc.tl.rank_genes_groups(small, groupby, groups=tested, reference=reference, method="wilcoxon", tie_correct=True)
    frame = pd.concat([sc.get.rank_genes_groups_df(small, name).assign(group=name) for name in tested])
    frame = frame.rename(columns=NAMES)[["group", *NAMES.values()]].assign(group=pd.Categorical(frame["group"], tested))
    frame = frame.sort_values(
        ["group", "logfoldchange", "score", "gene"], ascending=[True, False, False, True], ignore_index=True
    )
    frame["p_block"] = frame["p_block_adj"] = np.nan
    if test == "blocks":
        from scipy.stats import false_discovery_control

        rows, at = match_rows(table, sdata, regions[0])
        contrasts = np.array([_contrast(labels.iloc[rows], name, reference) for name in tested])
        # All spots say how smooth a gene is, also those without a group.
        eigenvectors = spatial_eigenvectors(intrinsic_centers(sdata, regions[0])[at])
        rng = np.random.default_rng(settings.seed if seed is None else seed)
        p = spatial_p_values(X[rows], contrasts, eigenvectors, int(n_permutations), rng)
        here = frame["group"].cat.codes, small.var_names.get_indexer(frame["gene"])
        frame["p_block"], frame["p_block_adj"] = p[here], false_discovery_control(p, axis=1)[here]
    judged = frame["p_adj" if test == "wilcoxon" else "p_block_adj"]
    frame["significant"] = (judged < alpha) & (frame["logfoldchange"] > min_logfoldchange)
    frame["rank"] = frame.groupby("group", observed=True).cumcount() + 1

    ranked = small.uns[SCANPY]
    ranked["params"]["layer"] = layer
    parameters: dict[str, Any] = {
        "groupby": groupby,
        "groups": tested,
        "reference": reference,
        "test": test,
        "alpha": alpha,
        "min_logfoldchange": min_logfoldchange,
        "transform": transform or "none",
        "layer": layer or "X",
        "n_spots": int(kept.sum()),
        "scanpy": version("scanpy"),
    }
    if test == "blocks":
        parameters["n_permutations"] = int(n_permutations)
    results = dict(zip(added, (frame, parameters, ranked), strict=True))
    add_entries(sdata, table_key, "uns", results, overwrite=overwrite)
    number = frame.groupby("group", observed=True)["significant"].sum()
    left_out = {"spots without a group": (~kept).sum(), "genes with missing values": (~known).sum()}
    words = " and ".join(f"{n:,} {what}" for what, n in left_out.items() if n)
    logger.info(
        f"Compared {kept.sum():,} spots by {groupby!r} in {small.n_vars:,} genes of sdata.tables[{table_key!r}]; "
        f"markers: {', '.join(f'{name} {n:,}' for name, n in number.items())}.{f' Left out: {words}.' if words else ''}"
    )


def _groups(labels: pd.Series, groups: Sequence[str] | None, reference: str, groupby: str) -> list[str]:
    """Groups to find markers of, each checked against what it is compared with."""
    size = labels.value_counts(sort=False)
    where = f"groups of {groupby!r}"
    if reference != REST:
        key_in(reference, size.index, where)
    tested = [name for name in keys_in(groups, size.index, where) if name != reference]
    other = {name: size.sum() - size[name] if reference == REST else size[reference] for name in tested}
    if not any(other.values()):
        raise InputError(f"There is nothing to compare: {where} are {size.to_dict()}. Two groups are needed.")
    few = {name: f"{size[name]} against {n}" for name, n in other.items() if min(size[name], n) < FEWEST}
    if few:
        raise InputError(
            f"At least {FEWEST} spots are needed on either side, but these groups of {groupby!r} have {few}. Pass "
            f"`groups={[name for name in tested if name not in few]}`."
        )
    return tested


def _contrast(labels: pd.Series, group: str, reference: str) -> np.ndarray:
    """Weights (n,) of the spots whose product with a gene is the difference of its means."""
    here = (labels == group).to_numpy()
    there = labels.notna().to_numpy() & ~here if reference == REST else (labels == reference).to_numpy()
    return here / here.sum() - there / there.sum()
