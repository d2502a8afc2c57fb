"""The one place that asks Hugging Face for anything, and only for files of weights."""

from __future__ import annotations

from pathlib import Path

from deepspot import _hub
from deepspot.encoders._card import EncoderCard

from ._read import IN_A_FOLDER
from ._spec import Spec

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
            with _hub.explained(words(spec.card, page, repository)):
                return _file(repository, file, token)
        except EntryNotFoundError:
            continue
    raise FileNotFoundError(f"{page} holds none of {list(IN_A_FOLDER)}. {_ways(spec.card.name)}")


def words(card: EncoderCard, page: str, repository: str) -> _hub.Words:
    """What to do about the errors of Hugging Face."""
    name, ways = card.name, _ways(card.name)
    return _hub.Words(
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
