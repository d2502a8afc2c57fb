"""The one place that asks Hugging Face for anything, and only for files of weights."""

from __future__ import annotations

import re
from pathlib import Path

from deepspot._core.hub import HubErrors, explain_hub_errors
from deepspot._core.settings import settings
from deepspot.encoders._card import EncoderCard

from .read import IN_A_FOLDER, SUFFIXES
from .specs import Spec

THREE_WAYS = (
    "Pass a file or a folder of weights as `ds.encoders.get({name!r}, weights=...)`, put them into a folder and set "
    "`ds.settings.weights_dir` (or the environment variable DEEPSPOT_WEIGHTS), or load the encoder once while online."
)


def cached(repositories: tuple[str, ...]) -> Path | None:
    """Weights in the cache of Hugging Face, without asking the network."""
    from huggingface_hub import try_to_load_from_cache

    for repository in repositories:
        for name in IN_A_FOLDER:
            found = try_to_load_from_cache(repository, name)
            if isinstance(found, str):
                return Path(found)
    return None


def download(spec: Spec, repository: str, token: str | None) -> Path:
    """Weights of a repository, through the cache of Hugging Face."""
    from huggingface_hub.errors import EntryNotFoundError

    page = f"https://huggingface.co/{repository}"
    for file in IN_A_FOLDER:
        try:
            with explain_hub_errors(words(spec.card, page, repository)):
                return _file(repository, file, token)
        except EntryNotFoundError:
            continue
    raise FileNotFoundError(f"{page} holds none of {list(IN_A_FOLDER)}. {_ways(spec.card.name)}")


def words(card: EncoderCard, page: str, repository: str) -> HubErrors:
    """What to do about the errors of Hugging Face."""
    name, ways = card.name, _ways(card.name)
    return HubErrors(
        gated=f"The weights of {name!r} are given on request. Their licence is {card.licence}. Ask for access at "
        f"{page}, then pass a token of your account as `ds.encoders.get({name!r}, token=...)` or in the environment "
        "variable HF_TOKEN.",
        missing=f"Hugging Face has no repository {repository!r}, or your token may not see it. {ways}",
        offline=f"The weights of {name!r} are neither here nor in the cache of Hugging Face, and {page} cannot be "
        f"reached. {ways}",
        failed=f"{page} did not give the weights of {name!r}: {{}}. {ways}",
    )


def _file(repository: str, name: str, token: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repository, name, token=token))


def _ways(name: str) -> str:
    return THREE_WAYS.format(name=name)


NO_WEIGHTS = (
    f"{{}} holds no weights: neither {' nor '.join(IN_A_FOLDER)}, nor a single file that ends in {', '.join(SUFFIXES)}."
)


def find(spec: Spec, weights: str | Path | None, token: str | None) -> Path:
    """File with the weights of an encoder; it is downloaded if it is nowhere here."""
    if weights is not None:
        return _given(spec, weights, token)
    folder = settings.weights()
    if folder is not None and not folder.is_dir():
        raise FileNotFoundError(
            f"There is no folder {str(folder)!r}, where weights should be. Correct `ds.settings.weights_dir` or the "
            "environment variable DEEPSPOT_WEIGHTS."
        )
    if folder is not None and (folder / spec.folder).is_dir() and at_hand(spec) is None:
        raise FileNotFoundError(f"{NO_WEIGHTS.format(folder / spec.folder)} Leave the right one there.")
    return at_hand(spec) or download(spec, spec.repositories[0], token)


def at_hand(spec: Spec) -> Path | None:
    """File with the weights of an encoder, if it is on this machine."""
    return _in_weights_dir(spec.folder) or cached(spec.repositories)


def _given(spec: Spec, weights: str | Path, token: str | None) -> Path:
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        found = _in_folder(path)
        if found is None:
            raise FileNotFoundError(f"{NO_WEIGHTS.format(path)} Pass the file itself.")
        return found
    if isinstance(weights, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", weights) and path.suffix not in SUFFIXES:
        return cached((weights,)) or download(spec, weights, token)
    raise FileNotFoundError(f"There is no file or folder {str(weights)!r}. {THREE_WAYS.format(name=spec.card.name)}")


def _in_weights_dir(name: str) -> Path | None:
    folder = settings.weights()
    if folder is None:
        return None
    files = (folder / f"{name}{suffix}" for suffix in SUFFIXES)
    return _in_folder(folder / name) or next((file for file in files if file.is_file()), None)


def _in_folder(folder: Path) -> Path | None:
    if not folder.is_dir():
        return None
    usual = [folder / name for name in IN_A_FOLDER if (folder / name).is_file()]
    others = [path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file()]
    # With several files of other names none is surely the right one.
    return usual[0] if usual else others[0] if len(others) == 1 else None
