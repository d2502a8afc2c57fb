"""What is pooled: shapes with a table of counts, or transcripts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.keys import key_in
from deepspot._sdata.measured import measured_counts
from deepspot._sdata.view import known_diameter
from deepspot._spatial.transforms import centers_um, intrinsic_centers, positions_um, um_per_own_unit
from deepspot._stats.groups import members_of
from deepspot.errors import InputError

if TYPE_CHECKING:
    import pandas as pd
    from scipy.sparse import csr_matrix
    from spatialdata import SpatialData

SpotOf = Callable[[np.ndarray], np.ndarray]
"""Function that returns the spot (n,), or -1, of positions (n, 2) in the coordinates of the source."""


@dataclass(frozen=True)
class Pooled:
    """Sums of the spots."""

    counts: csr_matrix  # (spots, genes) int64
    n_pooled: np.ndarray  # (spots,) int64: shapes or transcripts
    var: pd.DataFrame
    n_outside: int  # shapes or transcripts in no spot
    counts_outside: int
    spot: np.ndarray  # (shapes,) of each shape, or -1; empty for transcripts


class ShapeCounts:
    """Shapes with raw counts."""

    noun = "shapes"

    def __init__(self, sdata: SpatialData, shapes_key: str, table_key: str, layer: str | None) -> None:
        self.sdata, self.key, self.table = sdata, shapes_key, sdata.tables[table_key]
        self.measured = measured_counts(sdata, shapes_key, table_key, layer=layer)

    def extent_um(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and highest x and y in µm."""
        xy = centers_um(self.sdata, self.key)[self.measured.rows]
        return xy.min(axis=0), xy.max(axis=0)

    def side_um(self) -> float:
        """Return the median side, or diameter, of the shapes in µm."""
        shapes = self.sdata.shapes[self.key]
        side = 2 * shapes["radius"] if "radius" in shapes else np.sqrt(shapes.geometry.area)
        return known_diameter(self.sdata, self.key) or float(side.median()) * um_per_own_unit(self.sdata, self.key)

    def constants(self) -> dict[str, Any]:
        """Return the columns of `obs` that have one value, which is then also that of the spots."""
        obs = self.table.obs
        return {str(name): obs[name].iloc[0] for name in obs if obs[name].nunique(dropna=False) == 1}

    def link(self, spot: np.ndarray, index: pd.Index, kept: np.ndarray, column: str) -> pd.DataFrame:
        """Return a column for the table: the spots of the shapes, missing where these are not kept."""
        import pandas as pd

        code = np.append(np.where(kept, np.cumsum(kept) - 1, -1), -1)[spot]
        codes = np.full(self.table.n_obs, -1)
        codes[self.measured.table_rows] = code[self.measured.rows]
        return pd.DataFrame({column: pd.Categorical.from_codes(codes, index[kept])}, index=self.table.obs_names)

    def pool(self, spot_of: SpotOf, n_spots: int) -> Pooled:
        """Add up the counts of the shapes in each of `n_spots`."""
        spot = np.full(len(self.sdata.shapes[self.key]), -1)
        rows = self.measured.rows
        spot[rows] = spot_of(intrinsic_centers(self.sdata, self.key)[rows])
        inside = np.flatnonzero(spot[rows] >= 0)  # most shapes may be in no spot
        pooled = members_of(spot[rows][inside], n_spots, np.int64) @ self.measured.counts[inside].astype(np.int64)
        # Identifiers of genes are also those of the sums; numbers such as means of bins are not.
        var = self.table.var.select_dtypes(exclude=["number", "bool"])
        n_pooled = np.bincount(spot[rows][inside], minlength=n_spots)
        # Whole numbers up to 2**53 are exact in float64.
        outside = int(self.measured.counts.data.sum(dtype=np.float64)) - int(pooled.sum())
        return Pooled(pooled, n_pooled, var, len(rows) - len(inside), outside, spot)


class Transcripts:
    """Points with a gene each, read in partitions."""

    noun = "transcripts"

    def __init__(self, sdata: SpatialData, points_key: str, gene_key: str | None) -> None:
        self.sdata, self.key = sdata, key_in(points_key, sdata.points, "sdata.points")
        self.points = sdata.points[points_key]
        if gene_key is None:
            gene_key = self.points.attrs.get("spatialdata_attrs", {}).get("feature_key")
        if gene_key is None:
            raise InputError(
                f"The points {points_key!r} do not say which column has the gene. Choose one of "
                f"{list(self.points.columns)} with `gene_key=`."
            )
        self.gene_key = key_in(gene_key, self.points.columns, f"columns of sdata.points[{points_key!r}]")

    def _partitions(self, *columns: str) -> Iterator[pd.DataFrame]:
        for number in range(self.points.npartitions):
            part = self.points[["x", "y", *columns]].partitions[number].compute()
            if not np.isfinite(part[["x", "y"]].to_numpy(dtype=float)).all():
                raise InputError(f"The points {self.key!r} have coordinates that are not finite. Remove them first.")
            if len(part):
                yield part

    def extent_um(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the lowest and highest x and y in µm."""
        low, high = np.full(2, np.inf), np.full(2, -np.inf)
        for part in self._partitions():
            xy = positions_um(self.sdata, self.key, part[["x", "y"]].to_numpy(dtype=float))
            low, high = np.minimum(low, xy.min(axis=0)), np.maximum(high, xy.max(axis=0))
        if not np.isfinite(low).all():
            raise InputError(f"The points {self.key!r} are empty. Choose other points.")
        return low, high

    def side_um(self) -> float:
        """Return the size of a transcript."""
        return 0.0

    def constants(self) -> dict[str, Any]:
        """Return no columns: transcripts have no table."""
        return {}

    def pool(self, spot_of: SpotOf, n_spots: int) -> Pooled:
        """Count the transcripts of each gene in each of `n_spots`."""
        import pandas as pd
        from scipy.sparse import coo_matrix, csr_matrix

        genes = pd.Index([], dtype=object)
        total: Any = csr_matrix((n_spots, 0), dtype=np.int64)
        n_outside = 0
        for part in self._partitions(self.gene_key):
            code, names = pd.factorize(part[self.gene_key])
            if (code < 0).any():
                raise InputError(f"{(code < 0).sum():,} points of {self.key!r} have no gene. Remove them first.")
            names = pd.Index(names).astype(str).astype(object)
            genes = genes.append(names.difference(genes, sort=False))
            column = genes.get_indexer(names)[code]
            spot = spot_of(part[["x", "y"]].to_numpy(dtype=float))
            inside = spot >= 0
            n_outside += int((~inside).sum())
            ones = np.ones(int(inside.sum()), dtype=np.int64)
            total.resize((n_spots, len(genes)))
            total = total + coo_matrix((ones, (spot[inside], column[inside])), shape=total.shape).tocsr()
        order = np.argsort(genes.to_numpy(dtype=str), kind="stable")
        n_pooled = np.asarray(total.sum(axis=1)).ravel()
        var = pd.DataFrame(index=genes[order])
        return Pooled(total[:, order], n_pooled, var, n_outside, n_outside, np.empty(0, dtype=int))
