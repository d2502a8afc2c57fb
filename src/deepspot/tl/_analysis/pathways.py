from __future__ import annotations

from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd
from scipy.sparse import issparse

from deepspot._core.keys import checked, column_name
from deepspot._core.logging import logger
from deepspot._core.validate import check_count
from deepspot._sdata.tables import find_expression_table
from deepspot._sdata.view import noun_of_table
from deepspot._sdata.write import add_entries, check_entries
from deepspot._stats.log_scale import log_expression
from deepspot.errors import InputError

from .gene_sets import read_network

if TYPE_CHECKING:
    from spatialdata import SpatialData

SCORES = ["score_mlm", "padj_mlm"]
PARAMETERS = "deepspot_pathways"


@checked
def pathways(
    sdata: SpatialData,
    net: pd.DataFrame | str | Path | None = None,
    *,
    table_key: str | None = None,
    layer: str | None = None,
    transform: Literal["paper"] | None = None,
    top: int = 500,
    tmin: int = 5,
    organism: str = "human",
    overwrite: bool = False,
) -> None:
    """Score the activity of pathways in every spot.

    decoupler fits a multivariate linear model (``mlm``) of the expression of each spot to the gene weights of all
    pathways. The score of a pathway is its t-value: above 0 if genes are higher in the direction of their weights.
    Scores are for comparison between spots of one slide; their zero depends on the genes in the table.

    Parameters
    ----------
    sdata
        Object with predicted, corrected or measured genes.
    net
        Weights of genes in pathways: a DataFrame with the columns ``source`` (pathway), ``target`` (gene) and
        ``weight``, or the path of a CSV file with them. By default PROGENy, which is downloaded once and
        cached.
    table_key
        Table with the genes on the log scale; by default the one with predicted or corrected genes.
    layer
        Layer of the table, by default `X`.
    transform
        ``"paper"`` sets negative values to 0 and adds 1 to all, on a copy. The 1 does not change scores.
    top
        Number of genes of each pathway of PROGENy, by p-value. Not used if `net` is given.
    tmin
        Minimum number of genes of a pathway in the table; pathways with fewer are left out.
    organism
        Organism of PROGENy, as named by decoupler.
    overwrite
        Replace results of an earlier call.

    Returns
    -------
    None. Adds to the table:

    ``obsm["score_mlm"]``
        DataFrame (n, pathways), float64: the scores. NaN for a spot without any expression. A slash in the name of a
        pathway is replaced by ``_``, because it could not be written.
    ``obsm["padj_mlm"]``
        DataFrame (n, pathways), float64: p-values of decoupler. Despite the name, decoupler 2.2 does not adjust those
        of ``mlm``. They assume independent genes: use them only for ranking, not as evidence.
    ``uns["deepspot_pathways"]``
        Parameters of this call.

    Raises
    ------
    KeyError
        If there is no such table or layer, or the network lacks a column.
    FileNotFoundError
        If the file of `net` does not exist.
    ConnectionError
        If PROGENy is not in the cache and cannot be downloaded.
    ValueError
        If there are several candidates for the table, its values are not on the log scale, too few genes are in the
        network, pathways are not linearly independent, a pair of pathway and gene is repeated, or entries
        exist already; or if two pathways differ only by ``/`` and ``_``.

    References
    ----------
    DeepSpot, section 4.4.4. Badia-i-Mompel et al., "decoupleR", Bioinformatics Advances 2022. Schubert et al.,
    "Perturbation-response genes reveal signaling footprints in cancer gene expression", Nature Communications 2018.

    Examples
    --------
    >>> import deepspot as ds
    >>> import pandas as pd
    >>> sdata = ds.datasets.toy(n_patients=1, n_rows=3, n_cols=4)["P1_S1"]
    >>> table = sdata.tables["table"]
    >>> table.X, table.uns["log1p"] = table.layers["expected"], {}
    >>> net = pd.DataFrame({"source": list(table.var["program"]), "target": list(table.var_names), "weight": 1.0})
    >>> net = net[net["source"].isin(["tumor", "lymphoid"])]
    >>> ds.tl.pathways(sdata, net, table_key="table")
    >>> table.obsm["score_mlm"].shape
    (12, 2)
    """
    import decoupler as dc

    table_key = find_expression_table(sdata, table_key)
    check_entries(sdata, table_key, "obsm", SCORES, overwrite=overwrite)
    check_entries(sdata, table_key, "uns", [PARAMETERS], overwrite=overwrite)
    table = sdata.tables[table_key]
    X, known = log_expression(table, table_key, layer, transform)
    genes = table.var_names[known]
    weights, source = read_network(net, organism, check_count(top, "top"))
    n_targets = _count_targets(weights, genes, tmin, table_key, source)

    columns = pd.Series([column_name(name) for name in n_targets.index], n_targets.index)
    if columns.duplicated().any():
        twins = columns.index[columns.duplicated(keep=False)].tolist()
        raise InputError(f"Pathways {twins} ({source}) have the same name after '/' is replaced by '_'. Rename them.")
    # Numbers instead of names, because decoupler drops spots without expression.
    frame = pd.DataFrame(X.toarray() if issparse(X) else X, columns=genes).astype(float)
    frame.index = frame.index.astype(str)
    try:
        scores = dc.mt.mlm(frame, weights, tmin=tmin)
    except (AssertionError, np.linalg.LinAlgError) as error:
        raise InputError(
            f"The pathways ({source}) are not linearly independent over the {len(genes):,} genes of table "
            f"{table_key!r}: {list(n_targets.index)}. Leave out those that share all genes with others."
        ) from error
    results = {
        name: values.reindex(frame.index).set_axis(table.obs_names).rename(columns=column_name)
        for name, values in zip(SCORES, scores, strict=True)
    }
    parameters = {
        "net": source,
        "layer": layer or "X",
        "transform": transform or "none",
        "tmin": tmin,
        "pathways": [str(name) for name in n_targets.index],
        "n_targets": [int(n) for n in n_targets],
        "decoupler": version("decoupler"),
    }
    add_entries(sdata, table_key, "obsm", results, overwrite=overwrite)
    add_entries(sdata, table_key, "uns", {PARAMETERS: parameters}, overwrite=overwrite)
    left_out = f" Left out: {(~known).sum():,} genes with missing values." if not known.all() else ""
    logger.info(
        f"Scored {len(scores[0].columns)} pathways ({source}, {n_targets.min()} to {n_targets.max()} genes each) in "
        f"{noun_of_table(sdata, table_key).count(len(scores[0]))} of sdata.tables[{table_key!r}].{left_out}"
    )


def _count_targets(net: pd.DataFrame, genes: pd.Index, tmin: int, table_key: str, source: str) -> pd.Series:
    """Return the number of genes in the table for each pathway with at least `tmin`."""
    known = net[net["target"].isin(genes)]
    number = known["source"].value_counts().sort_index()
    enough = number[number >= tmin]
    if enough.empty:
        raise InputError(
            f"No pathway ({source}) has {tmin} genes or more in table {table_key!r}; they share {len(known):,} of its "
            f"{len(genes):,} genes, at most {number.max() if len(number) else 0} for a pathway. Genes of the table are "
            f"for example {list(genes[:3])}, those of the network {list(net['target'][:3])}. Check the species and the "
            "identifiers, or pass a smaller `tmin`."
        )
    if len(genes) < len(enough) + 2:
        raise InputError(
            f"{len(genes)} genes are too few to score {len(enough)} pathways: more genes than pathways are needed."
        )
    return enough
