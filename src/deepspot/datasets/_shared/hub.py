"""Files of data sets on Hugging Face: downloaded once, and with a way out for whoever cannot."""

from __future__ import annotations

from pathlib import Path

from deepspot._core.hub import HubErrors, explain_hub_errors
from deepspot._core.logging import logger

from .published import Source


def download(repo: str, path: str, folder: Path, token: str | None) -> Path:
    """Download one file into a folder, under its path in the repository. The only place that asks for the network."""
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repo, path, repo_type="dataset", local_dir=folder, token=token))


def fetch(source: Source, repo: str, path: str, *, token: str | None, where: str, hint: str) -> Path | None:
    """Path of a file in the cache, downloaded if it is not there.

    Parameters
    ----------
    source
        The data set.
    repo, path
        Its repository, and the file in it.
    token
        Access token; None takes the one that huggingface_hub finds (``HF_TOKEN``, or that of the machine).
    where, hint
        What is missing, and what to do offline.

    Returns
    -------
    The path, or None if the repository has no such file.

    Raises
    ------
    PermissionError
        If the terms were not accepted, or the token is missing or wrong.
    ConnectionError
        If there is no connection.
    """
    from huggingface_hub.errors import EntryNotFoundError

    target = source.cache / path
    if target.is_file():
        return target
    offline = f"{where}, and could not be downloaded ({{}}). {hint}"
    words = HubErrors(
        gated=f"{where}, and Hugging Face does not give it out. Log in at {source.page}, accept the terms there, make "
        "a token that may read at https://huggingface.co/settings/tokens, and pass it as `token=` or in the "
        f"environment variable HF_TOKEN. {hint}",
        missing="",
        offline=offline.format("no connection"),
        failed=offline,
    )
    try:
        with explain_hub_errors(words):
            found = download(repo, path, source.cache, token)
    except EntryNotFoundError:
        return None
    logger.info("Downloaded %s of %s to %s. Terms: %s, %s.", path, source.title, found, source.licence, source.page)
    return found
