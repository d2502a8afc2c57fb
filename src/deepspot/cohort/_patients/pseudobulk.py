from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd
from scipy.sparse import issparse

from deepspot._core.keys import PSEUDOBULK, SCALE, SLIDE, UNS
from deepspot._core.logging import logger, track
from deepspot._sdata.tables import MIN_SHARED_GENES, find_expression_table, labels_of
from deepspot._stats.log_scale import check_log_scale
from deepspot.errors import InputError
from deepspot.models._training.slides import as_mapping

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

HOW = ("mean", "median")
# Spots in a block; bytes of a block of genes whose median is found.
ROWS, BYTES = 1024, 32_000_000


def pseudobulk(
    sdatas: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData],
    *,
    table_key: str | None = None,
    how: Literal["mean", "median"] = "mean",
    groupby: str | None = None,
) -> AnnData:
    """Make one profile of all spots of a slide, or of each of its regions.

    The profile is the mean over spots of expression on the log scale, as in the paper, and not the logarithm of a
    mean. Negative values count as 0. Tables whose `X` stays on disk are read block by block, never as a whole.

    Slides need not hold the same genes: those that all hold are kept, in the order of the first slide. With a NaN
    for each gene that one slide lacks, nothing that follows could use it, so there is no such option.

    Parameters
    ----------
    sdatas
        One slide, several, or a mapping from names to slides. Without a mapping, slides that :func:`deepspot.io.slide`
        opened go by the names that it gave them.
    table_key
        Table with genes on the log scale; by default the one with predicted or corrected genes.
    how
        ``"mean"`` or ``"median"`` over spots. The median of a gene that most spots lack is 0.
    groupby
        Column with regions, in `obs` of the table or in its shapes, such as ``"annotation"`` of
        :func:`deepspot.pp.annotate`: a profile for each. Spots without one are left out.

    Returns
    -------
    Profiles (n, genes), float32, one for each slide or slide and region, whose names are those of the slides, or
    ``<slide>: <region>``.

    ``obs``
        `slide`; `region`, if `groupby` is given; `spots`, how many; `ood_share`, the share of them that is unlike the
        training, NaN if unknown. Join clinical columns to it, ``profiles.obs.join(clinical, on="slide")``.
    ``var``
        That of the first slide, if all were predicted by one model.
    ``uns["deepspot"]``
        `kind` (``"pseudobulk"``), `how`, `scale`, `groupby`, and `model` and `fingerprint` of what predicted.

    Raises
    ------
    KeyError
        If there is no such table or column.
    ValueError
        If there are several candidates for the table, its values are not log1p of counts per 10,000 as far as can be
        known, slides were predicted by different models, they share under half of their genes, or have no spot with a
        region.

    References
    ----------
    DeepSpot, section 4.3.1.

    Examples
    --------
    >>> import deepspot as ds
    >>> import scanpy as sc
    >>> slides = ds.datasets.toy(n_patients=2)
    >>> for sdata in slides.values():
    ...     sc.pp.normalize_total(sdata["table"], target_sum=1e4)
    ...     sc.pp.log1p(sdata["table"])
    >>> ds.cohort.pseudobulk(slides, table_key="table").obs["spots"].to_dict()
    {'P1_S1': 120, 'P2_S1': 120}
    """
    from anndata import AnnData

    if how not in HOW:
        raise InputError(f"`how` must be one of {list(HOW)}, got {how!r}.")
    slides = _named(sdatas)
    keys = {name: find_expression_table(sdata, table_key) for name, sdata in slides.items()}
    tables = {name: sdata.tables[keys[name]] for name, sdata in slides.items()}
    for name, table in tables.items():
        _check_table(table, f"Table {keys[name]!r} of slide {name!r}")
    made = _one_model(tables)
    genes = _shared_genes(tables)
    labels = {} if groupby is None else {name: labels_of(slides[name], keys[name], groupby) for name in slides}
    for name, regions in labels.items():
        if regions.isna().all():
            raise InputError(
                f"No spot of slide {name!r} has a region in {groupby!r}. Leave the slide out, or label spots."
            )
    X, rows = [], {}
    for name, table in track(tables.items(), "Profiles", total=len(tables), unit="slide"):
        columns = table.var_names.get_indexer(genes)
        for region in labels[name].cat.categories if labels else [None]:
            members = np.ones(table.n_obs, dtype=bool) if region is None else (labels[name] == region).to_numpy()
            X.append(profile(table.X, how, members)[columns])
            row = {"slide": name} if region is None else {"slide": name, "region": region}
            ood_share = float(table.obs["ood"].to_numpy()[members].mean()) if "ood" in table.obs else np.nan
            rows[": ".join(row.values())] = row | {"spots": int(members.sum()), "ood_share": ood_share}
    obs = pd.DataFrame.from_dict(rows, orient="index")
    var = next(iter(tables.values())).var.loc[genes] if "fingerprint" in made else pd.DataFrame(index=genes)
    uns = {"kind": PSEUDOBULK, "how": how, "scale": SCALE} | made | ({} if groupby is None else {"groupby": groupby})
    profiles = AnnData(np.stack(X), obs=obs, var=var.copy(), uns={"log1p": {}, UNS: uns})
    logger.info(f"Made {len(obs)} profiles of {len(genes):,} genes: the {how} over the spots of {len(tables)} slides.")
    return profiles


