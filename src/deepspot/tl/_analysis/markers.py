from __future__ import annotations

import warnings
from collections.abc import Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from deepspot._core.keys import CORRECTED, PREDICTION, checked, key_in, keys_in
from deepspot._core.logging import logger
from deepspot._core.validate import MOST, check_count, check_positive, check_seed
from deepspot._sdata.tables import find_expression_table, kind_of, labels_of, match_rows, regions_of
from deepspot._sdata.view import noun_of_table
from deepspot._sdata.write import add_entries, check_entries
from deepspot._spatial.transforms import intrinsic_centers
from deepspot._stats.log_scale import PAPER, log_expression
from deepspot._stats.patterns import effective_patterns
from deepspot._stats.spatial_null import spatial_p_values
from deepspot.errors import InputError

if TYPE_CHECKING:
    from spatialdata import SpatialData

REST, FEWEST = "rest", 3
# Cochran's limit for expected counts, and the largest share of spots for which it is used.
EXPECTED, RARE = 5, 0.2
TESTS = ("wilcoxon", "blocks")
MOST_GENES = 0.5  # share of the genes that differ, above which there is a warning for predicted genes
NAMES = {"names": "gene", "logfoldchanges": "logfoldchange", "scores": "score", "pvals": "p", "pvals_adj": "p_adj"}


