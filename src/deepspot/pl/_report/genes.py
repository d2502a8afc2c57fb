"""Maps of genes."""

from __future__ import annotations

from typing import Any

from deepspot._core.html import figure
from deepspot._core.keys import grid_name, subspots_name

from .figures import shot
from .section import Section, attempt, number, paragraph, subheading
from .survey import Slide


def genes(slide: Slide, *, chosen: bool) -> Section | None:
    """Maps of some genes, tiles where one is high and low, finer maps and a UMAP as far as they were made."""
    from deepspot.pl._gallery import gallery
    from deepspot.pl._spatial import spatial
    from deepspot.pl._superresolution import superresolution
    from deepspot.pl._umap import umap

    if not slide.genes:
        return None
    how = "These genes were asked for."
    if not chosen:
        how = "Drawn are the genes with the highest expected r: the best of the prediction, not a typical part of it."
        if "expected_r" not in slide.table.var or not slide.table.var["expected_r"].notna().any():
            how = "Drawn are the genes that vary most, as it is not known which of them can be predicted well."
    parts = [
        paragraph(
            f"{how} Numbers are on a log scale, and each panel has colours of its own: compare where a gene is high "
            "and low, not the colours. A prediction varies less than a measurement, because it leaves out the noise."
        )
    ]
    keys: dict[str, Any] = {"image_key": slide.image_key, "shapes_key": slide.shapes_key}
    sdata = slide.sdata if _readable(slide) else slide.without_measured()
    for gene in slide.genes:
        parts.append(attempt(slide, f"Map of {gene}", lambda gene=gene: figure(  # type: ignore[misc]
            shot(spatial(sdata, gene, prediction_key=slide.prediction_key,
                            corrected_key=slide.corrected_key, layer=slide.layer, **keys)),
            _caption(slide, gene),
        )))  # fmt: skip
    first, finer = slide.genes[0], [subspots_name(slide.shapes_key), grid_name(slide.shapes_key)]
    parts += [
        subheading(f"What spots with much and with little {first} look like"),
        attempt(slide, f"Images of spots by {first}", lambda: figure(
            shot(gallery(slide.sdata, first, n=8, table_key=slide.table_key, **keys)),
            f"Spots where {first} is highest (above) and lowest (below). If you see no difference, mistrust the map.",
        )),
    ]  # fmt: skip
    if any(name in slide.sdata.shapes for name in finer):
        parts += [
            subheading(f"{first} in finer parts"),
            attempt(slide, "Finer maps", lambda: figure(
                shot(superresolution(slide.sdata, first, prediction_key=slide.prediction_key, **keys)),
                "Finer parts are predicted by a model that only ever saw whole spots measured. They show no cells.",
            )),
        ]  # fmt: skip
    else:
        slide.missing["Finer maps"] = '`ds.tl.predict(sdata, model, resolution="subspot")` predicts parts of spots.'
    if "X_umap" in slide.table.obsm:
        parts += [
            subheading("Spots by likeness of their genes"),
            attempt(slide, "UMAP", lambda: figure(
                shot(umap(slide.sdata, color=slide.groupby, table_key=slide.table_key, **keys)),
                "Spots near each other have similar genes; their images should look alike. Distances between far "
                "groups mean nothing.",
            )),
        ]  # fmt: skip
    return Section("Where genes are high and low", "".join(parts))


def _caption(slide: Slide, gene: str) -> str:
    var = slide.table.var
    if gene not in var.index or "expected_r" not in var or var.loc[gene, "expected_r"] != var.loc[gene, "expected_r"]:
        return f"{gene}; how well it can be predicted is not known."
    r, low, high = (float(var.loc[gene, f"expected_r{end}"]) for end in ("", "_low", "_high"))
    interval = f" (90 % interval {number(low)} to {number(high)})" if low == low else ""
    return f"{gene}: expected r {number(r)}{interval}."


def _readable(slide: Slide) -> bool:
    """Whether the measured genes can be drawn beside the predicted ones; the report says so if not."""
    from deepspot.pl._map.values import measured_values

    if slide.measured_key is None:
        return True
    key, part = slide.measured_key, "Maps of measured genes"
    attempt(slide, part, lambda: str(measured_values(slide.sdata, slide.shapes_key, key, [], layer=slide.layer)))
    return part not in slide.missing