def profile(X: Any, how: str, rows: np.ndarray | None = None) -> np.ndarray:
    """Profile (genes,) float32 of some or all spots (n,) bool of a numpy, sparse or dask array (n, genes).

    Negative values count as 0, and a gene that any of these spots lacks is NaN. Blocks are read once each.
    """
    import dask.array as da

    if not hasattr(X, "dask"):
        X = da.from_array(X, chunks=(ROWS, -1), name=False, asarray=False)
    X = X.map_blocks(_nonnegative, meta=np.empty((0, 0), X.dtype))
    X = X if rows is None else X[rows]
    if how == "mean":
        found = X.mean(axis=0, dtype=np.float64)
    else:
        found = da.median(X.rechunk((-1, "auto"), block_size_limit=BYTES), axis=0)
    # Within the job of a Dask worker, the default scheduler would send the blocks around the cluster.
    return found.compute(scheduler="synchronous").astype(np.float32)


def _nonnegative(block: Any) -> np.ndarray:
    return np.maximum(block.toarray() if issparse(block) else np.asarray(block), 0)


def _named(sdatas: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData]) -> dict[str, SpatialData]:
    """Name the slides; those that know their names keep them."""
    slides = as_mapping(sdatas)
    if not isinstance(sdatas, Mapping):
        names = [sdata.attrs.get(SLIDE, {}).get("name") for sdata in slides.values()]
        if all(names) and len(set(names)) == len(names):
            return dict(zip(map(str, names), slides.values(), strict=True))
    return slides


def _check_table(table: AnnData, where: str) -> None:
    """Raise unless profiles can be made of a table: named genes on the one scale of expression."""
    if table.X is None or not table.n_obs:
        raise InputError(f"{where} is empty, so there is nothing to make a profile of.")
    if not table.var_names.is_unique:
        raise InputError(f"{where} has gene names that are not unique. Call `var_names_make_unique` on it first.")
    said = table.uns.get(UNS, {}).get("scale")
    if said is not None:
        if said != SCALE:
            raise InputError(f"{where} is on the scale {said!r}. Profiles are made of {SCALE!r}.")
        return
    head = table.X[:ROWS]
    check_log_scale(head.compute() if hasattr(head, "dask") else head, where, said="log1p" in table.uns)


def _one_model(tables: Mapping[str, AnnData]) -> dict[str, Any]:
    """Which model predicted, one for all slides; empty if none did."""
    known = {name: table.uns.get(UNS, {}) for name, table in tables.items()}
    models = {name: (made.get("model"), made.get("fingerprint")) for name, made in known.items()}
    if len(set(models.values())) > 1:
        first = next(iter(models))
        other = next(name for name in models if models[name] != models[first])
        raise InputError(
            f"Slides {first!r} and {other!r} are not of one model, but of {models[first][0]!r} and "
            f"{models[other][0]!r} (fingerprints {models[first][1]!r} and {models[other][1]!r}). Profiles of different "
            "models differ for that reason alone. Predict all slides with one, or make profiles for each."
        )
    name, fingerprint = next(iter(models.values()))
    return {} if fingerprint is None else {"model": name, "fingerprint": fingerprint}


def _shared_genes(tables: Mapping[str, AnnData]) -> pd.Index:
    """Genes that all slides hold, in the order of the first."""
    first, *others = tables.values()
    genes = first.var_names
    for table in others:
        genes = genes[genes.isin(table.var_names)]
    smallest = min(tables, key=lambda name: tables[name].n_vars)
    if len(genes) < MIN_SHARED_GENES * tables[smallest].n_vars:
        examples = {name: list(table.var_names[:2]) for name, table in list(tables.items())[:4]}
        raise InputError(
            f"The slides share {len(genes)} genes, under half of the {tables[smallest].n_vars:,} of slide "
            f"{smallest!r}. They name genes like {examples}: symbols in one and other identifiers in another, or "
            "other species? Bring them to the same names (`gene_id_key` when reading)."
        )
    if len(genes) < max(table.n_vars for table in tables.values()):
        logger.warning("Slides differ in their genes: the %s that all hold are kept.", f"{len(genes):,}")
    return genes
