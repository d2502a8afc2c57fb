"""What is exported: rows, genes and positions of one table, and the H&E image that they belong to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepspot._core.keys import CORRECTED, DIAMETER, LEARNED, PARENT, PREDICTION, UNS, key_in, one_key
from deepspot._core.validate import check_genes
from deepspot._image.tiles import coarse_image, image_size, pyramid_levels
from deepspot._sdata.tables import (
    is_deepspot_table,
    kind_of,
    labels_of,
    match_rows,
    regions_of,
    tables_annotating,
)
from deepspot._sdata.view import NO_IMAGE, Noun, noun_of, select_image_and_shapes
from deepspot._spatial.transforms import (
    centers_um,
    has_scale,
    intrinsic_centers,
    microns_per_pixel,
    positions_in,
    slide_mpp,
    slide_pixels,
    um_per_own_unit,
)
from deepspot._stats.log_scale import look_like_counts
from deepspot.errors import InputError, MissingKeyError

if TYPE_CHECKING:
    from anndata import AnnData
    from spatialdata import SpatialData

BLOCK = 1024
"""Rows that are converted at once."""

QUAD_SEGMENTS = 8
"""Circles become polygons of 32 corners: their area is 0.6 % smaller."""

KINDS = {PREDICTION: "predicted", CORRECTED: "corrected", None: "measured"}

SIDES = {"hires": 2000, "lowres": 600}
"""Images of Space Ranger, and the longer side of each in pixels."""


@dataclass(frozen=True, eq=False)
class Contents:
    """One table of a slide: its rows in the order of the shapes, some genes, and how shapes are converted to pixels."""

    sdata: SpatialData
    table_key: str
    shapes_key: str
    image_key: str  # `NO_IMAGE` for an object without images
    layer: str | None  # None is `X`
    genes: list[str]
    coordinate_system: str | None

    @property
    def table(self) -> AnnData:
        """The table."""
        return self.sdata.tables[self.table_key]

    @property
    def kind(self) -> str:
        """Whether the genes are measured, predicted or corrected."""
        return KINDS[kind_of(self.table)]

    @property
    def noun(self) -> Noun:
        """What a row is called."""
        return noun_of(self.sdata, self.shapes_key)

    @cached_property
    def matched(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the table and positions of their shapes."""
        return match_rows(self.table, self.sdata, self.shapes_key)

    @property
    def matrix(self) -> Any:
        """The whole matrix of the table, of any type."""
        return self.table.X if self.layer is None else self.table.layers[self.layer]

    @property
    def columns(self) -> np.ndarray:
        """Columns of the genes."""
        return self.table.var_names.get_indexer(self.genes)

    @property
    def var(self) -> pd.DataFrame:
        """Facts of the genes."""
        return self.table.var.loc[self.genes]

    @property
    def obs(self) -> pd.DataFrame:
        """Facts of the rows."""
        return self.table.obs.iloc[self.matched[0]]

    def values(self, rows: slice) -> np.ndarray:
        """Return some rows of the genes as a dense array."""
        part = self.matrix[self.matched[0][rows]][:, self.columns]
        return part.toarray() if hasattr(part, "toarray") else np.asarray(part)

    def blocks(self) -> Iterator[slice]:
        """Yield slices of rows, of a size that can be converted at once."""
        n = len(self.matched[0])
        yield from (slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK))

    @cached_property
    def names(self) -> pd.Index:
        """Names of the rows: the barcodes of the measured table of the same shapes if there is one, else their own."""
        rows, positions = self.matched
        others = [
            key for key in tables_annotating(self.sdata, self.shapes_key) if kind_of(self.sdata.tables[key]) is None
        ]
        if is_deepspot_table(self.table) and len(others) == 1:
            measured = self.sdata.tables[others[0]]
            theirs, at = match_rows(measured, self.sdata, self.shapes_key)
            barcodes = pd.Series(measured.obs_names[theirs], index=at)
            if barcodes.index.isin(positions).sum() == len(positions):
                return pd.Index(barcodes.loc[positions], dtype=object)
        return self.table.obs_names[rows].astype(object)

    @property
    def scale(self) -> str:
        """What the values are."""
        known = self.table.uns.get(UNS, {}).get("scale")
        if known is not None and self.layer not in ("weight", "change"):
            return str(known).replace("log1p of ", "", 1) if self.layer == "rate" else str(known)
        if is_deepspot_table(self.table):
            return f"layer {self.layer!r}"
        if look_like_counts(self.values(slice(0, BLOCK))):
            return "counts"
        return "log expression, as in the table" if "log1p" in self.table.uns and self.layer is None else "unknown"

    def provenance(self) -> dict[str, str]:
        """Return what the values are and where they are from, as text."""
        uns = self.table.uns.get(UNS, {})
        known = ("model", "fingerprint", "tissue", "license", "resolution", "expected_r_from", LEARNED)
        facts = {"values": self.kind, "scale": self.scale, "table": self.table_key}
        facts |= {name: str(uns[name]) for name in known if uns.get(name) is not None}
        return facts | {"written_by": f"deepspot {version('deepspot')}"}

    # Positions

    def to_pixels(self, xy: np.ndarray) -> np.ndarray:
        """Convert positions (n, 2) in the coordinates of the shapes to full-resolution pixels."""
        if self.coordinate_system is None:
            image = None if self.image_key == NO_IMAGE else self.image_key
            of_slide = slide_pixels(self.sdata, image, self.shapes_key, xy)
            if of_slide is not None or image is None:
                return xy if of_slide is None else of_slide  # spots of a whole slide are in its pixels
        return positions_in(self.sdata, self.image_key, self.shapes_key, xy, self.coordinate_system)

    @cached_property
    def centers(self) -> np.ndarray:
        """Centers (n, 2) of the rows as x and y in full-resolution pixels."""
        return self.to_pixels(intrinsic_centers(self.sdata, self.shapes_key))[self.matched[1]]

    @cached_property
    def centers_um(self) -> np.ndarray | None:
        """Centers (n, 2) of the rows in µm, if the scale is known."""
        if not has_scale(self.sdata, self.shapes_key):
            return None
        return centers_um(self.sdata, self.shapes_key)[self.matched[1]]

    @property
    def px_per_unit(self) -> float:
        """Full-resolution pixels per unit of the coordinates of the shapes."""
        corner, right, below = self.to_pixels(np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]]))
        return float(np.sqrt(abs(np.linalg.det([right - corner, below - corner]))))

    @property
    def drawn_px(self) -> float:
        """Diameter of the circles in full-resolution pixels, as Space Ranger states it; of polygons, their width."""
        shapes = self.sdata.shapes[self.shapes_key]
        own = 2 * shapes["radius"] if "radius" in shapes else np.sqrt(shapes.geometry.area)
        return float(np.median(own)) * self.px_per_unit

    def outlines(self, rows: slice) -> np.ndarray:
        """Return the outlines of some rows in full-resolution pixels; circles have the diameter of the tissue."""
        import shapely

        shapes = self.sdata.shapes[self.shapes_key].iloc[self.matched[1][rows]]
        outlines = shapes.geometry.to_numpy()
        if "radius" in shapes:
            radius = shapes["radius"].to_numpy()
            if DIAMETER in shapes and has_scale(self.sdata, self.shapes_key):
                radius = shapes[DIAMETER].to_numpy() / 2 / um_per_own_unit(self.sdata, self.shapes_key)
            outlines = shapely.buffer(outlines, radius, quad_segs=QUAD_SEGMENTS)
        return shapely.transform(outlines, lambda xy: np.round(self.to_pixels(xy), 2))

    def labels(self, groupby: str) -> tuple[pd.Series, dict[str, str]]:
        """Return the groups (n,) of the rows, and the colors of the groups if the table has them."""
        labels = labels_of(self.sdata, self.table_key, groupby).iloc[self.matched[0]]
        column, colors = self.table.obs.get(groupby), self.table.uns.get(f"{groupby}_colors")
        if colors is None or not isinstance(getattr(column, "dtype", None), pd.CategoricalDtype):
            return labels, {}
        return labels, dict(zip(map(str, column.cat.categories), map(str, colors), strict=False))

    # Image

    def images(self) -> dict[str, tuple[np.ndarray, float]]:
        """Return downscaled images (h, w, 3) in uint8, and their pixels per full-resolution pixel, by name."""
        from PIL import Image

        height, width = image_size(self.sdata, self.image_key)
        full = coarse_image(pyramid_levels(self.sdata, self.image_key), max(height, width) / SIDES["hires"])[0]
        pixels = Image.fromarray(full)
        made = {}
        for name, side in SIDES.items():
            factor = min(1.0, side / max(height, width))
            size = (max(1, round(width * factor)), max(1, round(height * factor)))
            small = np.asarray(pixels.resize(size, Image.Resampling.BOX))
            made[name] = small, factor / self._px_per_image_px
        return made

    @property
    def _px_per_image_px(self) -> float:
        """Full-resolution pixels per pixel of the image: above 1 if the object has only a downscaled copy."""
        image = self.image_key
        if self.coordinate_system is not None or slide_pixels(self.sdata, image, self.shapes_key) is None:
            return 1.0
        return microns_per_pixel(self.sdata, image) / slide_mpp(self.sdata, image)

    def scale_factors(self, images: dict[str, tuple[np.ndarray, float]]) -> dict[str, float]:
        """Return the scale factors of Space Ranger in full-resolution pixels, and µm per pixel as that of Visium HD."""
        factors = {f"tissue_{name}_scalef": factor for name, (_, factor) in images.items()}
        if has_scale(self.sdata, self.shapes_key):
            factors["microns_per_pixel"] = um_per_own_unit(self.sdata, self.shapes_key) / self.px_per_unit
        # There is no frame of fiducials; Seurat needs a number.
        return {"spot_diameter_fullres": self.drawn_px, "fiducial_diameter_fullres": self.drawn_px} | factors


