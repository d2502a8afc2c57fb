from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from deepspot._core.atomic import check_outside_stores
from deepspot._core.html import check_file
from deepspot._core.logging import logger
from deepspot._sdata.view import select_shapes

from . import steps


def run_report(
    slide: Path,
    out: Path,
    *,
    model: str | None = None,
    groupby: str | None = None,
    gene_sets: str | None = None,
    net: Path | None = None,
    genes: int | list[str] = 4,
    image: Path | None = None,
    mpp: float | None = None,
    pitch_um: float | None = None,
    diameter_um: float | None = None,
    library_id: str | None = None,
    gene_id_key: str | None = None,
    image_scale: float | None = None,
    bin_um: int | None = None,
    alignment_file: Path | None = None,
    image_key: str | None = None,
    shapes_key: str | None = None,
    table_key: str | None = None,
    layer: str | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    save: Path | None = None,
    overwrite: bool = False,
    command: str | None = None,
) -> None:
    """Read a slide, predict it, find groups, markers, gene sets and pathways, and write the report.

    Existing results are reused. A step that fails is left out, and the report gives the reason. Arguments are the
    options of ``deepspot report``; `command` is the command line. The slide on disk is not changed. Files that were
    written are logged.
    """
    from deepspot import tl
    from deepspot._report.contents import find_contents
    from deepspot._report.report import report
    from deepspot.pl._map.values import measured_table_key

    check_file(out, overwrite=overwrite)
    gmt = Path(gene_sets) if gene_sets is not None and gene_sets.endswith(".gmt") else None  # else a library
    inputs = {"--image": image, "--alignment-file": alignment_file, "--net": net, "--gene-sets": gmt}
    _check_files(slide, out, inputs, save)
    notes: dict[str, str] = {}

    def attempt(part: str, step: Callable[..., Any], *args: Any, **options: Any) -> Any:
        try:
            return step(*args, **options)
        except (KeyError, ValueError, OSError) as error:
            notes[part] = str(error.args[0] if len(error.args) == 1 else error)
            logger.warning("%s: left out. %s", part, notes[part])
            return None

    logger.info("── Reading the slide")
    sdata = steps.read_slide(
        slide,
        image,
        model=model,
        mpp=mpp,
        pitch_um=pitch_um,
        diameter_um=diameter_um,
        library_id=library_id,
        gene_id_key=gene_id_key,
        image_scale=image_scale,
        bin_um=bin_um,
        alignment_file=alignment_file,
        image_key=image_key,
        shapes_key=shapes_key,
    )
    shapes_key = select_shapes(sdata, image_key, shapes_key)
    measured_table_key(sdata, shapes_key, table_key)  # raises before the long steps if there are several
    keys: dict[str, Any] = {"image_key": image_key, "shapes_key": shapes_key}
    logger.info("── Predicting")
    named = genes if isinstance(genes, list) else None
    key, loaded = steps.predict(sdata, model, genes=named, device=device, batch_size=batch_size, **keys)
    logger.info("── Checking the registration")
    contents = find_contents(sdata, model=loaded, prediction_key=key, table_key=table_key, layer=layer, **keys)
    registration = None
    if contents.measured_key is None:
        logger.info("Not checked: there are no measured genes.")
    elif contents.is_training_slide:
        logger.info("Not checked: the model was trained on this slide.")
    else:
        options = {"prediction_key": key, "table_key": contents.measured_key, "layer": layer, **keys}
        registration = attempt("Check of the registration", tl.check_alignment, sdata, **options)
    logger.info("── Groups and their markers")
    groupby = steps.choose_groups(sdata, groupby, key, shapes_key, notes)
    if groupby is not None:
        attempt("Marker genes", steps.find_markers, sdata, key, groupby)
    if "markers" in sdata.tables[key].uns:
        logger.info("── Gene sets")
        attempt("Gene sets", steps.find_gene_sets, sdata, key, gene_sets)
    logger.info("── Pathways")
    attempt("Pathways", steps.score_pathways, sdata, key, net)
    logger.info("── Writing")
    report(
        sdata,
        out,
        genes=genes,
        groupby=groupby,
        model=loaded,
        alignment=registration,
        prediction_key=key,
        table_key=table_key,
        layer=layer,
        notes=notes,
        command=command,
        overwrite=overwrite,
        **keys,
    )
    if save is not None:
        sdata.write(save)
        logger.info("Wrote the slide %s.", save)


def run_view(
    slide: Path,
    out: Path,
    *,
    model: str | None = None,
    groupby: str | None = None,
    genes: int | list[str] = 1000,
    max_mb: float = 100,
    folder: bool = True,
    image: Path | None = None,
    alignment_file: Path | None = None,
    image_key: str | None = None,
    shapes_key: str | None = None,
    table_key: str | None = None,
    layer: str | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    overwrite: bool = False,
    **read: Any,
) -> None:
    """Read a slide, predict it if it has no prediction or `model` is given, and write the viewer.

    Arguments are the options of ``deepspot view``; `read` are those of the reader. The slide on disk is not changed.
    The file that was written is logged.
    """
    from deepspot._view.view import view

    check_file(out, overwrite=overwrite)
    _check_files(slide, out, {"--image": image, "--alignment-file": alignment_file}, None)
    keys: dict[str, Any] = {"image_key": image_key, "shapes_key": shapes_key}
    sdata = steps.read_slide(slide, image, model=model, alignment_file=alignment_file, **keys, **read)
    keys["shapes_key"] = select_shapes(sdata, image_key, shapes_key)
    named = genes if isinstance(genes, list) else None
    key, _ = steps.predict(sdata, model, genes=named, device=device, batch_size=batch_size, **keys)
    options: dict[str, Any] = {"genes": genes, "groupby": groupby, "max_mb": max_mb, "folder": folder}
    options |= {"table_key": table_key, "layer": layer}
    view(sdata, out, prediction_key=key, overwrite=overwrite, **options, **keys)


def _check_files(slide: Path, out: Path, inputs: dict[str, Path | None], save: Path | None) -> None:
    """Raise before the first step if an input does not exist or an output cannot be written."""
    if not slide.exists():
        raise FileNotFoundError(f"There is no slide {str(slide)!r}.")
    for option, path in inputs.items():
        if path is not None and not path.is_file():
            raise FileNotFoundError(f"There is no file {str(path)!r} ({option}).")
    if save is not None and save.exists():
        raise FileExistsError(f"{str(save)!r} exists. Choose another name with --save.")
    if save is not None:
        check_outside_stores(save)
    if save is not None and not save.resolve().parent.is_dir():
        raise FileNotFoundError(f"There is no folder {str(save.resolve().parent)!r} to save to.")
