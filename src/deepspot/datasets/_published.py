"""Files of published data sets: find them on this machine, download and unpack them."""

from __future__ import annotations

import gzip
import os
import re
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from lzma import LZMAError
from pathlib import Path
from typing import Any
from zipfile import BadZipFile, ZipFile

from deepspot._core.hub import HubErrors, explain_hub_errors
from deepspot._core.logging import logger
from deepspot._core.settings import settings
from deepspot._core.validate import check_text
from deepspot.errors import InputError, MissingKeyError

DATASET = "deepspot_dataset"
"""Key in the `attrs` of a SpatialData with the source of a published sample."""

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*(\.[A-Za-z0-9_-]+)*")
IMAGES = (".tif", ".tiff", ".jpg", ".jpeg", ".png")
DAMAGED = (EOFError, LZMAError, OSError, OverflowError, RuntimeError, UnicodeDecodeError, BadZipFile, zlib.error)
BLOCK = 2**22


@dataclass(frozen=True)
class Files:
    """Complete files of a sample on this machine: the name of the layout, and the path of each part."""

    layout: str
    paths: dict[str, Path]


@dataclass(frozen=True)
class Missing:
    """A sample that is not on this machine: where it was searched, what to do, and the samples that exist."""

    where: str
    hint: str
    local: list[str]

    def message(self, reason: str) -> str:
        """Format the error for a sample that cannot be downloaded."""
        return f"{self.where}, and {reason}. {self.hint}"


@dataclass(frozen=True)
class Source:
    """A published data set: license, citation, and the paths of the files of a sample.

    `layouts` maps the name of a layout to path patterns of each part, with ``{}`` for the sample; `files` describes
    them. `folders` are searched in ``$DEEPSPOT_DATA``; by default one with the name of the data set.
    """

    name: str
    title: str
    page: str
    license: str
    citation: str
    layouts: Mapping[str, Mapping[str, Sequence[str]]]
    files: str
    folders: tuple[str, ...] = ()

    @property
    def cache(self) -> Path:
        """Folder for downloads."""
        return settings.cache(self.name)

    def places(self, folder: str | Path | None) -> list[Path]:
        """Return the folders to search: `folder`, those in ``$DEEPSPOT_DATA``, and the cache."""
        named = [] if folder is None else [Path(folder).expanduser()]
        if named and not named[0].is_dir():
            raise FileNotFoundError(f"There is no folder {named[0]}. Pass one with {self.files}.")
        data = os.environ.get("DEEPSPOT_DATA")
        return [*named, *(Path(data).expanduser() / name for name in self.folders or (self.name,) if data), self.cache]

    def find(self, sample: str, folder: str | Path | None, *, download: bool) -> Files | Missing:
        """Find the files of a sample in the first folder that has all; without `download`, raise if there is none."""
        places, incomplete = self.places(folder), []
        for place in places:
            for layout, parts in self.layouts.items():
                found = {part: _first(place, patterns, sample) for part, patterns in parts.items()}
                paths = {part: path for part, path in found.items() if path is not None}
                if len(paths) == len(parts):
                    return Files(layout, paths)
                if paths:
                    lacking = [parts[part][0].format(sample) for part in parts if part not in paths]
                    incomplete.append(f"{place} has {sorted(p.name for p in paths.values())} but lacks {lacking}")
        named = "" if folder is None else f"in {folder}, "
        where = f"neither {named}in DEEPSPOT_DATA ({os.environ.get('DEEPSPOT_DATA', 'not set')}) nor in the cache"
        if incomplete:
            where = f"not complete on this machine: {'; '.join(incomplete)}"
        local = self._local(places)
        hint = (
            f"Get it on a machine with internet with `deepspot.datasets.{self.name}({sample!r})` and copy the folder "
            f"{self.cache} here, or use a folder with {self.files}. Local samples: {local}."
        )
        missing = Missing(f"Sample {sample!r} of {self.title} is {where}", hint, local)
        if not download:
            raise FileNotFoundError(missing.message("`download=False`"))
        return missing

    def _local(self, places: Sequence[Path]) -> list[str]:
        """Return the names of the samples whose first part exists in the folders."""
        patterns = [pattern for parts in self.layouts.values() for pattern in next(iter(parts.values()))]
        found = [
            path.name.removesuffix(pattern.rpartition("{}")[2])
            for place in places
            for pattern in patterns
            for path in place.glob(pattern.format("*"))
            if not path.name.startswith(".")  # "._" files of macOS
        ]
        return sorted(set(found))

    def attrs(self, sample: str, **more: Any) -> dict[str, Any]:
        """Return the source of a sample for the `attrs` of its SpatialData."""
        facts = {"name": self.title, "sample": sample, "page": self.page, "license": self.license}
        return facts | {"citation": self.citation} | {key: value for key, value in more.items() if value is not None}


