"""Numbers and figures of the report of a slide; the text is in the template slide.html.j2."""

from __future__ import annotations

import json
import platform
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepspot._core.html import decimal, library_versions
from deepspot._core.keys import DIAMETER, SCALE, UNS
from deepspot._image.tiles import level_sizes, pyramid_levels
from deepspot._sdata.tables import check_shared_genes, comparable_scale
from deepspot._spatial.transforms import microns_per_pixel, pitch_px
from deepspot._stats.metrics import pearson
from deepspot._stats.patterns import effective_patterns

from .figures import draw_change, draw_groups, draw_r, draw_slide, draw_unusual, to_png, try_drawing

if TYPE_CHECKING:
    from anndata import AnnData

    from deepspot.tl._alignment.align import Alignment

    from .contents import SlideContents

N_GENES_LISTED, N_MARKERS, N_SETS_DRAWN, N_SETS_LISTED = 10, 5, 5, 30
SIGNIFICANT = 0.05
UNCHECKED = "not checked"  # as written by `ds.tl.correct`
NOT_DRAWN = "Not drawn, because many {} are unlike the training tissue."


def gather(
    slide: SlideContents, *, genes: int | Sequence[str], groupby: str | None, alignment: Alignment | None
) -> dict[str, Any]:
    """Return the facts by section, None for an empty one; parts that are missing are noted in `slide.missing`."""
    groupby, chosen = slide.choose_groupby(groupby), slide.choose_genes(genes)
    scale = slide.provenance.get("scale", SCALE)
    return {
        "slide": slide,
        "groupby": groupby,
        "placement": _placement(slide),
        "model": slide.provenance | {"scale": scale, "encoder": _encoder(slide)},
        "trust": _trust(slide, alignment),
        "genes": _genes(slide, chosen, groupby) | {"chosen": not isinstance(genes, int | np.integer)}
        if chosen
        else None,
        "groups": _groups(slide, groupby),
        "pathways": _pathways(slide),
        "correction": _correction(slide),
        "provenance": _provenance(slide),
    }


