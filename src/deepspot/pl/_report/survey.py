"""What there is to report of a slide, found before anything is drawn."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deepspot._core.keys import PREDICTION, UNS
from deepspot._core.validate import check_positive
from deepspot._sdata.select import select_image_and_shapes
from deepspot._sdata.tables import known_genes, labels_of, tables_of_kind

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

    from deepspot.models import DeepSpot
    from deepspot.models._bundle.card import ModelCard
    from deepspot.tl._alignment.align import Alignment

ANNOTATION, CLUSTERS = "annotation", "leiden"


@dataclass(frozen=True)
class Wishes:
    """What a user asked for, None where the report may choose: arguments of :func:`deepspot.pl.report`."""

    genes: Sequence[str] | None = None
    n_genes: int = 4
    groupby: str | None = None
    prediction_key: str | None = None
    corrected_key: str | None = None
    table_key: str | None = None
    layer: str | None = None
    image_key: str | None = None
    shapes_key: str | None = None


@dataclass(frozen=True)
class Slide:
    """Names of all that belongs to a slide.

    Attributes
    ----------
    sdata
        Where it all is.
    name
        For people.
    image_key, shapes_key
        Image and spots.
    prediction_key, corrected_key, measured_key
        Tables; None where there is none.
    groupby
        Column with groups of spots, if there is one.
    layer
        Layer of the measured table with raw counts.
    genes
        Genes to draw.
    card
        Of the model that predicted, if it is at hand.
    alignment
        Where the measured spots lie, if that was checked.
    missing
        What could not be reported, by heading, and why: filled while the report is written.
    """

    sdata: SpatialData
    name: str
    image_key: str
    shapes_key: str
    prediction_key: str | None
    corrected_key: str | None
    measured_key: str | None
    groupby: str | None
    layer: str | None
    genes: list[str]
    card: ModelCard | None
    alignment: Alignment | None = None
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def prediction(self) -> AnnData | None:
        """Table of predicted genes."""
        return None if self.prediction_key is None else self.sdata.tables[self.prediction_key]

    @property
    def table_key(self) -> str:
        """Name of the table with the genes that this report is about: predicted, else corrected ones."""
        return self.prediction_key or str(self.corrected_key)

    @property
    def table(self) -> AnnData:
        """That table."""
        return self.sdata.tables[self.table_key]

    @property
    def provenance(self) -> dict[str, Any]:
        """What the prediction says of itself."""
        return {} if self.prediction is None else dict(self.prediction.uns[UNS])

    @property
    def n_spots(self) -> int:
        """Number of spots."""
        return len(self.sdata.shapes[self.shapes_key])

    @property
    def learnt_from(self) -> bool:
        """Whether the model seems to have learnt from this very slide, by name and number of spots."""
        slides = [] if self.card is None else self.card.slides
        return any(slide.slide == self.name and abs(slide.spots - self.n_spots) <= 5 for slide in slides)

    def without_measured(self) -> SpatialData:
        """The object without the measured table, which it shares all else with."""
        from spatialdata import SpatialData

        tables = {name: table for name, table in self.sdata.tables.items() if name != self.measured_key}
        return SpatialData(images=dict(self.sdata.images), shapes=dict(self.sdata.shapes), tables=tables)

    def holding(self, field_: str, key: str) -> str | None:
        """Name of the table that holds a result: of the corrected genes, else the predicted, else the measured."""
        for name in (self.corrected_key, self.prediction_key, self.measured_key):
            if name is not None and hasattr(getattr(self.sdata.tables[name], field_).get(key), "columns"):
                return name
        return None


def survey(sdata: SpatialData, wishes: Wishes, model: DeepSpot | None, alignment: Alignment | None) -> Slide:
    """Find out what there is, and raise where it is not clear what is meant."""
    from deepspot.pl._map.values import corrected_table_key, measured_table_key, prediction_table_key

    image_key, shapes_key = select_image_and_shapes(sdata, wishes.image_key, wishes.shapes_key)
    prediction_key = wishes.prediction_key
    if prediction_key is not None or tables_of_kind(sdata, shapes_key, PREDICTION):
        prediction_key = prediction_table_key(sdata, shapes_key, prediction_key)
    corrected_key = corrected_table_key(sdata, shapes_key, wishes.corrected_key)
    measured_key = measured_table_key(sdata, shapes_key, wishes.table_key)
    card = None if prediction_key is None else _card(sdata.tables[prediction_key], model, prediction_key)
    slide = Slide(
        sdata=sdata, name=slide_name(image_key, shapes_key), image_key=image_key, shapes_key=shapes_key,
        prediction_key=prediction_key, corrected_key=corrected_key, measured_key=measured_key, groupby=None,
        layer=wishes.layer, genes=[], card=card, alignment=alignment,
    )  # fmt: skip
    known = {"groupby": _groupby(slide, wishes.groupby), "genes": _genes(slide, wishes)}
    return Slide(**{**slide.__dict__, **known})


def slide_name(image_key: str, shapes_key: str) -> str:
    """Name of a slide for people, from what the readers of this package call its parts."""
    for suffix in ("_full_image", "_image"):
        if image_key.endswith(suffix) and len(image_key) > len(suffix):
            return image_key.removesuffix(suffix)
    return image_key if shapes_key == "spots" else shapes_key


def _card(table: AnnData, model: DeepSpot | None, key: str) -> ModelCard | None:
    """Card of the model that made a table: the one that was given, or the embedded one."""
    from deepspot.models import DeepSpot
    from deepspot.models._registry import EMBEDDED, FOLDER

    made_by = table.uns[UNS]
    if model is None and made_by.get("model") == EMBEDDED:
        embedded = DeepSpot.load(FOLDER / EMBEDDED, device="cpu")
        return embedded.card if embedded.fingerprint == made_by.get("fingerprint") else None
    if model is not None and model.fingerprint != made_by.get("fingerprint"):
        raise ValueError(
            f"`model` is not the one that predicted sdata.tables[{key!r}], which is {made_by.get('model')!r} with "
            f"fingerprint {made_by.get('fingerprint')!r}. Pass that one, or leave `model` out."
        )
    return None if model is None else model.card


def _groupby(slide: Slide, wanted: str | None) -> str | None:
    """Column with groups: the one asked for, that of the markers, an annotation, or clusters."""
    tables = [name for name in (slide.corrected_key, slide.prediction_key, slide.measured_key) if name is not None]
    if wanted is not None:
        if not tables:
            raise KeyError(f"There is no table with groups {wanted!r} of the spots. Call `ds.tl.predict(sdata)` first.")
        table_of_groups(slide, wanted, must=True)
        return wanted
    for name in tables:
        used = slide.sdata.tables[name].uns.get("deepspot_markers", {}).get("groupby")
        if used is not None and table_of_groups(slide, str(used)) is not None:
            return str(used)
    return next((key for key in (ANNOTATION, CLUSTERS) if table_of_groups(slide, key) is not None), None)


def table_of_groups(slide: Slide, groupby: str, *, must: bool = False) -> str | None:
    """Name of the first table whose rows have labels in this column (or whose shapes do)."""
    tables = [name for name in (slide.corrected_key, slide.prediction_key, slide.measured_key) if name is not None]
    for number, name in enumerate(tables, start=1):
        try:
            labels_of(slide.sdata, name, groupby)
        except KeyError:
            if must and number == len(tables):
                raise
            continue
        return name
    return None


def _genes(slide: Slide, wishes: Wishes) -> list[str]:
    """Genes to draw: those asked for, else those from which most is to be expected."""
    keys = [name for name in (slide.prediction_key, slide.corrected_key) if name is not None]
    if not keys:
        return []
    if wishes.genes is not None:
        return known_genes(list(dict.fromkeys(wishes.genes)), slide.sdata, keys)
    check_positive(wishes.n_genes, "n_genes")
    table = slide.sdata.tables[keys[0]]
    expected = table.var.get("expected_r")
    if expected is not None and expected.notna().any():
        return [str(gene) for gene in expected.sort_values(ascending=False, kind="stable").index[: wishes.n_genes]]
    import numpy as np

    spread = np.asarray(table.X).var(axis=0)
    return [str(table.var_names[place]) for place in np.argsort(-spread, kind="stable")[: wishes.n_genes]]
