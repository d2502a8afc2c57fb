"""Models that are on this machine: in the package, in the folder of models, in the cache of Hugging Face."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deepspot._core.settings import settings

from .files import CARD, WEIGHTS

FOLDER = Path(__file__).parents[1] / "embedded"


@dataclass(frozen=True)
class Found:
    """A bundle: what to give to `load`, where it comes from, and where it is."""

    name: str
    source: str
    path: Path


def named() -> dict[str, Found]:
    """Models that have a name. Those of the package keep theirs, whatever lies in the folder of models."""
    own = [Found(path.name, "package", path) for path in sorted(FOLDER.iterdir()) if path.is_dir()]
    return {found.name: found for found in [*_in_folder(settings.models()), *own]}


def everything() -> list[Found]:
    """All of them, and those that were downloaded from Hugging Face."""
    known = named()
    own = [found for found in known.values() if found.source == "package"]
    return [*own, *_in_folder(settings.models(), taken={found.name for found in own}), *_downloaded()]


def _in_folder(folder: Path, taken: frozenset[str] | set[str] = frozenset()) -> list[Found]:
    """Bundles in a folder, by the name of their folder or zip; one whose name is taken goes by its path."""
    if not folder.is_dir():
        return []
    paths = [path for path in sorted(folder.iterdir()) if path.suffix.lower() == ".zip" or (path / CARD).is_file()]
    names = [path.stem if path.is_file() else path.name for path in paths]
    return [
        Found(str(path) if name in taken or names.count(name) > 1 else name, "folder", path)
        for name, path in zip(names, paths, strict=True)
    ]


def _downloaded() -> Iterator[Found]:
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return
    for repo in sorted((repo for repo in repos if repo.repo_type == "model"), key=lambda repo: repo.repo_id):
        for commit in sorted(repo.revisions, key=lambda revision: revision.commit_hash):
            if all((commit.snapshot_path / name).is_file() for name in (CARD, WEIGHTS)):
                at = "" if "main" in commit.refs else f"@{min(commit.refs, default=commit.commit_hash)}"
                yield Found(f"hf://{repo.repo_id}{at}", "hub", commit.snapshot_path)
