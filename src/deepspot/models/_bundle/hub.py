"""Download models from and upload models to Hugging Face."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deepspot._core.hub import HubErrors, explain_hub_errors
from deepspot._core.logging import logger
from deepspot.errors import InputError

from .bundle import CARD, WEIGHTS, largest_weights, read_card, write_files
from .card import StoredCard

if TYPE_CHECKING:
    from torch import Tensor

PAGE = "README.md"
# `Path` merges two slashes into one.
_ADDRESS = re.compile(r"(?!.*\.\.)hf:/{1,2}(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+(?:/[\w.-]+)*))?")


@dataclass(frozen=True)
class Address:
    """A repository and a revision. None is the main branch."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"hf://{self.repo}" + (f"@{self.revision}" if self.revision else "")

    @property
    def url(self) -> str:
        """Web page of the repository."""
        return f"https://huggingface.co/{self.repo}"


def is_address(model: object) -> bool:
    """Check for the prefix of an address of Hugging Face."""
    return str(model).startswith("hf:")


def parse(text: str) -> Address:
    """Parse ``hf://org/name`` or ``hf://org/name@revision``."""
    match = _ADDRESS.fullmatch(text)
    if match is None:
        raise InputError(
            f"{text!r} is not a valid address. Write 'hf://organization/name' or 'hf://organization/name@revision'."
        )
    return Address(match["repo"], match["revision"])


def fetch(address: Address, *, token: str | None = None) -> Path:
    """Return the folder of a bundle in the cache of Hugging Face, downloaded if necessary.

    Both files are of one commit. The card is downloaded first: it must be valid, and it limits the size of the weights.
    """
    with _explained(address):
        folder = _download(address.repo, CARD, address.revision, token).parent
    limit, commit = largest_weights(read_card(folder), str(folder / CARD)), folder.name
    if (folder / WEIGHTS).is_file():
        return folder
    with _explained(address):
        size = _size(address.repo, WEIGHTS, commit, token)
        if size is None or size <= limit:
            return _download(address.repo, WEIGHTS, commit, token).parent
    raise InputError(
        f"{WEIGHTS} in {address} has {size:,} bytes, but its card allows at most {limit:,}. It was not downloaded."
    )


def upload(
    card: StoredCard,
    tensors: dict[str, Tensor],
    address: str,
    *,
    token: str | None,
    private: bool,
    half_precision: bool,
) -> str:
    """Upload a bundle and its page to a repository in one commit, and return the address of that commit."""
    target = parse(address)
    if target.revision is not None:
        raise InputError(f"{address!r} contains a revision, but models are uploaded to the main branch. Omit it.")
    with tempfile.TemporaryDirectory(prefix="deepspot-") as scratch:
        folder = Path(scratch)
        write_files(card, tensors, folder, half_precision=half_precision)
        card = read_card(folder)  # raises before the upload if it is not readable
        (folder / PAGE).write_text(card.to_markdown(str(target)), encoding="utf-8")
        with _explained(target):
            commit = _send(folder, target, private=private, token=token, message=f"{card.name}, by deepspot")
    uploaded = str(Address(target.repo, commit))
    logger.info(
        f"Uploaded {card.name!r} (license {card.license}) to {target.url}. Its card names {len(card.slides)} training "
        f"slides. `ds.models.load({uploaded!r})` loads this version."
    )
    return uploaded


def _download(repo: str, name: str, revision: str | None, token: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repo, name, revision=revision, token=token, library_name="deepspot"))


def _size(repo: str, name: str, revision: str, token: str | None) -> int | None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    return get_hf_file_metadata(hf_hub_url(repo, name, revision=revision), token=token).size


def _send(folder: Path, target: Address, *, private: bool, token: str | None, message: str) -> str:
    """Upload the files to a repository, created if it does not exist, and return the commit."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    api = HfApi(token=token, library_name="deepspot")
    try:
        private_now: bool | None = bool(api.model_info(target.repo).private)
    except RepositoryNotFoundError:
        private_now = None
    if private_now is None:
        api.create_repo(target.repo, private=private)
    elif private and not private_now:
        raise InputError(f"{target.url} is public. Pass `private=False` to publish the model, or another name.")
    commit = api.upload_folder(
        repo_id=target.repo, folder_path=folder, commit_message=message, allow_patterns=[CARD, WEIGHTS, PAGE]
    )
    return commit.oid


@contextmanager
def _explained(address: Address) -> Iterator[None]:
    """Translate errors of Hugging Face to messages with a next step."""
    from huggingface_hub import errors

    token = "pass `token=`, or set the environment variable HF_TOKEN"
    messages = HubErrors(
        gated=f"{address} is gated. Request access at {address.url}, then {token}.",
        missing=f"The repository {address.url} does not exist or is private. Check its name; if you have access, "
        f"{token}.",
        offline=f"{address} is not in the cache, and Hugging Face cannot be reached. On another machine, "
        f"download {CARD} and {WEIGHTS} from {address.url}, and pass their folder.",
        failed=f"The request to Hugging Face for {address} failed ({{}}). Try again; if access is restricted, {token}.",
    )
    try:
        with explain_hub_errors(messages):
            yield
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{address.url} has no revision {address.revision!r}. Its history is on that page."
        ) from error
    except errors.EntryNotFoundError as error:
        raise FileNotFoundError(f"{address} is not a model of deepspot: it lacks {CARD} or {WEIGHTS}.") from error
