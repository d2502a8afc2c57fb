from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from deepspot._core.logging import logger
from deepspot._sdata.select import select_shapes
from deepspot._sdata.tables import labels_of

from .groups import choose_groups
from .plan import Plan
from .predict import predict
from .read import read_slide

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from deepspot.models import DeepSpot
    from deepspot.tl._alignment.align import Alignment

FEWEST = 3


def run_report(plan: Plan) -> str:
    """Read a slide, predict its genes, find groups, markers, gene sets and pathways, and write the report.

    A step whose result is there is not done again. One that cannot be done is left out, and the report says why.

    Parameters
    ----------
    plan
        What was asked for.

    Returns
    -------
    What was written, in a sentence.

    Raises
    ------
    OSError
        If a file is missing or in the way.
    KeyError
        If a gene or column does not exist.
    ValueError
        If the slide cannot be read, or its genes cannot be predicted.
    """
    from deepspot import pl
    from deepspot.pl._map.values import measured_table_key

    plan.check()
    _say("Reading the slide")
    sdata = read_slide(plan)
    shapes_key = select_shapes(sdata, plan.image_key, plan.shapes_key)
    measured_table_key(sdata, shapes_key, plan.table_key)  # if there are several, say so before the long work
    _say("Predicting")
    key, model = predict(sdata, plan, shapes_key)
    notes: dict[str, str] = {}
    _say("Checking the registration")
    alignment = _alignment(sdata, plan, shapes_key, key, model, notes)
    _say("Groups and their markers")
    groupby = choose_groups(sdata, plan.groupby, key, shapes_key, notes)
    if groupby is not None:
        _attempt("Marker genes", lambda: _markers(sdata, key, groupby), notes)
    table = sdata.tables[key]
    if "markers" in table.uns:
        _say("Gene sets")
        _attempt("Gene sets", lambda: _enrich(sdata, plan, key), notes)
    _say("Pathways")
    _attempt("Pathways", lambda: _pathways(sdata, plan, key), notes)
    _say("Writing")
    pl.report(
        sdata, plan.out, genes=plan.genes, groupby=groupby, model=model, alignment=alignment, prediction_key=key,
        table_key=plan.table_key, image_key=plan.image_key, shapes_key=shapes_key, notes=notes,
        command=plan.command, overwrite=plan.overwrite,
    )  # fmt: skip
    if plan.save is None:
        return f"Wrote {plan.out}."
    sdata.write(plan.save)
    return f"Wrote {plan.out} and {plan.save}."


def _say(step: str) -> None:
    logger.info("── %s", step)


def _attempt(part: str, step: Callable[[], None], notes: dict[str, str]) -> None:
    """Do a step; the report says why if it cannot be done."""
    try:
        step()
    except (KeyError, ValueError, OSError) as error:
        notes[part] = str(error.args[0] if len(error.args) == 1 else error)
        logger.warning("%s: left out. %s", part, notes[part])


def _alignment(
    sdata: SpatialData, plan: Plan, shapes_key: str, key: str, model: DeepSpot | None, notes: dict[str, str]
) -> Alignment | None:
    """Where the measured spots lie, if there are some and the model did not learn from this slide."""
    from deepspot import tl
    from deepspot.pl._report.survey import Wishes, survey

    wishes = Wishes(prediction_key=key, table_key=plan.table_key, image_key=plan.image_key, shapes_key=shapes_key)
    slide = survey(sdata, wishes, model, None)
    if slide.measured_key is None or slide.learnt_from:
        why = "no genes were measured" if slide.measured_key is None else "the model learnt from this slide"
        logger.info("Not checked: %s.", why)
        return None
    found: list[Alignment] = []
    _attempt(
        "Check of the registration",
        lambda: found.append(tl.check_alignment(
            sdata, prediction_key=key, table_key=slide.measured_key, image_key=plan.image_key, shapes_key=shapes_key,
        )),
        notes,
    )  # fmt: skip
    return found[0] if found else None


def _markers(sdata: SpatialData, key: str, groupby: str) -> None:
    from deepspot import tl

    uns = sdata.tables[key].uns
    if "markers" in uns and uns.get("deepspot_markers", {}).get("groupby") == groupby:
        logger.info("Using the markers of sdata.tables[%r].", key)
        return
    size = labels_of(sdata, key, groupby).value_counts(sort=False)
    large = [str(name) for name in size.index[size >= FEWEST]]
    # The test that respects the neighbourhood, as predictions of neighbours resemble each other all the more.
    for stale in ("markers", "enrichment", "deepspot_enrichment"):  # of other groups
        uns.pop(stale, None)
    tl.markers(sdata, groupby, table_key=key, groups=large, test="blocks", overwrite=True)


def _enrich(sdata: SpatialData, plan: Plan, key: str) -> None:
    from deepspot import tl

    if plan.gene_sets is None and "enrichment" in sdata.tables[key].uns:
        logger.info("Using the gene sets of sdata.tables[%r].", key)
        return
    tl.enrich(sdata, plan.gene_sets, table_key=key, overwrite=True)


def _pathways(sdata: SpatialData, plan: Plan, key: str) -> None:
    from deepspot import tl

    if plan.net is None and "score_mlm" in sdata.tables[key].obsm:
        logger.info("Using the pathways of sdata.tables[%r].", key)
        return
    tl.pathways(sdata, plan.net, table_key=key, overwrite=True)
