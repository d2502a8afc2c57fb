"""Annotated regions: polygons, labels and colors from QuPath's GeoJSON or a GeoDataFrame."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zipfile import BadZipFile, ZipFile

import numpy as np

from deepspot._core.keys import key_in
from deepspot.errors import InputError

if TYPE_CHECKING:
    from geopandas import GeoDataFrame, GeoSeries

LABEL_COLUMNS = ("classification", "name")
"""Columns with labels, in order of preference: the QuPath class of an object, and its name."""


@dataclass(frozen=True)
class Regions:
    """Valid polygons with one label each, colors by label, and a description of the objects that were left out."""

    polygons: GeoSeries
    labels: list[str]
    colors: dict[str, str]
    left_out: str

    def cover(self, points: np.ndarray) -> np.ndarray:
        """Return for each of (n, 2) points the number of the smallest region that covers it, or -1."""
        import shapely

        point, region = self.polygons.sindex.query(shapely.points(points), predicate="intersects")
        # The last assignment to a point is kept: the smallest region, and the first of equal ones.
        order = np.lexsort((-region, -self.polygons.area.to_numpy()[region]))
        covering = np.full(len(points), -1)
        covering[point[order]] = region[order]
        return covering


def read_geojson(path: Path) -> GeoDataFrame:
    """Read a GeoJSON file: a feature collection, one feature, or a plain list of features (QuPath scripts)."""
    from geopandas import GeoDataFrame
    from shapely.errors import ShapelyError

    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    try:
        content = json.loads(_uncompressed(path))  # of bytes, which may start with a byte order mark
        features = content if isinstance(content, list) else content.get("features", [content])
        return GeoDataFrame.from_features(features)
    except InputError:
        raise
    except (ValueError, AttributeError, LookupError, TypeError, RecursionError, ShapelyError, *_DAMAGED) as error:
        raise InputError(
            f"{str(path)!r} is not GeoJSON ({type(error).__name__}: {error}). Export the annotations from QuPath with "
            "File > Export objects as GeoJSON."
        ) from error


# Errors of a damaged or encrypted archive; an OSError of the system is raised as it is.
_DAMAGED = (gzip.BadGzipFile, BadZipFile, zlib.error, EOFError, RuntimeError)


def _uncompressed(path: Path) -> bytes:
    """Return the content of a file, of a .gz, or of the only GeoJSON in a .zip, whatever its name."""
    content = path.read_bytes()
    if content.startswith(b"\x1f\x8b"):
        return gzip.decompress(content)
    if not content.startswith(b"PK"):
        return content
    with ZipFile(path) as archive:
        names = [name for name in archive.namelist() if name.lower().endswith((".geojson", ".json"))]
        names = [name for name in names if not Path(name).name.startswith(".")]  # macOS adds ._ files
        if len(names) != 1:
            raise InputError(f"{str(path)!r} must hold one GeoJSON file, but holds {names}. Unpack it, and pass one.")
        return archive.read(names[0])


def regions_from(shapes: GeoDataFrame, label_key: str | None) -> Regions:
    """Return polygons and labels of a GeoDataFrame, without objects that have no area or no label."""
    import shapely
    from geopandas import GeoSeries

    twice = list(shapes.columns[shapes.columns.duplicated()])
    if twice:
        raise InputError(f"The regions have several columns {twice}. Give each column its own name.")
    if not np.isfinite(shapely.get_coordinates(np.asarray(shapes.geometry, dtype=object))).all():
        raise InputError("The regions have coordinates that are not finite. Export or draw them again.")
    labels, colors = _labels(shapes, label_key)
    # Without the coordinate reference system that geopandas assigns to any GeoJSON: these are pixels.
    polygons = GeoSeries(np.asarray(shapes.geometry, dtype=object)).make_valid()
    flat = ~(polygons.area.to_numpy() > 0)
    unnamed = np.array([label is None for label in labels], dtype=bool) & ~flat
    reasons = {"without an area (points or lines)": flat.sum(), "without a label": unnamed.sum()}
    left_out = " and ".join(f"{n} {reason}" for reason, n in reasons.items() if n)
    kept = ~flat & ~unnamed
    if not kept.any():
        raise InputError(f"There is no labeled polygon among the {len(shapes)} regions: {left_out or 'it is empty'}.")
    return Regions(polygons[kept], [str(labels[at]) for at in np.flatnonzero(kept)], colors, left_out)


def _labels(shapes: GeoDataFrame, label_key: str | None) -> tuple[list[str | None], dict[str, str]]:
    if label_key is not None:
        columns = [column for column in shapes.columns if column != shapes.geometry.name]
        key_in(label_key, columns, "columns of the regions")
    for column in LABEL_COLUMNS if label_key is None else [label_key]:
        if column in shapes:
            classes = [_label_and_color(value) for value in shapes[column]]
            if any(label is not None for label, _ in classes):
                return [label for label, _ in classes], {label: c for label, c in classes if label and c}
    if label_key is not None:
        raise InputError(f"Column {label_key!r} of the regions has no labels.")
    return [str(value) for value in shapes.index], {}


def _label_and_color(value: Any) -> tuple[str | None, str | None]:
    """Parse a label: text, or QuPath's ``{"name": …, "color": […]}`` as a dictionary or as text."""
    if isinstance(value, str) and value.lstrip().startswith("{"):
        try:
            value = json.loads(value)
        except ValueError:
            return value, None
    if isinstance(value, dict):
        # A derived class has several names.
        names = value.get("names")
        name = value.get("name") or ": ".join(map(str, names if isinstance(names, list | tuple) else []))
        return (str(name) if name else None), _color(value.get("color", value.get("colorRGB")))
    missing = value is None or value != value or not str(value).strip()
    return (None if missing else str(value)), None


def _color(value: Any) -> str | None:
    if isinstance(value, int | np.integer):  # older QuPath files: alpha, red, green and blue in one signed integer
        return f"#{int(value) & 0xFFFFFF:06x}"
    if isinstance(value, Sequence | np.ndarray) and len(value) == 3 and all(isinstance(v, Real) for v in value):
        return "#{:02x}{:02x}{:02x}".format(*map(int, value))
    return None