def find_contents(
    sdata: SpatialData,
    *,
    table_key: str | None,
    layer: str | None,
    genes: str | Sequence[str] | None,
    image_key: str | None,
    shapes_key: str | None,
    coordinate_system: str | None,
) -> Contents:
    """Look up what is to be exported; raise unless it is complete."""
    table_key = _find_table(sdata, table_key)
    table = sdata.tables[table_key]
    if kind_of(table) not in KINDS:
        raise InputError(
            f"Table {table_key!r} holds {kind_of(table)} and no genes. Choose another one with `table_key=`, of "
            f"{[key for key in sdata.tables if kind_of(sdata.tables[key]) in KINDS]}."
        )
    regions = regions_of(sdata, table_key)
    shapes_key = one_key(shapes_key, regions, f"shapes that table {table_key!r} annotates", "shapes_key")
    where = f"table {table_key!r}"
    if layer is not None:
        key_in(layer, table.layers, f"layers of {where}")
    elif table.X is None:
        raise InputError(f"X of {where} is empty. Choose a layer of {list(table.layers)} with `layer=`.")
    if not table.var_names.is_unique:
        raise InputError(f"Gene names of {where} are not unique. Call `var_names_make_unique` on it first.")
    chosen = list(table.var_names) if genes is None else check_genes(genes, table.var_names, where)
    image_key = _find_image(sdata, table, image_key, shapes_key)
    found = Contents(sdata, table_key, shapes_key, image_key, layer, chosen, coordinate_system)
    if found.names.has_duplicates:
        name = found.names[found.names.duplicated()][0]
        raise InputError(f"Name {name!r} of a row is not unique. Call `obs_names_make_unique` on the table first.")
    if not len(found.centers):  # positions that are unknown raise here, before anything is written
        raise InputError(f"Table {table_key!r} and shapes {shapes_key!r} have no {found.noun.one} in common.")
    return found


