"""Measured counts of a slide, matched to its spots by instance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from scipy.sparse import csr_matrix

from deepspot._core.keys import key_in
from deepspot._core.logging import logger
from deepspot._stats.normalize import check_counts
from deepspot.errors import InputError

from .tables import match_rows, rows_of

if TYPE_CHECKING:
    from spatialdata import SpatialData


# Genes with counts that tell a spot from others.
DETECTED = 5


@dataclass(frozen=True, eq=False)
class MeasuredCounts:
    """Raw counts of the spots that are in a table and in a shapes element."""

    name: str  # of the slide, for messages
    table_key: str
    layer: str | None  # None is `X`
    counts: csr_matrix  # (n, genes)
    genes: pd.Index
    rows: np.ndarray  # (n,) positions of the spots in the shapes
    table_rows: np.ndarray  # (n,) rows of the spots in the table

    def depth(self, genes: pd.Index | None = None) -> np.ndarray:
        """Return the total counts (n,) of each spot over some genes, by default over all."""
        counts = self.counts if genes is None else self.counts[:, self.genes.get_indexer(genes)]
        return np.asarray(counts.sum(axis=1)).ravel()

    def spot_hashes(self, genes: Sequence[str] | None = None) -> np.ndarray:
        """Return different hashes, in int64, of the counts of the spots, by decreasing depth.

        They do not depend on the order of spots and genes, nor on genes without counts. With `genes`, only these are
        compared, and spots with fewer than 5 of them are left out: others may be equal by chance.
        """
        columns = np.arange(len(self.genes)) if genes is None else np.flatnonzero(self.genes.isin(list(genes)))
        counts = self.counts[:, columns].tocoo()
        counts.eliminate_zeros()
        names = pd.util.hash_array(np.asarray(self.genes[columns], dtype=object))
        hashes = np.zeros(len(self.rows), dtype=np.uint64)
        np.add.at(hashes, counts.row, pd.util.hash_array(names[counts.col] + counts.data.astype(np.uint64)))
        detected, depth = (np.bincount(counts.row, w, len(hashes)) for w in (None, counts.data))
        hashes = (hashes >> np.uint64(1)).astype(np.int64)
        order = np.argsort(-depth, kind="stable")
        return pd.unique(hashes[order[detected[order] >= (1 if genes is None else DETECTED)]])

    def without_empty(self) -> MeasuredCounts:
        """Drop spots without counts; raise if none is left."""
        seen = self.depth() > 0
        where = f"Slide {self.name!r}" if self.name else f"Table {self.table_key!r}"
        if not seen.any():
            raise InputError(f"{where} has no spot with counts. Leave it out, or choose another table or layer.")
        if seen.all():
            return self
        logger.warning("%s: %d spots without counts are left out.", where, int((~seen).sum()))
        return replace(self, counts=self.counts[seen], rows=self.rows[seen], table_rows=self.table_rows[seen])


def measured_counts(
    sdata: SpatialData, shapes_key: str, table_key: str, *, layer: str | None = None, name: str = ""
) -> MeasuredCounts:
    """Return the raw counts of a table, matched to shapes; errors name the slide if it has a name."""
    table = sdata.tables[table_key]
    named = f"table {table_key!r}" + (f" of slide {name!r}" if name else "")
    where = f"X of {named}"
    if layer is not None:
        where = f"Layer {layer!r} of {named}"
        key_in(layer, table.layers, f"layers of {named}")
    if not table.var_names.is_unique:
        raise InputError(f"Gene names of {named} are not unique. Call `var_names_make_unique` on its table.")
    counts = check_counts(table.X if layer is None else table.layers[layer], where)
    table_rows, rows = match_rows(table, sdata, shapes_key)
    if len(rows) == 0:
        raise InputError(
            f"Shapes {shapes_key!r} and {named} have no spot in common: the shapes have "
            f"{list(sdata.shapes[shapes_key].index[:3])}, the table has {list(rows_of(table, shapes_key)[:3])}. "
            "Give both the same identifiers, of the same type."
        )
    return MeasuredCounts(name, table_key, layer, counts[table_rows], table.var_names, rows, table_rows)
