"""Values of genes in the layers of the viewer: measured, predicted and corrected."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.validate import check_count
from deepspot._sdata.tables import check_shared_genes, comparable_scale, known_genes
from deepspot._stats.metrics import pearson
from deepspot._stats.normalize import LOG1P_10K
from deepspot.errors import InputError, MissingKeyError
from deepspot.pl._map.panel import GENE_SPAN, limits
from deepspot.pl._map.values import measured_values, predicted_values, unit_label

from .pack import pack, to_levels

if TYPE_CHECKING:
    from deepspot._report.contents import SlideContents

MEASURED, PREDICTED, CORRECTED = "measured", "predicted", "corrected"
CHUNK = 100
"""Genes that are in memory at the same time."""


@dataclass
class Layer:
    """Values of genes from one table: the smallest and largest of each gene, and the limits of its color scale.

    Entries of genes that the table does not have are None.
    """

    key: str
    unit: str
    low: list[float | None] = field(default_factory=list)
    high: list[float | None] = field(default_factory=list)
    limits: list[tuple[float | None, float | None] | None] = field(default_factory=list)
    span: list[float | None] = field(default_factory=list)

    def add(self, values: np.ndarray) -> bytes:
        """Add a gene (n,), and return its values as bytes, or none if they are all missing."""
        finite = values[np.isfinite(values)]
        if not len(finite):
            for entries in (self.low, self.high, self.limits, self.span):
                entries.append(None)  # type: ignore[attr-defined]
            return b""
        levels, low, high = to_levels(values)
        (bottom, top), (first, last) = limits(values, GENE_SPAN), limits(values)
        self.low.append(low)
        self.high.append(high)
        self.limits.append((_short(bottom), _short(top)))
        self.span.append(_short(last - first) if high > low else 0.0)
        return levels.tobytes()


@dataclass
class GeneFacts:
    """Layers, packed values by gene, and for each gene: limit of the difference, agreement and mean weight."""

    genes: list[str]
    layers: list[Layer]
    packed: list[str] = field(default_factory=list)
    difference: list[float | None] = field(default_factory=list)
    agreement: list[float | None] = field(default_factory=list)
    weight: list[float | None] = field(default_factory=list)

    @property
    def keys(self) -> list[str]:
        """Names of the layers."""
        return [layer.key for layer in self.layers]


def choose(slide: SlideContents, genes: int | Sequence[str]) -> list[str]:
    """Return the named genes, or this number: those with the highest expected r, else with the highest variance.

    Of measured genes, the most abundant ones.
    """
    if not slide.table_keys:
        raise MissingKeyError(f"No table has genes of {slide.shapes_key!r}. Call `ds.tl.predict(sdata)` first.")
    if not isinstance(genes, int | np.integer):
        return known_genes(genes, slide.sdata, slide.table_keys)
    check_count(genes, "genes")
    key = str(slide.prediction_key or slide.corrected_key or slide.measured_key)
    table = slide.sdata.tables[key]
    score = table.var.get("expected_r")
    if key == slide.measured_key:
        weight = np.asarray(table.X.sum(axis=0), dtype=float).ravel()
    elif score is None or score.isna().all():
        weight = np.asarray(table.X, dtype=np.float32).var(axis=0)
    else:
        weight = score.to_numpy(dtype=float)
    order = np.argsort(-np.nan_to_num(weight, nan=-np.inf), kind="stable")
    return [str(table.var_names[column]) for column in order[: int(genes)]]


def read(slide: SlideContents, genes: list[str], budget: float) -> GeneFacts:
    """Read, round and compress the values of genes; raise once they take more than this number of bytes."""
    source = slide.prediction_key or slide.corrected_key
    scale = LOG1P_10K if source is None else comparable_scale(slide.sdata.tables[source])
    units = {
        MEASURED: (slide.measured_key, slide.layer),
        PREDICTED: (source, None),
        CORRECTED: (slide.corrected_key, None),
    }
    layers = [
        Layer(name, unit_label(slide.sdata, key, layer, scale))
        for name, (key, layer) in units.items()
        if key is not None
    ]
    facts = GeneFacts(genes, layers)
    for values in _values(slide, genes, source, scale):
        _add(facts, values)
        n, used = len(facts.packed), sum(map(len, facts.packed))
        if used > budget:
            raise InputError(
                f"The values of {len(genes):,} genes in {slide.noun.count(slide.n_spots)} take about "
                f"{used / n * len(genes) / 1e6:.3g} MB, and `max_mb` leaves {max(budget, 0) / 1e6:.3g} MB for them: "
                f"about {max(0, int(n * budget / used)):,} genes. Pass fewer `genes`, or increase `max_mb`."
            )
    facts.layers = [layer for layer in layers if any(low is not None for low in layer.low)]
    if not {MEASURED, PREDICTED} <= set(facts.keys):
        facts.difference, facts.agreement = [], []
    return facts


def check_table(slide: SlideContents) -> None:
    """Raise if the measured table has fewer than half of the predicted genes."""
    source = slide.prediction_key or slide.corrected_key
    if slide.measured_key is not None and source is not None:
        measured = slide.sdata.tables[slide.measured_key]
        check_shared_genes(list(slide.sdata.tables[source].var_names), measured, slide.measured_key)


def _values(slide: SlideContents, genes: list[str], source: str | None, scale: Any) -> Iterator[dict[str, np.ndarray]]:
    """Yield values (n, some of the genes) by layer, and the weight of the measurement."""
    sdata, shapes_key = slide.sdata, slide.shapes_key
    for start in range(0, len(genes), CHUNK):
        some = genes[start : start + CHUNK]
        values = {}
        if slide.measured_key is not None:
            values[MEASURED] = measured_values(
                sdata, shapes_key, slide.measured_key, some, layer=slide.layer, scale=scale
            )
        if source is not None:
            layer = "predicted" if slide.prediction_key is None else None
            values[PREDICTED] = predicted_values(sdata, shapes_key, source, some, layer=layer)
        if slide.corrected_key is not None:
            key = slide.corrected_key
            values[CORRECTED] = predicted_values(sdata, shapes_key, key, some)
            mixed = predicted_values(sdata, shapes_key, key, some, layer="predicted")
            values["weight"] = predicted_values(sdata, shapes_key, key, some, layer="weight")
            values["weight"][~np.isfinite(mixed)] = np.nan  # the model does not predict these: they were not corrected
        yield values


def _add(facts: GeneFacts, values: dict[str, np.ndarray]) -> None:
    both = MEASURED in values and PREDICTED in values
    r = pearson(values[PREDICTED], values[MEASURED]) if both else None
    for column in range(next(iter(values.values())).shape[1]):
        packed = b"".join(layer.add(values[layer.key][:, column]) for layer in facts.layers)
        facts.packed.append(pack(packed))
        if r is not None:
            change = np.abs(values[PREDICTED][:, column] - values[MEASURED][:, column])
            known = change[np.isfinite(change)]
            largest = max(GENE_SPAN / 2, float(np.quantile(known, 0.99))) if len(known) else np.nan
            facts.difference.append(_short(largest))
            facts.agreement.append(_short(r[column]) if len(known) > 2 else None)
        if "weight" in values:
            weight = values["weight"][:, column]
            facts.weight.append(_short(np.nanmean(weight)) if np.isfinite(weight).any() else None)


def _short(value: float) -> float | None:
    """Return a number with the digits that are shown, and None for one that is not finite, which JSON does not have."""
    return float(f"{value:.5g}") if np.isfinite(value) else None