def _find_table(sdata: SpatialData, table_key: str | None) -> str:
    if table_key is not None:
        return key_in(table_key, sdata.tables, "sdata.tables")
    predicted = [key for key, table in sdata.tables.items() if kind_of(table) == PREDICTION]
    if not predicted:
        raise MissingKeyError(
            "No table holds predicted genes. Call `ds.tl.predict(sdata)` first, or choose the table to export with "
            f"`table_key=`, of {list(sdata.tables)}."
        )
    # Predictions for spots take precedence over those for sub-spots and grids.
    whole = [key for key in predicted if not any(PARENT in sdata.shapes[name] for name in regions_of(sdata, key))]
    return one_key(None, whole or predicted, "predicted genes in sdata.tables", "table_key")


ANY_UM = 1e6
"""Tile side with which an image of any resolution is found: here it is only shown."""


def _find_image(sdata: SpatialData, table: AnnData, image_key: str | None, shapes_key: str) -> str:
    """Return the image: by default the one of which the table was predicted."""
    used = table.uns.get(UNS, {}).get("image_key")
    if image_key is None and used in sdata.images:
        return str(used)
    if image_key is None and not sdata.images:
        return NO_IMAGE
    return select_image_and_shapes(sdata, image_key, shapes_key, ANY_UM)[0]


def as_json(facts: Any) -> str:
    """Return JSON; values that are not finite are an error, as no reader accepts them."""
    return json.dumps(facts, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
