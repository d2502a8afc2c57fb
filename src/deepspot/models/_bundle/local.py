"""List models on this machine: in the package, the folder of models and the cache of Hugging Face."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from deepspot._core.settings import settings

from .bundle import CARD, WEIGHTS

FOLDER = Path(__file__).parents[1] / "embedded"


class LocalModel(NamedTuple):
    """Source of a bundle, ``"package"``, ``"folder"`` or ``"hub"``, and its folder."""

    source: str
    path: Path


def local_models() -> dict[str, LocalModel]:
    """List models of the package and of the folder of models by name, or by path if the name is in the package."""
    models = {path.name: LocalModel("package", path) for path in sorted(FOLDER.iterdir()) if path.is_dir()}
    for card in sorted(settings.models().glob(f"*/{CARD}")):
        folder = card.parent
        models[str(folder) if folder.name in models else folder.name] = LocalModel("folder", folder)
    return models


def downloaded_models() -> dict[str, LocalModel]:
    """List models in the cache of Hugging Face by address."""
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    try:
        repos = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return {}
    models = {}
    for repo in sorted((repo for repo in repos if repo.repo_type == "model"), key=lambda repo: repo.repo_id):
        for commit in sorted(repo.revisions, key=lambda revision: revision.commit_hash):
            if all((commit.snapshot_path / name).is_file() for name in (CARD, WEIGHTS)):
                at = "" if "main" in commit.refs else f"@{min(commit.refs, default=commit.commit_hash)}"
                models[f"hf://{repo.repo_id}{at}"] = LocalModel("hub", commit.snapshot_path)
    return models
