"""Where the weights of an encoder are: on this machine, or at Hugging Face, which nothing else is asked for."""

from __future__ import annotations

import re
from pathlib import Path

from deepspot._core.hub import HubErrors, explain_hub_errors
from deepspot._core.settings import settings
from deepspot.encoders._card import EncoderCard

from .specs import Spec

SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
# How a folder or a repository of Hugging Face names its weights, the safe format first.
USUAL = ("model.safetensors", "pytorch_model.bin")
WAYS = (
    "Pass a file or a folder of weights as `ds.encoders.get({name!r}, weights=...)`, put them into a folder and set "
    "`ds.settings.weights_dir` (or the environment variable DEEPSPOT_WEIGHTS), or load the encoder once while online."
)
NO_WEIGHTS = (
    f"{{}} holds no weights: neither {' nor '.join(USUAL)}, nor a single file that ends in {', '.join(SUFFIXES)}. "
)


def find_weights(spec: Spec, weights: str | Path | None, token: str | None) -> Path:
    """File with the weights of an encoder; it is downloaded if it is nowhere here."""
    if weights is not None:
        return _given(spec, weights, token)
    folder = settings.weights()
    if folder is not None and not folder.is_dir():
        raise FileNotFoundError(
            f"There is no folder {str(folder)!r}, where weights should be. Correct `ds.settings.weights_dir` or the "
            "environment variable DEEPSPOT_WEIGHTS."
        )
    local = local_weights(spec)
    if local is None and folder is not None and (folder / spec.folder).is_dir():
        raise FileNotFoundError(NO_WEIGHTS.format(folder / spec.folder) + "Leave the right one there.")
    return local or _download(spec.card, spec.repositories[0], token)


def local_weights(spec: Spec) -> Path | None:
    """File with the weights of an encoder, if it is on this machine."""
    folder = settings.weights()
    if folder is not None:
        files = (folder / f"{spec.folder}{suffix}" for suffix in SUFFIXES)
        found = _in_folder(folder / spec.folder) or next((file for file in files if file.is_file()), None)
        if found is not None:
            return found
    return _cached(*spec.repositories)


def _given(spec: Spec, weights: str | Path, token: str | None) -> Path:
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        found = _in_folder(path)
        if found is None:
            raise FileNotFoundError(NO_WEIGHTS.format(path) + "Pass the file itself.")
        return found
    if isinstance(weights, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", weights) and path.suffix not in SUFFIXES:
        return _cached(weights) or _download(spec.card, weights, token)
    raise FileNotFoundError(f"There is no file or folder {str(weights)!r}. {WAYS.format(name=spec.card.name)}")


def _in_folder(folder: Path) -> Path | None:
    if not folder.is_dir():
        return None
    files = [path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file()]
    usual = [folder / name for name in USUAL if folder / name in files]
    # With several files of other names none is surely the right one.
    return usual[0] if usual else files[0] if len(files) == 1 else None


def _cached(*repositories: str) -> Path | None:
    """Weights in the cache of Hugging Face, without asking the network."""
    from huggingface_hub import try_to_load_from_cache

    found = (try_to_load_from_cache(repository, name) for repository in repositories for name in USUAL)
    return next((Path(path) for path in found if isinstance(path, str)), None)


def _download(card: EncoderCard, repository: str, token: str | None) -> Path:
    """Weights of a repository, through the cache of Hugging Face."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    page = f"https://huggingface.co/{repository}"
    for name in USUAL:
        try:
            with explain_hub_errors(hub_errors(card, page, repository)):
                return Path(hf_hub_download(repository, name, token=token))
        except EntryNotFoundError:
            continue
    raise FileNotFoundError(f"{page} holds none of {list(USUAL)}. {WAYS.format(name=card.name)}")


def hub_errors(card: EncoderCard, page: str, repository: str) -> HubErrors:
    """What to do about the errors of Hugging Face."""
    name, ways = card.name, WAYS.format(name=card.name)
    return HubErrors(
        gated=f"The weights of {name!r} are given on request. Their license is {card.license}. Ask for access at "
        f"{page}, then pass a token of your account as `ds.encoders.get({name!r}, token=...)` or in the environment "
        "variable HF_TOKEN.",
        missing=f"Hugging Face has no repository {repository!r}, or your token may not see it. {ways}",
        offline=f"The weights of {name!r} are neither here nor in the cache of Hugging Face, and {page} cannot be "
        f"reached. {ways}",
        failed=f"{page} did not give the weights of {name!r}: {{}}. {ways}",
    )
