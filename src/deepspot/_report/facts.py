"""Numbers and figures of the report of a slide; the text is in the templates."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.html import library_versions
from deepspot._core.keys import DIAMETER, SCALE, UNS
from deepspot._image.tiles import level_sizes, pyramid_levels
from deepspot._sdata.tables import match_rows
from deepspot._spatial.transforms import microns_per_pixel, pitch_px

from .figures import NOT_DRAWN, to_jpeg, try_drawing, untitled
from .groups import group_facts
from .maps import draw_change, draw_gene, draw_pathway, draw_tissue, gene_values
from .trust import gene_table, trust_facts

if TYPE_CHECKING:
    import pandas as pd

    from deepspot.tl._alignment.align import Alignment

    from .contents import SlideContents

N_PATHWAYS = 16


def gather(
    slide: SlideContents, *, genes: int | Sequence[str], groupby: str | None, alignment: Alignment | None
) -> dict[str, Any]:
    """Return the facts by section, None for an empty one; parts that are missing are noted in `slide.missing`."""
    groupby, chosen = slide.choose_groupby(groupby), slide.choose_genes(genes)
    scale, table = slide.provenance.get("scale", SCALE), gene_table(slide) if chosen else None
    return {
        "slide": slide,
        "tissue": to_jpeg(draw_tissue(slide)),
        "placement": _placement(slide),
        "model": slide.provenance | {"scale": scale, "encoder": _encoder(slide)},
        "trust": trust_facts(slide, table, chosen, alignment),
        "genes": _genes(slide, table, chosen, groupby) | {"chosen": not isinstance(genes, int | np.integer)}
        if table is not None
        else None,
        "groups": group_facts(slide, groupby),
        "pathways": _pathways(slide),
        "correction": _correction(slide),
        "provenance": _provenance(slide),
    }


def _placement(slide: SlideContents) -> dict[str, Any]:
    """Return the image with its spots, its scale, and the size and distance of the spots in µm."""
    places = slide.map[0]
    height, width = level_sizes(pyramid_levels(slide.sdata, slide.image_key))[0]
    return {
        "plain": to_jpeg(draw_tissue(slide, large=True)),
        "image": to_jpeg(draw_tissue(slide, outlines=True, large=True)),
        "diameter_um": places.diameter,
        "diameter_known": DIAMETER in slide.sdata.shapes[slide.shapes_key],
        "polygons": places.rings is not None,
        "pitch_um": pitch_px(places.xy) if slide.n_spots > 1 else None,
        "mpp": microns_per_pixel(slide.sdata, slide.image_key),
        "width": width,
        "height": height,
    }


def _encoder(slide: SlideContents) -> dict[str, Any] | None:
    """Return the card of the encoder, from the feature table, else from the model."""
    features = slide.sdata.tables.get(slide.provenance.get("features", ""))
    card = {} if features is None else features.uns.get(UNS, {})
    if "encoder" in card:
        return {"license": "license unknown", "note": ""} | json.loads(card["encoder"])
    if slide.card is not None and slide.card.encoder is not None:
        return {"name": slide.card.encoder.name, "license": "", "note": slide.card.encoder.note}
    return None


def _genes(slide: SlideContents, table: pd.DataFrame, genes: list[str], groupby: str | None) -> dict[str, Any]:
    """Draw maps of genes, tiles where the first one is high and low, finer maps and a UMAP."""
    from deepspot.pl._gallery import gallery
    from deepspot.pl._superresolution import finer_shapes, superresolution
    from deepspot.pl._umap import umap

    sdata, table_key, first = slide.sdata, str(slide.prediction_key or slide.corrected_key), genes[0]
    keys: dict[str, Any] = {"image_key": slide.image_key, "shapes_key": slide.shapes_key}
    part = f"Images of {slide.noun.many} by {first}"
    facts = {
        "maps": _maps(slide, table, genes),
        "known": bool(table["r"].notna().any()),
        "tiles": None,
        "finer": None,
        "umap": None,
    }
    draw: dict[str, Any] = {"to_image": to_jpeg, **keys}
    if slide.has_many_ood:
        slide.missing[part] = NOT_DRAWN.format(slide.noun.many)
    else:
        facts["tiles"] = try_drawing(slide, part, untitled, gallery, sdata, first, n=8, table_key=table_key, **draw)
    if finer_shapes(sdata, slide.image_key, slide.shapes_key):
        colors = {"cmap": "Greys"} if slide.has_many_ood else {}
        options = {"prediction_key": slide.prediction_key, **draw, **colors}
        facts["finer"] = try_drawing(slide, "Finer maps", superresolution, sdata, first, **options)
    elif not slide.is_finer:
        slide.missing["Finer maps"] = None
    if "X_umap" in sdata.tables[table_key].obsm:
        facts["umap"] = try_drawing(slide, "UMAP", umap, sdata, color=groupby, table_key=table_key, **draw)
    return facts


def _maps(slide: SlideContents, table: pd.DataFrame, genes: list[str]) -> list[dict[str, Any]]:
    """Draw the measured, predicted and corrected panel of each gene; return them with its row of the gene table."""
    from deepspot.pl._map.panel import span_text
    from deepspot.pl._map.values import ood_spots

    values = gene_values(slide, genes)
    sources = {"predicted": str(slide.prediction_key or slide.corrected_key), "corrected": str(slide.corrected_key)}
    ood = {kind: ood_spots(slide.sdata, slide.shapes_key, key) for kind, key in sources.items() if kind in values}
    maps = []
    for column, gene in enumerate(genes):
        panels = [
            {
                "kind": kind,
                "span": span_text(by_gene[:, column]).removeprefix("span "),
                "image": try_drawing(
                    *(slide, f"Map of {gene}, {kind}", draw_gene, slide, by_gene[:, column], unit, ood.get(kind)),
                    to_image=to_jpeg,
                ),
            }
            for kind, (by_gene, unit) in values.items()
            if np.isfinite(by_gene[:, column]).any()
        ]
        known = table.loc[gene] if gene in table.index else table.reindex([gene]).iloc[0]
        maps.append({"gene": gene, "panels": panels, **known.to_dict()})
    return maps


def _pathways(slide: SlideContents) -> dict[str, Any] | None:
    """Draw a map of each pathway, of those that vary most if there are many, on one scale around the mean."""
    from deepspot.pl._map.panel import QUANTILES
    from deepspot.pl._map.values import ood_spots

    key = slide.table_with_result("obsm", "score_mlm")
    if key is None:
        slide.missing["Pathways"] = None
        return None
    if slide.has_many_ood and key != slide.measured_key:
        slide.missing["Maps of pathways"] = NOT_DRAWN.format(slide.noun.many)
        return None
    table = slide.sdata.tables[key]
    scores = table.obsm["score_mlm"]
    spread = scores.var().dropna().sort_values(ascending=False, kind="stable")
    names = list(spread.index[:N_PATHWAYS])
    if not names:
        slide.missing["Maps of pathways"] = "No pathway has two scores to compare."
        return None
    rows, positions = match_rows(table, slide.sdata, slide.shapes_key)
    values = np.full((slide.n_spots, len(names)), np.nan)
    values[positions] = scores[names].to_numpy(dtype=float)[rows]
    values -= np.nanmean(values, axis=0)
    limit = float(np.nanquantile(np.abs(values), QUANTILES[1])) or 1.0
    ood = ood_spots(slide.sdata, slide.shapes_key, key)
    parameters = table.uns.get("deepspot_pathways", {})
    known, numbers = (list(parameters.get(name, ())) for name in ("pathways", "n_targets"))
    n_targets = dict(zip(map(str, known), map(int, numbers), strict=False))
    maps = [
        {
            "name": str(name),
            "n_genes": n_targets.get(str(name)),
            "spread": float(np.nanstd(values[:, column])),
            "image": try_drawing(
                slide, f"Map of {name}", draw_pathway, slide, values[:, column], limit, ood, to_image=to_jpeg
            ),
        }
        for column, name in enumerate(names)
    ]
    return {"maps": maps, "n": scores.shape[1], "limit": limit, "measured": key == slide.measured_key}


def _correction(slide: SlideContents) -> dict[str, Any] | None:
    """Return method, weights and change of a correction, and its map."""
    if slide.corrected_key is None:
        if slide.measured_key is not None:
            slide.missing["Correction of measured genes"] = None
        return None
    table = slide.sdata.tables[slide.corrected_key]
    parameters = table.uns[UNS]
    known = np.isfinite(np.asarray(table.layers["predicted"])).all(axis=0)
    facts: dict[str, Any] = {
        "method": parameters.get("method", "unknown"),
        "n_corrected": int(known.sum()),
        "n_left": int((~known).sum()),
        "weight": None,
        "image": None,
        "registration": parameters.get("registration"),
        "circular": slide.is_training_slide and parameters.get("fingerprint") == slide.provenance.get("fingerprint"),
    }
    if known.any():
        change = np.abs(np.asarray(table.layers["change"])[:, known])
        facts["weight"] = np.quantile(np.asarray(table.layers["weight"])[:, known].mean(axis=0), [0.1, 0.5, 0.9])
        facts["change"] = float(np.nanmean(change))
        facts["image"] = try_drawing(slide, "Map of the correction", draw_change, slide, change, to_image=to_jpeg)
    return facts


def _provenance(slide: SlideContents) -> dict[str, Any]:
    """Return the time, versions of libraries and parameters of each call."""
    settings = {}
    for key in slide.table_keys:
        for name, entry in slide.sdata.tables[key].uns.items():
            if str(name).startswith("deepspot_") and isinstance(entry, Mapping):
                tool = str(name).removeprefix("deepspot_").capitalize()
                settings[f"{tool} ({key})"] = "; ".join(f"{k} = {_short(value)}" for k, value in entry.items())
    return {
        "time": f"{datetime.now(UTC):%Y-%m-%d %H:%M}",
        "python": platform.python_version(),
        "libraries": library_versions(),
        "settings": settings,
    }


def _short(value: Any, length: int = 120) -> str:
    """Return a parameter as text, truncated to this length."""
    text = str(value.tolist() if isinstance(value, np.ndarray) else value)
    return text if len(text) <= length else text[: length - 3] + "…"
