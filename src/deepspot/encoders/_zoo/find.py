"""Find the weights of an encoder on this machine, or download them from Hugging Face."""

from __future__ import annotations

import re
from pathlib import Path

from deepspot._core.hub import HubErrors, explain_hub_errors
from deepspot._core.settings import settings
from deepspot.encoders._card import EncoderCard

from .specs import Spec

SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
# Usual names of weights files in folders and Hugging Face repositories, the safe format first.
USUAL = ("model.safetensors", "pytorch_model.bin")
WAYS = (
    "Pass a file or folder of weights as `ds.encoders.get({name!r}, weights=...)`, set `ds.settings.weights_dir` (or "
    "the environment variable DEEPSPOT_WEIGHTS) to a folder with the weights, or load the encoder once while online."
)
NO_WEIGHTS = (
    f"{{}} contains no weights: neither {' nor '.join(USUAL)}, nor a single file that ends in {', '.join(SUFFIXES)}. "
)


def find_weights(spec: Spec, weights: str | Path | None, token: str | None) -> Path:
    """Return the path of the weights of an encoder, downloaded if they are not on this machine."""
    if weights is not None:
        return _given(spec, weights, token)
    folder = settings.weights()
    if folder is not None and not folder.is_dir():
        raise FileNotFoundError(
            f"The folder of weights {str(folder)!r} does not exist. Correct `ds.settings.weights_dir` or the "
            "environment variable DEEPSPOT_WEIGHTS."
        )
    local = local_weights(spec)
    if local is None and folder is not None and (folder / spec.folder).is_dir():
        raise FileNotFoundError(NO_WEIGHTS.format(folder / spec.folder) + "Keep only the right file there.")
    return local or _download(spec.card, spec.repositories[0], token)


def local_weights(spec: Spec) -> Path | None:
    """Return the path of the weights of an encoder, or None if they are not on this machine."""
    folder = settings.weights()
    if folder is not None:
        files = (folder / f"{spec.folder}{suffix}" for suffix in SUFFIXES)
        file = _in_folder(folder / spec.folder) or next((file for file in files if file.is_file()), None)
        if file is not None:
            return file
    return _cached(*spec.repositories)


def _given(spec: Spec, weights: str | Path, token: str | None) -> Path:
    path = Path(weights).expanduser()
    if path.is_file():
        return path
    if path.is_dir():
        file = _in_folder(path)
        if file is None:
            raise FileNotFoundError(NO_WEIGHTS.format(path) + "Pass the path of the file.")
        return file
    if isinstance(weights, str) and re.fullmatch(r"[\w.-]+/[\w.-]+", weights) and path.suffix not in SUFFIXES:
        return _cached(weights) or _download(spec.card, weights, token)
    raise FileNotFoundError(f"The file or folder {str(weights)!r} does not exist. {WAYS.format(name=spec.card.name)}")


def _in_folder(folder: Path) -> Path | None:
    if not folder.is_dir():
        return None
    files = [path for path in folder.iterdir() if path.suffix in SUFFIXES and path.is_file()]
    usual = [folder / name for name in USUAL if folder / name in files]
    # Several files of other names are ambiguous.
    return usual[0] if usual else files[0] if len(files) == 1 else None


def _cached(*repositories: str) -> Path | None:
    """Return the path of weights in the cache of Hugging Face, without network access."""
    from huggingface_hub import try_to_load_from_cache

    paths = (try_to_load_from_cache(repository, name) for repository in repositories for name in USUAL)
    return next((Path(path) for path in paths if isinstance(path, str)), None)


def _download(card: EncoderCard, repository: str, token: str | None) -> Path:
    """Download the weights of a repository to the cache of Hugging Face and return their path."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError

    page = f"https://huggingface.co/{repository}"
    for name in USUAL:
        try:
            with explain_hub_errors(hub_errors(card, page, repository)):
                return Path(hf_hub_download(repository, name, token=token))
        except EntryNotFoundError:
            continue
    raise FileNotFoundError(f"{page} contains none of {list(USUAL)}. {WAYS.format(name=card.name)}")


def hub_errors(card: EncoderCard, page: str, repository: str) -> HubErrors:
    """Return messages for the errors of Hugging Face."""
    name, ways = card.name, WAYS.format(name=card.name)
    return HubErrors(
        gated=f"The weights of {name!r} are gated. Their license is {card.license}. Request access at {page}, "
        f"then pass your token as `ds.encoders.get({name!r}, token=...)` or in the environment variable HF_TOKEN.",
        missing=f"Hugging Face has no repository {repository!r}, or your token has no access to it. {ways}",
        offline=f"The weights of {name!r} are not on this machine, and {page} cannot be reached. {ways}",
        failed=f"Downloading the weights of {name!r} from {page} failed: {{}}. {ways}",
    )