def _placement(slide: SlideContents) -> dict[str, Any]:
    """Return the image with its spots, its scale, and the size and distance of the spots in µm."""
    from deepspot.pl._map.places import find_places

    places = find_places(slide.sdata, slide.image_key, slide.shapes_key)
    height, width = level_sizes(pyramid_levels(slide.sdata, slide.image_key))[0]
    return {
        "image": to_png(draw_slide(slide)),
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


def _trust(slide: SlideContents, alignment: Alignment | None) -> dict[str, Any] | None:
    """Return out-of-distribution spots, expected and measured agreement, and registration."""
    if slide.prediction is None:
        slide.missing["Predicted genes"] = None
        return None
    obs, expected, here = slide.prediction.obs, _expected_r(slide), _agreement(slide)
    unusual_image = try_drawing(slide, "Map of unusual spots", draw_unusual, slide) if "ood_score" in obs else None
    label = "here (training slide)" if slide.is_training_slide else "here"
    r = {name: r.dropna() for name, r in (("expected", expected["r"]), (label, here)) if r.notna().any()}
    best = expected.assign(here=here).dropna(subset="r").sort_values("r", ascending=False, kind="stable")
    facts: dict[str, Any] = {
        "unusual_image": unusual_image,
        "r_image": try_drawing(slide, "Agreement by gene", draw_r, r) if r else None,
        "unusual": None,
        "expected": None,
        "here": {"n": len(r[label]), "median": r[label].median()} if label in r else None,
        "best": [_row(gene, row, label in r) for gene, row in best[:N_GENES_LISTED].iterrows()],
    }
    if "ood" in obs:
        facts["unusual"] = {"n": int(obs["ood"].sum()), "share": slide.ood_share, "many": slide.has_many_ood}
    if "expected" in r:
        source, known = str(slide.provenance.get("expected_r_from", "")), r["expected"]
        unit = next((unit for unit in ("patients", "slides", "blocks") if unit in source), None)
        spread = {"n": len(known), "median": known.median(), "top": known.quantile(0.9)}
        facts["expected"] = spread | {"source": source, "unit": unit}
    corrected = {} if slide.corrected_key is None else slide.sdata.tables[slide.corrected_key].uns[UNS]
    registration = str(corrected.get("registration", UNCHECKED)) if alignment is None else repr(alignment)
    if slide.measured_key is not None and registration == UNCHECKED:
        slide.missing["Check of the registration"] = None
    return facts | {"registration": None if registration == UNCHECKED else registration}


def _expected_r(slide: SlideContents) -> pd.DataFrame:
    """Return `r`, `low`, `high` and `n` units of the expected r of genes, NaN if unknown or not valid here."""
    columns = {"expected_r": "r", "expected_r_low": "low", "expected_r_high": "high", "expected_r_n": "n"}
    var = slide.sdata.tables[str(slide.prediction_key or slide.corrected_key)].var
    expected = var[~var.index.duplicated()].reindex(columns=list(columns)).rename(columns=columns).astype(float)
    # It was measured on spots, and on tissue like that of the training.
    return expected * np.nan if slide.has_many_ood or slide.is_finer else expected


def _row(gene: Any, row: pd.Series, here: bool) -> list[str]:
    """Return a row of the table of the best genes, with or without r on this slide."""
    interval = f"{decimal(row['low'])} to {decimal(row['high'])}" if row.notna()["low"] else "unknown"
    n = f"{row['n']:.0f}" if row.notna()["n"] else "unknown"
    return [str(gene), decimal(row["r"]), interval, n] + [decimal(row["here"])] * here


def _agreement(slide: SlideContents) -> pd.Series:
    """Return Pearson's r of predicted and measured genes, of `ds.tl.evaluate` or computed here; empty if unknown."""
    none = pd.Series(dtype=float)
    if slide.prediction is None or slide.prediction_key is None or slide.measured_key is None:
        return none
    if "pearson" in slide.prediction.var:
        return slide.prediction.var["pearson"].astype(float)
    from deepspot.pl._map.values import measured_values, predicted_values

    genes = list(slide.prediction.var_names)
    try:
        check_shared_genes(genes, slide.sdata.tables[slide.measured_key], slide.measured_key)
        scale = comparable_scale(slide.prediction)
        measured = measured_values(
            slide.sdata, slide.shapes_key, slide.measured_key, genes, layer=slide.layer, scale=scale
        )
        predicted = predicted_values(slide.sdata, slide.shapes_key, slide.prediction_key, genes)
    except (KeyError, ValueError) as error:
        slide.missing["Comparison with measured genes"] = str(error.args[0])
        return none
    both = np.isfinite(measured).any(axis=1) & np.isfinite(predicted).any(axis=1)
    known = np.isfinite(measured[both]).all(axis=0)
    r = pd.Series(np.nan, index=slide.prediction.var_names)
    if both.sum() > 2 and known.any():
        r[known] = pearson(predicted[both][:, known], measured[both][:, known])
    return r


def _genes(slide: SlideContents, genes: list[str], groupby: str | None) -> dict[str, Any]:
    """Draw maps of genes, tiles where the first one is high and low, finer maps and a UMAP."""
    from deepspot.pl._gallery import gallery
    from deepspot.pl._map.values import measured_values
    from deepspot.pl._spatial import spatial
    from deepspot.pl._superresolution import finer_shapes, superresolution
    from deepspot.pl._umap import umap

    sdata, table_key, first = slide.sdata, str(slide.prediction_key or slide.corrected_key), genes[0]
    expected = _expected_r(slide)
    keys: dict[str, Any] = {"image_key": slide.image_key, "shapes_key": slide.shapes_key}
    readable = sdata
    if slide.measured_key is not None:
        try:
            measured_values(sdata, slide.shapes_key, slide.measured_key, [], layer=slide.layer)
        except (KeyError, ValueError) as error:
            slide.missing["Maps of measured genes"] = str(error.args[0])
            readable = slide.without_measured()
    tables = {"prediction_key": slide.prediction_key, "corrected_key": slide.corrected_key, "layer": slide.layer}
    colors = {"cmap": "Greys"} if slide.has_many_ood else {}
    maps = [
        {
            "gene": gene,
            "image": try_drawing(slide, f"Map of {gene}", spatial, readable, gene, **tables, **keys, **colors),
        }
        | expected.loc[gene].to_dict()
        for gene in genes
    ]
    part = f"Images of {slide.noun.many} by {first}"
    facts = {
        "maps": maps,
        "known": bool(expected["r"].notna().any()),
        "patterns": effective_patterns(slide.sampled),
        "tiles": None,
        "finer": None,
        "umap": None,
    }
    if slide.has_many_ood:
        slide.missing[part] = NOT_DRAWN.format(slide.noun.many)
    else:
        facts["tiles"] = try_drawing(slide, part, gallery, sdata, first, n=8, table_key=table_key, **keys)
    if finer_shapes(sdata, slide.image_key, slide.shapes_key):
        options = {"prediction_key": slide.prediction_key, **keys, **colors}
        facts["finer"] = try_drawing(slide, "Finer maps", superresolution, sdata, first, **options)
    elif not slide.is_finer:
        slide.missing["Finer maps"] = None
    if "X_umap" in sdata.tables[table_key].obsm:
        facts["umap"] = try_drawing(slide, "UMAP", umap, sdata, color=groupby, table_key=table_key, **keys)
    return facts


def _groups(slide: SlideContents, groupby: str | None) -> dict[str, Any]:
    """Draw groups of spots, their markers and gene sets."""
    from deepspot.pl._enrichment import enrichment
    from deepspot.pl._markers import markers

    facts: dict[str, Any] = {"image": None, "markers": None, "sets": None}
    if groupby is None:
        slide.missing["Regions or clusters"] = None
    else:
        facts["image"] = try_drawing(slide, "Map of groups", draw_groups, slide, groupby)
    key = slide.table_with_result("uns", "markers")
    if key is None:
        slide.missing["Marker genes"] = None
    else:
        options = {"table_key": key, "n_top": N_MARKERS}
        image = try_drawing(slide, "Figure of marker genes", markers, slide.sdata, **options)
        facts["markers"] = {"image": image, **_markers(slide.sdata.tables[key])}
    key = slide.table_with_result("uns", "enrichment")
    if key is None:
        slide.missing["Gene sets"] = None
    else:
        options = {"table_key": key, "n_top": N_SETS_DRAWN}
        image = try_drawing(slide, "Figure of gene sets", enrichment, slide.sdata, **options)
        sets = slide.sdata.tables[key].uns["enrichment"]
        rows = [
            (row.group, row.term, f"{row.n_overlap:.0f} of {row.n_set:.0f}", f"{row.p_adj:.2g}")
            for row in sets[sets["p_adj"] < SIGNIFICANT].itertuples()
        ]
        facts["sets"] = {"image": image, "rows": rows[:N_SETS_LISTED], "n_more": len(rows[N_SETS_LISTED:])}
    return facts


def _markers(table: AnnData) -> dict[str, Any]:
    """Return the number of markers and the top markers of each group, and the kind of test."""
    from deepspot.pl._map.values import groups_of
    from deepspot.pl._markers import top_genes

    results = table.uns["markers"]
    results = results.assign(group=results["group"].astype(str), gene=results["gene"].astype(str))
    change = results.set_index(["group", "gene"])["logfoldchange"]
    higher = results[results["significant"].astype(bool) & (results["logfoldchange"] > 0)]["group"].value_counts()
    rows = [
        (
            group,
            f"{higher.get(group, 0):,}",
            ", ".join(f"{gene} ({change[group, gene]:+.2f})" for gene in genes) or "none",
        )
        for group, genes in top_genes(results, groups_of(results, None, "groups"), 2 * N_MARKERS).items()
    ]
    groupby = str(table.uns.get("deepspot_markers", {}).get("groupby", "group"))
    return {"groupby": groupby, "block_test": bool(results["p_block_adj"].notna().any()), "rows": rows}


def _pathways(slide: SlideContents) -> bytes | None:
    """Draw maps of pathways."""
    from deepspot.pl._pathways import pathways

    key = slide.table_with_result("obsm", "score_mlm")
    if key is None:
        slide.missing["Pathways"] = None
        return None
    if slide.has_many_ood and key != slide.measured_key:
        slide.missing["Maps of pathways"] = NOT_DRAWN.format(slide.noun.many)
        return None
    options = {"table_key": key, "image_key": slide.image_key, "shapes_key": slide.shapes_key}
    return try_drawing(slide, "Maps of pathways", pathways, slide.sdata, **options)


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
        facts["image"] = try_drawing(slide, "Map of the correction", draw_change, slide, change)
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
    text = str(list(value) if isinstance(value, np.ndarray) else value)
    return text if len(text) <= length else text[: length - 3] + "…"