@checked
def markers(
    sdata: SpatialData,
    groupby: str,
    *,
    table_key: str | None = None,
    layer: str | None = None,
    groups: Sequence[str] | None = None,
    reference: str | float = REST,
    test: Literal["wilcoxon", "blocks"] = "wilcoxon",
    n_permutations: int = 10_000,
    alpha: float = 0.05,
    min_logfoldchange: float = 0.0,
    transform: Literal["paper"] | None = None,
    seed: int | None = None,
    key_added: str = "markers",
    overwrite: bool = False,
) -> None:
    """Find marker genes that are higher in one group of spots than in the others.

    The test is scanpy's Wilcoxon rank-sum test with tie correction. Genes are ranked by their log fold change. Its
    normal approximation fails for a gene that few spots express: a count in a single spot would be significant. If less
    than a fifth of the spots express a gene, and fewer than 5 of them are expected in the group, its p-value is at
    least that of Fisher's exact test of these spots.

    The rank-sum test assumes that spots are independent. Neighboring spots resemble one another, predicted ones even
    more so, and a region of 100 spots is not 100 observations. On a real section of 181 spots, 16 to 26 % of the
    measured and 61 to 82 % of the predicted genes without relation to the regions have p < 0.05. ``test="blocks"`` adds
    a test that accounts for this (1 to 6 %) and has less power. It is Moran spectral randomization: each gene is
    expressed in the eigenvectors of the neighbor graph, and blocks of 2, 4, 8, … eigenvectors of similar wavelength are
    rotated at random. The resulting random fields have patches of the same size and strength as the gene at other
    positions. The p-value is the fraction of fields with at least the same difference between the groups, which is
    corrected for what rotations change in smooth genes. It still fails for genes as smooth as the slide is wide: up to
    14 % of such Gaussian random fields differ between the upper and lower half of a section with p < 0.05, and 0.3 to
    6 % between the left and right half (``benchmarks/results/markers_halves.md``). Permuting
    blocks of *spots* does not work: the blocks must be larger than the patches, and then a section has too few.

    Predicted genes share few patterns, and so most of them differ between any two regions that differ in cellularity.
    If more than half of the predicted or corrected genes differ, there is a warning with the number of patterns.

    Neither test is valid if the groups were computed from the same genes, such as clusters of the same table. Neither
    test accounts for variation between patients: a section is one sample.

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
        Groups to find markers of; by default all. Each is compared with all other groups, also those not in `groups`.
    reference
        Group to compare with; by default (``"rest"``) all other spots with a group.
    test
        ``"blocks"`` adds the test that accounts for the similarity of neighboring spots.
    n_permutations
        Number of random fields. P-values below 1 / (`n_permutations` + 1) are an upper bound.
    alpha
        Significance level of the adjusted p-values.
    min_logfoldchange
        A gene is significant only if its log fold change is above this value.
    transform
        ``"paper"`` sets negative values to 0 and adds 1 to all, on a copy. The ranks and the test do not change. Fold
        changes become those of counts per 10,000 plus 0.63 and are smaller, mainly for genes with low expression.
    seed
        Seed of the random fields; None uses the settings.
    key_added
        Key of the result.
    overwrite
        Replace results of an earlier call.

    Returns
    -------
    None. Adds to `uns` of the table, which does not change otherwise:

    ``uns["markers"]``
        DataFrame with a row for each group and gene, by group and then by decreasing log fold change: ``group``
        (categorical), ``gene``, ``logfoldchange`` (log2; scanpy compares means on the log scale, transformed back to
        counts), ``score`` (z of the rank-sum test), ``p`` and ``p_adj`` (Benjamini-Hochberg within the group),
        ``p_block`` and ``p_block_adj`` (NaN unless ``test="blocks"``), ``significant`` (bool: higher in the group, and
        the adjusted p-value, of the block test if it was used, is below `alpha`), ``rank`` (from 1).
    ``uns["deepspot_markers"]``
        Parameters of this call.

    Raises
    ------
    KeyError
        If there is no such table, layer, column or group.
    ValueError
        If there are several candidates for the table, its values are not on the log scale, a group or its
        reference has fewer than 3 spots, entries exist already, or an option does not exist.

    References
    ----------
    DeepSpot, sections 4.4.1 (transform) and 4.4.2 (test; scanpy's rank-sum test, called signed-rank there). Wagner and
    Dray, "Generating spatially constrained null models for irregularly spaced data using Moran spectral randomization
    methods", Methods in Ecology and Evolution 2015. The numbers are in ``benchmarks/results/markers.md``.

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
    from scipy.stats import false_discovery_control

    table_key = find_expression_table(sdata, table_key)
    if test not in TESTS:
        raise InputError(f"`test` must be one of {list(TESTS)}, got {test!r}.")
    check_positive(alpha, "alpha")
    check_count(n_permutations, "n_permutations", MOST)
    seed = check_seed(seed)
    added = [key_added, f"deepspot_{key_added}"]
    check_entries(sdata, table_key, "uns", added, overwrite=overwrite, argument="key_added")
    table = sdata.tables[table_key]
    X, known = log_expression(table, table_key, layer, transform)
    labels = labels_of(sdata, table_key, groupby)
    reference = str(reference)
    tested = _groups(labels, groups, reference, groupby)
    regions = regions_of(sdata, table_key)
    if test == "blocks" and len(regions) != 1:
        raise InputError(
            f"The block test needs the positions of spots in one shapes element, but table {table_key!r} annotates the "
            f"shapes {regions}. Split the table, or use `test='wilcoxon'`."
        )

    kept = labels.notna().to_numpy()
    obs, var = pd.DataFrame({groupby: labels[kept]}), table.var.loc[known, []]
    small = AnnData(X[kept], obs=obs, var=var, uns={"log1p": dict(table.uns.get("log1p", {}))})
    # The result of scanpy is not kept: with its record arrays, zarr 3.1 cannot open a store of zarr 3.4.
    # Constant genes have no score, and many groups make many columns: these warnings do not help the user.
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", pd.errors.PerformanceWarning)
        sc.tl.rank_genes_groups(small, groupby, groups=tested, reference=reference, method="wilcoxon", tie_correct=True)
    frame = pd.concat([sc.get.rank_genes_groups_df(small, name).assign(group=name) for name in tested])
    frame = frame.rename(columns=NAMES)[["group", *NAMES.values()]].assign(group=pd.Categorical(frame["group"], tested))
    frame = frame.sort_values(
        ["group", "logfoldchange", "score", "gene"], ascending=[True, False, False, True], ignore_index=True
    )
    # The transform adds 1.
    least = _least_p_values(X[kept] > (transform == PAPER), labels[kept], tested, reference)
    of_frame = frame["group"].cat.codes, small.var_names.get_indexer(frame["gene"])
    frame["p"] = np.maximum(frame["p"], least[of_frame])
    # Constant genes have no p-value; scanpy adjusts with 1.
    by_group = frame["p"].fillna(1).groupby(frame["group"], observed=True)
    frame["p_adj"] = by_group.transform(false_discovery_control)
    frame["p_block"] = frame["p_block_adj"] = np.nan
    if test == "blocks":
        rows, at = match_rows(table, sdata, regions[0])
        contrasts = np.array([_contrast(labels.iloc[rows], name, reference) for name in tested])
        # All spots, also those without a group, are used to estimate the smoothness of a gene.
        centers, rng = intrinsic_centers(sdata, regions[0])[at], np.random.default_rng(seed)
        p = np.maximum(spatial_p_values(X[rows], contrasts, centers, int(n_permutations), rng), least)
        frame["p_block"], frame["p_block_adj"] = p[of_frame], false_discovery_control(p, axis=1)[of_frame]
    p_adj = frame["p_adj" if test == "wilcoxon" else "p_block_adj"]
    frame["significant"] = (p_adj < alpha) & (frame["logfoldchange"] > min_logfoldchange)
    frame["rank"] = frame.groupby("group", observed=True).cumcount() + 1

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
    results = dict(zip(added, (frame, parameters), strict=True))
    add_entries(sdata, table_key, "uns", results, overwrite=overwrite)
    number = frame.groupby("group", observed=True)["significant"].sum()
    differ = (p_adj < alpha).groupby(frame["group"], observed=True).mean()
    if kind_of(table) in (PREDICTION, CORRECTED) and (differ > MOST_GENES).any():
        advice = "" if test == "blocks" else " `test='blocks'` accounts for the similarity of neighboring spots."
        logger.warning(
            "%.0f %% of the genes differ between group %r and %s (p_adj < %g). They are not as many independent "
            "markers: the %d %s genes hold about %.1f independent patterns.%s",
            *(
                100 * differ.max(),
                differ.idxmax(),
                "the other spots" if reference == REST else f"group {reference!r}",
                alpha,
                small.n_vars,
                "predicted" if kind_of(table) == PREDICTION else "corrected",
                effective_patterns(small.to_df().to_numpy()),
                advice,
            ),
        )
    noun = noun_of_table(sdata, table_key)
    left_out = {
        f"{noun.many} without a group": (~kept).sum(),
        "genes with missing values": (~known).sum(),
    }
    text = " and ".join(f"{n:,} {what}" for what, n in left_out.items() if n)
    logger.info(
        f"Compared {noun.count(int(kept.sum()))} by {groupby!r} in {small.n_vars:,} genes of "
        f"sdata.tables[{table_key!r}]; "
        f"markers: {', '.join(f'{name} {n:,}' for name, n in number.items())}.{f' Left out: {text}.' if text else ''}"
    )


def _groups(labels: pd.Series, groups: Sequence[str] | None, reference: str, groupby: str) -> list[str]:
    """Return the groups to test; raise an error if a group or its reference has too few spots."""
    size = labels.value_counts(sort=False)
    where = f"groups of {groupby!r}"
    if reference == REST and REST in size.index and len(size) > 2:
        logger.warning(
            "One of the %s is called %r, but `reference=%r` compares with all other spots. Rename the group to compare "
            "with it.",
            *(where, REST, REST),
        )
    if reference != REST:
        key_in(reference, size.index, where)
    tested = [name for name in keys_in(groups, size.index, where) if reference == REST or name != reference]
    other = {name: size.sum() - size[name] if reference == REST else size[reference] for name in tested}
    if not any(other.values()):
        raise InputError(f"There is nothing to compare: {where} are {size.to_dict()}. At least two groups are needed.")
    few = {name: f"{size[name]} against {n}" for name, n in other.items() if min(size[name], n) < FEWEST}
    if few:
        raise InputError(
            f"Each side of a comparison needs at least {FEWEST} spots; these groups of {groupby!r} have {few}. Pass "
            f"`groups={[name for name in tested if name not in few]}`."
        )
    return tested


def _least_p_values(detected: Any, labels: pd.Series, groups: Sequence[str], reference: str) -> np.ndarray:
    """Return a lower bound (groups, genes) of the p-values of genes that few spots express, and 0 for other genes.

    `detected` (n, genes) is whether a spot expresses a gene. If a group is expected to have fewer than 5 of the spots
    with a gene, neither a normal approximation nor random fields are valid: a gene in a single spot would be
    significant. Fisher's exact test of these spots is valid.
    """
    from scipy.stats import hypergeom

    least = np.zeros((len(groups), detected.shape[1]))
    for number, name in enumerate(groups):
        here = (labels == name).to_numpy()
        both = np.ones(len(labels), dtype=bool) if reference == REST else here | (labels == reference).to_numpy()
        inside, total = (np.asarray(detected[rows].sum(axis=0)).ravel() for rows in (here, both))
        size = both.sum()
        rare = (total < RARE * size) & (total * here.sum() < EXPECTED * size)
        p = 2 * hypergeom.sf(inside[rare] - 1, size, total[rare], here.sum())
        least[number, rare] = np.minimum(p, 1)
    return least


def _contrast(labels: pd.Series, group: str, reference: str) -> np.ndarray:
    """Return weights (n,) of the spots; their product with a gene is the difference of means."""
    here = (labels == group).to_numpy()
    there = labels.notna().to_numpy() & ~here if reference == REST else (labels == reference).to_numpy()
    return here / here.sum() - there / there.sum()
