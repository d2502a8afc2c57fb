"""Contents of a slide that a report shows, looked up before anything is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepspot._core.keys import LEARNED, PREDICTION, UNS
from deepspot._core.validate import check_count
from deepspot._sdata.measured import measured_counts
from deepspot._sdata.tables import is_finer, known_genes, labels_of
from deepspot._sdata.view import Noun, SlideView, noun_of
from deepspot._stats.patterns import distinct_genes
from deepspot.errors import InputError, MissingKeyError
from deepspot.models._confidence.ood import MANY_OOD
from deepspot.tl._predict.table import learned_from

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from deepspot.models import Model
    from deepspot.models._bundle.card import Card
    from deepspot.pl._map.backdrop import Backdrop
    from deepspot.pl._map.places import Places

ANNOTATION, CLUSTERS = "annotation", "leiden"
MAX_SPOTS = 2000


@dataclass(frozen=True)
class SlideContents:
    """Image, spots, tables and model card of a slide, and the parts that a report lacks.

    Attributes
    ----------
    sdata
        Object with the slide.
    image_key, shapes_key
        Image and spots.
    prediction_key, corrected_key, measured_key
        Tables; None where there is none.
    layer
        Layer of the measured table with raw counts.
    card
        Card of the model that predicted, if known.
    missing
        Missing parts and the reason, filled while the report is written. None: the function that adds the part was
        not called.
    """

    sdata: SpatialData
    image_key: str
    shapes_key: str
    prediction_key: str | None
    corrected_key: str | None
    measured_key: str | None
    layer: str | None
    card: Card | None
    missing: dict[str, str | None] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """Name of the slide, from the names that `ds.io` gives to its image and shapes."""
        for suffix in ("_full_image", "_image"):
            if self.image_key.endswith(suffix) and len(self.image_key) > len(suffix):
                return self.image_key.removesuffix(suffix)
        return self.image_key if self.shapes_key == "spots" else self.shapes_key

    @cached_property
    def noun(self) -> Noun:
        """What the spots, cells or bins are called."""
        return noun_of(self.sdata, self.shapes_key)

    @cached_property
    def map(self) -> tuple[Places, Backdrop]:
        """Places of the spots and the downscaled image behind them, which all maps share."""
        from deepspot.pl._map.backdrop import backdrop_of
        from deepspot.pl._map.places import find_places

        places = find_places(self.sdata, self.image_key, self.shapes_key)
        return places, backdrop_of(self.sdata, self.image_key, places)

    @property
    def n_spots(self) -> int:
        """Number of spots."""
        return len(self.sdata.shapes[self.shapes_key])

    @property
    def table_keys(self) -> list[str]:
        """Names of the existing tables of corrected, predicted and measured genes, in this order."""
        return [name for name in (self.corrected_key, self.prediction_key, self.measured_key) if name is not None]

    @property
    def prediction(self) -> AnnData | None:
        """Table of predicted genes."""
        return None if self.prediction_key is None else self.sdata.tables[self.prediction_key]

    @property
    def measured(self) -> AnnData | None:
        """Table of measured genes."""
        return None if self.measured_key is None else self.sdata.tables[self.measured_key]

    @property
    def provenance(self) -> dict[str, Any]:
        """Entry of the predicted table about its model."""
        return {} if self.prediction is None else dict(self.prediction.uns[UNS])

    @cached_property
    def sampled(self) -> np.ndarray:
        """Predicted (else corrected) genes in up to 2,000 spots, which are enough to compare their patterns."""
        X = self.sdata.tables[str(self.prediction_key or self.corrected_key)].X
        return np.asarray(X[np.unique(np.linspace(0, X.shape[0] - 1, MAX_SPOTS).astype(int))])

    @cached_property
    def learned(self) -> str:
        """Whether the model learned from this slide: yes, no or unknown.

        By its image and counts; if the model has no hashes of its training slides, by name and number of spots.
        """
        answer = str(self.provenance.get(LEARNED, "unknown"))
        if self.prediction is not None and self.measured_key is not None:
            # The section on agreement gives the reason if there are no counts.
            with suppress(KeyError, ValueError):
                measured = measured_counts(self.sdata, self.shapes_key, self.measured_key, layer=self.layer)
                answer = learned_from(self.prediction, measured)
        slides = [] if answer != "unknown" or self.card is None else self.card.slides
        named = any(slide.slide == self.name and abs(slide.spots - self.n_spots) <= 5 for slide in slides)
        return "yes" if named else answer

    @property
    def is_finer(self) -> bool:
        """Whether the prediction is finer than the spots of its model, whose expected r does not apply to it."""
        return self.prediction is not None and is_finer(self.prediction)

    @property
    def is_training_slide(self) -> bool:
        """Whether the model is known to have learned from this slide."""
        return self.learned == "yes"

    @property
    def ood_share(self) -> float:
        """Share of the spots that are out of distribution; NaN if unknown."""
        for name in (self.prediction_key, self.corrected_key):
            if name is not None and "ood" in self.sdata.tables[name].obs:
                return float(self.sdata.tables[name].obs["ood"].mean())
        return float("nan")

    @property
    def has_many_ood(self) -> bool:
        """Whether so many spots are out of distribution that the prediction is not to be trusted."""
        return self.ood_share > MANY_OOD

    def table_with_result(self, slot: str, key: str) -> str | None:
        """Return the name of the first table of `table_keys` with this result."""
        tables = self.sdata.tables
        return next(
            (name for name in self.table_keys if hasattr(getattr(tables[name], slot).get(key), "columns")), None
        )

    def table_with_labels(self, groupby: str) -> str | None:
        """Return the name of the first table with labels in this column of `obs` or of the shapes."""
        for name in self.table_keys:
            try:
                labels_of(self.sdata, name, groupby)
            except KeyError:
                continue
            return name
        return None

    def choose_groupby(self, groupby: str | None) -> str | None:
        """Return the column with groups: by default that of the markers, else an annotation, else clusters."""
        if groupby is not None:
            if not self.table_keys:
                raise MissingKeyError(
                    f"No table has groups {groupby!r} of the spots. Call `ds.tl.predict(sdata)` first."
                )
            if self.table_with_labels(groupby) is None:
                labels_of(self.sdata, self.table_keys[-1], groupby)  # raises an error with the alternatives
            return groupby
        markers = [self.sdata.tables[name].uns.get("deepspot_markers", {}) for name in self.table_keys]
        columns = [str(parameters["groupby"]) for parameters in markers if "groupby" in parameters]
        return next((key for key in (*columns, ANNOTATION, CLUSTERS) if self.table_with_labels(key) is not None), None)

    def group_colors(self, groupby: str) -> tuple[pd.Series, dict[str, str]]:
        """Return the labels in a column, by the rows of the first table that has them, and the color of each."""
        from deepspot.pl._map.coloring import label_colors

        key = str(self.table_with_labels(groupby))
        labels = labels_of(self.sdata, key, groupby)
        return labels, label_colors(self.sdata.tables[key], groupby, [str(name) for name in labels.cat.categories])

    def group_origin(self, groupby: str) -> str:
        """Return where the groups in a column came from, in words."""
        tables = self.sdata.tables
        if groupby == CLUSTERS:
            if any(f"deepspot_{CLUSTERS}" in tables[name].uns for name in self.table_keys):
                return "Leiden clusters of the predicted genes"
            sources = [name for name in self.table_keys if CLUSTERS in tables[name].uns]  # as scanpy notes them
            words = {self.measured_key: "measured", self.prediction_key: "predicted", self.corrected_key: "corrected"}
            which = f"the {words[sources[0]]} genes" if sources else "genes, of which table is not recorded"
            return f"Leiden clusters of {which}"
        if groupby == ANNOTATION:
            return "Regions that were annotated on the slide"
        return f"Groups of the column “{groupby}” that came with the slide"

    def choose_genes(self, genes: int | Sequence[str]) -> list[str]:
        """Return the genes to draw: the named ones, or this number.

        These have different patterns, among the quarter with the highest expected r (if it is unknown, variance).
        """
        keys = [name for name in (self.prediction_key, self.corrected_key) if name is not None]
        if not keys:
            return []
        if not isinstance(genes, int | np.integer):
            return known_genes(genes, self.sdata, keys)
        check_count(genes, "genes")
        table = self.sdata.tables[keys[0]]
        score = table.var.get("expected_r")
        if score is None or score.isna().all() or self.is_finer:
            score = pd.Series(np.asarray(table.X).var(axis=0), index=table.var_names)
        weight = np.nan_to_num(score.to_numpy(dtype=float))
        # Without this limit, a gene with a low expected r is chosen because its map is unlike those of the others.
        best = np.sort(np.argsort(-weight, kind="stable")[: max(int(genes), len(weight) // 4)])
        chosen = distinct_genes(self.sampled[:, best], weight[best], int(genes))
        return [str(name) for name in table.var_names[best[chosen]]]


def find_contents(
    sdata: SpatialData,
    *,
    model: Model | None = None,
    prediction_key: str | None = None,
    corrected_key: str | None = None,
    table_key: str | None = None,
    layer: str | None = None,
    image_key: str | None = None,
    shapes_key: str | None = None,
) -> SlideContents:
    """Look up the contents of a slide; raise if an element is ambiguous."""
    from deepspot.pl._map.values import corrected_table_key, measured_table_key, prediction_table_key

    view = SlideView.select(sdata, image_key, shapes_key)
    shapes_key = view.shapes_key
    if prediction_key is not None or view.tables(PREDICTION):
        prediction_key = prediction_table_key(sdata, shapes_key, prediction_key)
    return SlideContents(
        sdata,
        view.image_key,
        shapes_key,
        prediction_key=prediction_key,
        corrected_key=corrected_table_key(sdata, shapes_key, corrected_key),
        measured_key=measured_table_key(sdata, shapes_key, table_key),
        layer=layer,
        card=None if prediction_key is None else _card(sdata.tables[prediction_key], model, prediction_key),
    )


def _card(table: AnnData, model: Model | None, key: str) -> Card | None:
    """Return the card of the model that made a table: of `model`, or of the embedded model."""
    from deepspot.models._registry import EMBEDDED, FOLDER, read_model

    made_by = table.uns[UNS]
    if model is None and made_by.get("model") == EMBEDDED:
        embedded = read_model(FOLDER / EMBEDDED, device="cpu")
        return embedded.card if embedded.fingerprint == made_by.get("fingerprint") else None
    if model is not None and model.fingerprint != made_by.get("fingerprint"):
        raise InputError(
            f"`model` did not predict sdata.tables[{key!r}]. That model is {made_by.get('model')!r} with "
            f"fingerprint {made_by.get('fingerprint')!r}. Pass it, or leave `model` out."
        )
    return None if model is None else model.card