def check_name(sample: str) -> str:
    """Return the name of a sample if it is valid; it becomes part of a path and must not leave the folder."""
    if not NAME.fullmatch(check_text(sample, "sample")):
        raise InputError(
            f"`sample` must be the name of a sample, of letters, digits, '_', '-' and single '.', got {sample!r}. Pass "
            "its folder as `folder=`."
        )
    return sample


def with_endings(stem: str) -> list[str]:
    """Return path patterns of an image file."""
    return [f"{stem}{ending}" for ending in IMAGES]


def fetch_from_hub(source: Source, repo: str, path: str, token: str | None, missing: Missing, listing: str) -> Path:
    """Return the path in the cache of a file in a Hugging Face repository, after a download if needed.

    Raises KeyError if the file does not exist (`listing` is the file with the samples), PermissionError without access,
    and ConnectionError if the download fails.
    """
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    target = source.cache / path
    if target.is_file():
        return target
    errors = HubErrors(
        gated=missing.message(
            f"Hugging Face denies access. Log in at {source.page}, accept the terms there, create a token with read "
            "access at https://huggingface.co/settings/tokens, and pass it as `token=` or in the environment variable "
            "HF_TOKEN"
        ),
        missing="",
        offline=missing.message("could not be downloaded (no connection)"),
        failed=missing.message("could not be downloaded ({})"),
    )
    try:
        with explain_hub_errors(errors):
            found = Path(hf_hub_download(repo, path, repo_type="dataset", local_dir=source.cache, token=token))
    except EntryNotFoundError as error:
        raise MissingKeyError(
            f"`{path!r}` not found in {source.title}. Its samples are listed at {source.page} in {listing}. Local "
            f"samples: {missing.local}."
        ) from error
    logger.info("Downloaded %s of %s to %s. Terms: %s, %s.", path, source.title, found, source.license, source.page)
    return found


def fetch_from_url(source: Source, url: str, path: str, missing: Missing, known_hash: str | None = None) -> Path:
    """Return the path in the cache of a file at a base URL or in a record ``doi:…``, after a download if needed.

    Raises ValueError if the SHA-256 or the checksum of the record is wrong, and ConnectionError if the download fails.
    """
    import pooch

    def failed(error: Exception) -> ConnectionError:
        return ConnectionError(missing.message(f"could not be downloaded ({type(error).__name__})"))

    files = pooch.create(source.cache, url, registry={path: known_hash})
    try:
        if url.startswith("doi:"):
            files.load_registry_from_doi()
    except (OSError, ValueError) as error:  # ValueError: unexpected answer of doi.org
        raise failed(error) from error
    try:
        return Path(files.fetch(path))
    except OSError as error:
        raise failed(error) from error


def unpack(packed: Path, target: Path, max_gb: float, *, member: str | None = None) -> Path:
    """Unpack a .gz file, or a member of a .zip file, to `target`, as a stream with a size limit.

    `target` appears only when it is complete. (The processors of pooch have no limit and accept incomplete files.)
    Raises ValueError if the file is damaged, lacks the member, or exceeds the limit.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(f"{target.name}.partial")
    try:
        with ExitStack() as opened:
            stream: Any
            if member is None:
                stream = opened.enter_context(gzip.open(packed))
            else:
                archive = opened.enter_context(ZipFile(packed))
                if member not in archive.namelist():
                    raise InputError(f"{packed} has no {member!r}. It is not the published archive: download it again.")
                stream = opened.enter_context(archive.open(member))
            file = opened.enter_context(partial.open("wb"))
            while block := stream.read(BLOCK):
                if file.tell() + len(block) > max_gb * 1e9:
                    raise InputError(
                        f"{packed} unpacks to more than {max_gb:g} GB, which could fill the disk. If you trust it, "
                        "raise the limit with `max_gb=`."
                    )
                file.write(block)
        return partial.replace(target)
    except DAMAGED as error:
        # Errors of the system, such as a full disk, have an errno; those of a damaged file have none.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InputError(f"{packed} is damaged or incomplete ({error}). Delete it and download it again.") from error
    finally:
        partial.unlink(missing_ok=True)


def _first(place: Path, patterns: Sequence[str], sample: str) -> Path | None:
    """Return the first file in a folder that matches a pattern."""
    paths = (path for pattern in patterns for path in sorted(place.glob(pattern.format(sample))))
    return next((path for path in paths if path.is_file() and not path.name.startswith(".")), None)
