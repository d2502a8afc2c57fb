from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from deepspot._core.keys import checked
from deepspot._core.logging import logger
from deepspot._core.validate import check_positive

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from deepspot._report.contents import SlideContents

    from .genes import GeneFacts
    from .pyramid import ImageLevel

ASSETS = Path(__file__).parent / "assets"
EARLY = 1_500_000
"""Bytes of tiles that are in the page before its script: coarse levels, with which it can be shown at once."""
RESERVE = 200_000
"""Bytes that are kept free for the page around the data."""


@checked
def view(
    sdata: SpatialData,
    path: str | Path,
    *,
    genes: int | Sequence[str] = 1000,
    groupby: str | None = None,
    prediction_key: str | None = None,
    corrected_key: str | None = None,
    table_key: str | None = None,
    layer: str | None = None,
    image_key: str | None = None,
    shapes_key: str | None = None,
    max_mb: float = 100,
    folder: bool = True,
    title: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write an interactive viewer of one slide: an HTML file that opens in any browser, without a network.

    The page shows the H&E image, which can be moved and zoomed, and on it the spots, cells or bins, colored by a gene:
    measured, predicted, corrected, or the difference of predicted and measured. Genes are found by name. Groups of
    spots and out-of-distribution scores are further layers. A click on a spot shows its values, its tile and its
    out-of-distribution score. Color scales are those of :func:`deepspot.pl.spatial`.

    Parameters
    ----------
    sdata
        Object with an H&E image of known scale, spots, and a table of genes. It is not changed.
    path
        File to write, such as ``"view.html"``.
    genes
        Genes that can be shown, or their number: those with the highest expected r. Without a prediction, the most
        abundant measured genes.
    groupby
        Column with groups of spots; by default that of the marker genes, else `annotation`, else `leiden`, if there is
        one.
    prediction_key, corrected_key, table_key
        Tables with predicted, corrected and measured genes; needed only if there are several.
    layer
        Layer of the measured table with raw counts, by default `X`.
    image_key, shapes_key
        Image and spots; needed only if there are several.
    max_mb
        Size of the file in MB (10⁶ bytes), of values and image.
    folder
        Write the finest levels of the image, if they do not fit into `max_mb`, to a folder beside the file, such as
        ``view_tiles`` for ``view.html``. Without the folder, the file shows what it contains. With `False`, there is
        only one file: levels that do not fit are left out, with a warning.
    title
        Name of the slide; by default from the name of the image. Names can identify a patient.
    overwrite
        Replace an existing file, and the folder that was written with it.

    Returns
    -------
    Path of the file.

    Raises
    ------
    FileNotFoundError
        If the folder of `path` does not exist.
    FileExistsError
        If `path` or the folder exists.
    KeyError
        If a gene, a column, a table, an image or shapes element does not exist.
    ValueError
        If there are several candidates for an element, the scale of the image is unknown, or the values and a small
        image are larger than `max_mb`.

    See Also
    --------
    deepspot.report : Report of a slide, to read and print.

    Examples
    --------
    >>> import tempfile
    >>> import deepspot as ds
    >>> sdata = ds.datasets.toy(n_patients=1, n_rows=3, n_cols=4)["P1_S1"]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = ds.view(sdata, folder + "/view.html", genes=5)
    >>> path.name
    'view.html'
    """
    from deepspot._core.html import check_file
    from deepspot._image.tiles import pyramid_levels
    from deepspot._report.contents import find_contents

    from .files import check_folder, write
    from .genes import check_table, choose

    path = check_file(path, overwrite=overwrite)
    tiles = check_folder(path, overwrite=overwrite)
    budget = 1e6 * check_positive(max_mb, "max_mb")
    slide = find_contents(
        sdata,
        prediction_key=prediction_key,
        corrected_key=corrected_key,
        table_key=table_key,
        layer=layer,
        image_key=image_key,
        shapes_key=shapes_key,
    )
    if table_key is not None:
        check_table(slide)
    chosen = choose(slide, genes)
    page, finer = _page(
        slide, chosen, slide.choose_groupby(groupby), title or slide.name, budget, tiles.name if folder else None
    )
    write(path, page, tiles, pyramid_levels(sdata, slide.image_key), finer)
    return path


def _page(
    slide: SlideContents, names: list[str], groupby: str | None, title: str, budget: float, folder: str | None
) -> tuple[str, list[ImageLevel]]:
    """Return the page as text, and the levels of the image that are in the folder.

    The page has what is shown first, the script, and then all other data.
    """
    from markupsafe import Markup

    from deepspot._core.html import render
    from deepspot._image.tiles import pyramid_levels
    from deepspot._spatial.transforms import microns_per_pixel
    from deepspot.errors import InputError
    from deepspot.pl._map.places import find_places

    from . import facts as about
    from .genes import read
    from .pack import pack
    from .pyramid import TILE, finer_levels, image_levels

    mpp = microns_per_pixel(slide.sdata, slide.image_key)
    places = find_places(slide.sdata, slide.image_key, slide.shapes_key)
    script, style = ((ASSETS / name).read_text(encoding="utf-8") for name in ("viewer.js", "viewer.css"))
    genes = read(slide, names, budget - RESERVE - len(script))
    doubt, doubt_blocks = about.doubts(slide)
    groups, group_blocks = about.groups(slide, groupby, places, mpp)
    first = {
        "centers": pack((places.xy / mpp).astype("float32")),
        "gene-0": genes.packed[0],
        **doubt_blocks,
        **group_blocks,
    }
    later = {f"gene-{k}": packed for k, packed in enumerate(genes.packed) if k}
    later["names"] = pack(_json_bytes([str(name) for name in slide.sdata.shapes[slide.shapes_key].index]))
    used = RESERVE + len(script) + sum(len(text) + 80 for text in (*first.values(), *later.values()))
    if used > budget:
        raise InputError(
            f"The page of {len(names):,} genes in {slide.noun.count(slide.n_spots)} takes {used / 1e6:.1f} MB without "
            f"the image, more than `max_mb={budget / 1e6:g}`. Pass fewer `genes`, or increase `max_mb`."
        )
    pyramid = pyramid_levels(slide.sdata, slide.image_key)
    embedded = image_levels(pyramid, budget - used)
    finer = [] if folder is None else finer_levels(pyramid, embedded)
    levels = embedded + finer
    shapes, rings = about.shapes(places, mpp, levels[-1].factor)
    later |= rings
    height, width = pyramid[0].sizes["y"], pyramid[0].sizes["x"]
    image = {
        "width": width,
        "height": height,
        "mpp": mpp,
        "tile": TILE,
        "folder": folder if finer else None,
        "levels": [
            {"factor": each.factor, "columns": each.columns, "rows": each.rows, "files": each.files} for each in levels
        ],
    }
    facts: dict[str, Any] = {
        "n": slide.n_spots,
        "noun": {"one": slide.noun.one, "many": slide.noun.many},
        "image": image,
        "shapes": shapes,
        "tile_um": about.card_side(slide, places),
        "genes": names,
        "layers": [vars(layer) for layer in genes.layers],
        "difference": genes.difference,
        "agreement": genes.agreement,
        "weight": genes.weight,
        "trained": slide.is_training_slide,
        "choices": _choices(genes, doubt, groups),
        "ood": doubt,
        "groups": groups,
        "maps": {
            "expression": about.color_map("viridis"),
            "difference": about.color_map("RdBu_r"),
            "doubt": about.color_map("Greys"),
        },
        **_expected(slide, names),
    }
    early_tiles, late_tiles = _split(embedded)
    page = render(
        "_view/view.html.j2",
        title=title,
        slide=slide,
        facts=facts,
        has_prediction=any(key != "measured" for key in genes.keys),
        coarsened=_coarsened(levels, mpp),
        early=first | early_tiles,
        late=later | late_tiles,
        style=Markup(style),  # of this package, as the script
        script=Markup(script),
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode("ascii"),
        licenses=(ASSETS / "LICENSES.txt").read_text(encoding="utf-8"),
    )
    return page, finer


def _json_bytes(value: Any) -> bytes:
    import json

    return json.dumps(value).encode()


def _choices(genes: GeneFacts, doubt: dict[str, Any] | None, groups: dict[str, Any] | None) -> list[dict[str, str]]:
    """Return key and name of everything that spots can be colored by, the default first."""
    keys = [key for key in ("predicted", "measured", "corrected") if key in genes.keys]
    choices = [{"key": key, "name": key.capitalize()} for key in keys]
    if genes.difference:
        choices.append({"key": "difference", "name": "Difference, predicted − measured"})
    if doubt is not None and doubt["high"] is not None:
        choices.append({"key": "ood", "name": "Out-of-distribution score"})
    if groups is not None:
        choices.append({"key": "groups", "name": f"Groups: {groups['name']}"})
    return choices


def _expected(slide: SlideContents, names: list[str]) -> dict[str, list[float | None]]:
    """Return expected r and its interval for each gene, if the prediction has them."""
    table = slide.prediction
    if table is None or "expected_r" not in table.var or slide.has_many_ood:
        return {}
    found = {}
    for column in ("expected_r", "expected_r_low", "expected_r_high"):
        if column in table.var:
            values = table.var[column].reindex(names)
            found[column] = [None if value != value else round(float(value), 4) for value in values]
    return found


def _split(levels: list[ImageLevel]) -> tuple[dict[str, str], dict[str, str]]:
    """Return the tiles of the coarse levels, and all others, by the name of their element."""
    early: dict[str, str] = {}
    late: dict[str, str] = {}
    used = 0
    for place, level in enumerate(levels):
        used += level.size
        tiles = {f"tile-{place}-{column}-{row}": jpeg for (column, row), jpeg in level.tiles.items()}
        (early if used <= EARLY or not place else late).update(tiles)
    return early, late


def _coarsened(levels: list[ImageLevel], mpp: float) -> str | None:
    """Warn if finer levels of the image were left out, and return a note about it."""
    factor = levels[-1].factor
    if factor < 1.5:
        return None
    logger.warning(
        "The image is in the file with %.2g µm per pixel; the slide has %.2g. Increase `max_mb`, or leave out "
        "`folder=False`, for finer levels.",
        mpp * factor,
        mpp,
    )
    return f"The image has {mpp * factor:.2g} µm per pixel here, and {mpp:.2g} in the slide."
