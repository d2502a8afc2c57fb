"""Data sets that others published: what is known of them, and where their files are looked up."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from deepspot._core.settings import settings
from deepspot._core.validate import check_text

DATASET = "deepspot_dataset"
"""Key in the `attrs` of a SpatialData under which a published sample says whose it is."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")

Layout = Mapping[str, Sequence[str]]
"""Parts of a sample, and for each the patterns of its path; ``{}`` stands for the sample."""


@dataclass(frozen=True)
class Source:
    """A published data set.

    Attributes
    ----------
    name
        Its folder in ``$DEEPSPOT_DATA`` and in the cache.
    title, page, licence, citation
        What a user has to know.
    layouts
        How its files are laid out, by the name of the layout.
    files
        The same in words.
    """

    name: str
    title: str
    page: str
    licence: str
    citation: str
    layouts: Mapping[str, Layout]
    files: str

    @property
    def cache(self) -> Path:
        """Folder for downloads."""
        return settings.cache(self.name)

    def places(self, folder: str | Path | None) -> list[Path]:
        """Folders in which a sample may be: the one that was named, ``$DEEPSPOT_DATA/<name>``, and the cache."""
        named = []
        if folder is not None:
            named = [Path(folder).expanduser()]
            if not named[0].is_dir():
                raise FileNotFoundError(f"There is no folder {named[0]}. Pass one with {self.files}.")
        data = os.environ.get("DEEPSPOT_DATA")
        return [*named, *([Path(data) / self.name] if data else []), self.cache]

    def said_of(self, sample: str, **more: Any) -> dict[str, Any]:
        """What a SpatialData of a sample keeps in its `attrs`."""
        known = {"name": self.title, "sample": sample, "page": self.page, "licence": self.licence}
        return known | {"citation": self.citation} | {key: value for key, value in more.items() if value is not None}


@dataclass(frozen=True)
class Files:
    """Files of a sample that are all there: the layout that they are in, and the path of each part."""

    layout: str
    paths: dict[str, Path]


def check_name(sample: str) -> str:
    """Return the name of a sample if it is no path: it becomes one, and must not lead out of a folder."""
    if not NAME.fullmatch(check_text(sample, "sample")):
        raise ValueError(
            f"`sample` must be the name of a sample, of letters, digits, '_', '-' and single '.', got {sample!r}. Name "
            "the folder that it is in with `folder=`."
        )
    return sample


def locate(source: Source, places: Sequence[Path], sample: str) -> tuple[Files | None, list[str]]:
    """Files of a sample in the first place that holds all of them, else what the places lack that hold some."""
    nearly = []
    for place in places:
        for layout, parts in source.layouts.items():
            found = {part: first(place, patterns, sample) for part, patterns in parts.items()}
            paths = {part: path for part, path in found.items() if path is not None}
            if len(paths) == len(parts):
                return Files(layout, paths), []
            if paths:
                lacking = [parts[part][0].format(sample) for part in parts if part not in paths]
                nearly.append(f"{place} holds {sorted(path.name for path in paths.values())}, but lacks {lacking}")
    return None, nearly


def first(place: Path, patterns: Sequence[str], sample: str) -> Path | None:
    """First file in a folder that a pattern fits."""
    for pattern in patterns:
        for path in sorted(place.glob(pattern.format(sample))):
            if path.is_file():
                return path
    return None


def at_hand(source: Source, places: Sequence[Path], part: str = "table") -> list[str]:
    """Names of the samples that the places hold."""
    names = set()
    for place in places:
        for parts in source.layouts.values():
            for pattern in parts[part]:
                ending = pattern.rpartition("{}")[2]
                names |= {path.name.removesuffix(ending) for path in place.glob(pattern.format("*"))}
    return sorted(names)


def absent(source: Source, sample: str, folder: str | Path | None, nearly: Sequence[str] = ()) -> str:
    """Beginning of a message about a sample that is not here."""
    if nearly:
        return f"Sample {sample!r} of {source.title} is not complete on this machine: {'; '.join(nearly)}"
    data = os.environ.get("DEEPSPOT_DATA", "not set")
    named = "" if folder is None else f"in {folder}, "
    return f"Sample {sample!r} of {source.title} is neither {named}in DEEPSPOT_DATA ({data}) nor in the cache"


def way_out(source: Source, call: str) -> str:
    """What to do without a connection."""
    return (
        f"Get it on a machine with internet with `deepspot.datasets.{call}` and copy the folder {source.cache} here, "
        f"or pass `folder=`, with {source.files}; {source.name!r} in the folder that DEEPSPOT_DATA names is found too."
    )


def with_endings(stem: str) -> list[str]:
    """Patterns of an image file."""
    return [f"{stem}{ending}" for ending in (".tif", ".tiff", ".jpg", ".jpeg", ".png")]
