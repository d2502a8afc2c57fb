"""GeoJSON of QuPath: an object for each spot, bin or cell, with genes as measurements."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from pandas.api.types import is_numeric_dtype

from deepspot._core.logging import logger

from .contents import Contents, as_json

OBJECT_TYPES = ("detection", "cell", "annotation")
DIGITS = 4
MANY_GENES = 200
DOUBT = "Out of distribution"


def write_geojson(contents: Contents, path: Path, *, groupby: str | None, object_type: str | None) -> None:
    """Write a GeoJSON with one object in each line, so that only a block of rows is in memory."""
    if len(contents.genes) > MANY_GENES:
        logger.warning(
            "QuPath keeps all %s measurements of each object in memory. Choose some genes with `genes=`.",
            f"{len(contents.genes):,}",
        )
    kind = object_type or ("cell" if contents.noun.one == "cell" else "detection")
    facts = _numbers(contents)
    classes = _classes(contents, groupby)
    names = [f"{contents.kind.capitalize()}: {gene}" for gene in contents.genes]
    with path.open("w", encoding="utf-8") as file:
        # QuPath and geopandas skip members that are not of GeoJSON.
        file.write(f'{{"type":"FeatureCollection","deepspot":{as_json(_about(contents))},"features":[\n')
        end = ""
        for rows in contents.blocks():
            for line in _features(contents, rows, kind, names, facts, classes):
                file.write(end + line)
                end = ",\n"
        file.write("\n]}\n")


def _features(
    contents: Contents, rows: slice, kind: str, genes: list[str], facts: pd.DataFrame, classes: list[Any]
) -> list[str]:
    """Return the objects of some rows as JSON."""
    import shapely

    outlines = shapely.to_geojson(contents.outlines(rows))
    values = np.hstack([facts.iloc[rows].to_numpy(float), contents.values(rows).astype(float)]).round(DIGITS)
    measured = np.isfinite(values)
    labels = [*facts.columns, *genes]
    lines = []
    for i, (outline, name, group) in enumerate(zip(outlines, contents.names[rows], classes[rows], strict=True)):
        numbers, known = values[i].tolist(), measured[i]
        properties = {"objectType": kind, "name": str(name)} | ({} if group is None else {"classification": group})
        properties["measurements"] = {
            label: value for label, value, there in zip(labels, numbers, known, strict=True) if there
        }
        lines.append(f'{{"type":"Feature","geometry":{outline},"properties":{as_json(properties)}}}')
    return lines


def _numbers(contents: Contents) -> pd.DataFrame:
    """Return the columns of `obs` that are numbers, which are measurements as genes are."""
    obs, link = contents.obs, contents.table.uns["spatialdata_attrs"]
    known = [name for name in obs if name not in (link["region_key"], link["instance_key"])]
    chosen = [name for name in known if is_numeric_dtype(obs[name])]
    return obs[chosen].astype(float)


def _classes(contents: Contents, groupby: str | None) -> list[Any]:
    """Return the class of each row as QuPath stores it, or None: groups, or which spots are out of distribution."""
    if groupby is None:
        obs = contents.obs
        ood = obs["ood"].to_numpy(dtype=bool, na_value=False) if "ood" in obs else np.zeros(len(obs), dtype=bool)
        doubtful = {"name": DOUBT, "color": [230, 120, 30]}
        return [doubtful if value else None for value in ood]
    from matplotlib.colors import to_rgb

    labels, colors = contents.labels(groupby)
    classes: dict[str, dict[str, Any]] = {str(name): {"name": str(name)} for name in labels.cat.categories}
    for name, made in classes.items():
        if name in colors:
            made["color"] = [round(255 * part) for part in to_rgb(colors[name])]
    return [None if pd.isna(label) else classes[str(label)] for label in labels]


def _about(contents: Contents) -> dict[str, Any]:
    """Return provenance, with the expected r of the genes that have one."""
    facts: dict[str, Any] = contents.provenance()
    if "expected_r" in contents.var:
        known = contents.var["expected_r"]
        known = known[np.isfinite(known)]
        facts["expected_r"] = {str(gene): round(float(r), DIGITS) for gene, r in known.items()}
    return facts
