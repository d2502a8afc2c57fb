"""Models in repositories of Hugging Face: the only file that talks to it about models."""

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
from .card import ModelCard

if TYPE_CHECKING:
    from torch import Tensor

PAGE = "README.md"
# `Path` makes one slash of two.
_ADDRESS = re.compile(r"(?!.*\.\.)hf:/{1,2}(?P<repo>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w.-]+(?:/[\w.-]+)*))?")


@dataclass(frozen=True)
class Address:
    """A repository, and what of its history is meant; None is its main branch."""

    repo: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"hf://{self.repo}" + (f"@{self.revision}" if self.revision else "")

    @property
    def url(self) -> str:
        """Its page."""
        return f"https://huggingface.co/{self.repo}"


def is_address(model: object) -> bool:
    """Whether something is meant as a repository."""
    return str(model).startswith("hf:")


def parse(text: str) -> Address:
    """Read ``hf://org/name`` or ``hf://org/name@revision``."""
    found = _ADDRESS.fullmatch(text)
    if found is None:
        raise InputError(
            f"{text!r} is no address. Write 'hf://organization/name' or 'hf://organization/name@revision'."
        )
    return Address(found["repo"], found["revision"])


def fetch(address: Address, *, token: str | None = None) -> Path:
    """Folder with the two files of a bundle, both of one commit, in the hub's own cache; downloaded if not there.

    The card comes first: what it says bounds the weights, and a card that is not understood stops the download.
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
        f"{WEIGHTS} in {address} has {size:,} bytes, and by its card it may have {limit:,}. It was not downloaded."
    )


def upload(
    card: ModelCard, tensors: dict[str, Tensor], address: str, *, token: str | None, private: bool, half_precision: bool
) -> str:
    """Write a bundle and its page to a repository in one commit, and return the address of that commit."""
    place = parse(address)
    if place.revision is not None:
        raise InputError(f"{address!r} names a revision, and models are uploaded to the main branch. Leave it out.")
    with tempfile.TemporaryDirectory(prefix="deepspot-") as scratch:
        folder = Path(scratch)
        write_files(card, tensors, folder, half_precision=half_precision)
        card = read_card(folder)  # what cannot be read again is not sent
        (folder / PAGE).write_text(card.to_markdown(str(place)), encoding="utf-8")
        with _explained(place):
            commit = _send(folder, place, private=private, token=token, message=f"{card.name}, by deepspot")
    made = str(Address(place.repo, commit))
    logger.info(
        f"Uploaded {card.name!r} (license {card.license}) to {place.url}. Its card names {len(card.slides)} training "
        f"slides. `ds.models.load({made!r})` loads this version."
    )
    return made


def _download(repo: str, name: str, revision: str | None, token: str | None) -> Path:
    from huggingface_hub import hf_hub_download

    return Path(hf_hub_download(repo, name, revision=revision, token=token, library_name="deepspot"))


def _size(repo: str, name: str, revision: str, token: str | None) -> int | None:
    from huggingface_hub import get_hf_file_metadata, hf_hub_url

    return get_hf_file_metadata(hf_hub_url(repo, name, revision=revision), token=token).size


def _send(folder: Path, place: Address, *, private: bool, token: str | None, message: str) -> str:
    """Write the files to a repository, which is made if there is none, and return the commit."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError

    api = HfApi(token=token, library_name="deepspot")
    try:
        known = api.model_info(place.repo)
    except RepositoryNotFoundError:
        known = None
    if known is None:
        api.create_repo(place.repo, private=private)
    elif private and not known.private:
        raise InputError(f"{place.url} is public. Pass `private=False` to publish the model, or another name.")
    done = api.upload_folder(
        repo_id=place.repo, folder_path=folder, commit_message=message, allow_patterns=[CARD, WEIGHTS, PAGE]
    )
    return done.oid


@contextmanager
def _explained(address: Address) -> Iterator[None]:
    """Say what to do about the errors of Hugging Face."""
    from huggingface_hub import errors

    token = "pass `token=`, or set the environment variable HF_TOKEN"
    messages = HubErrors(
        gated=f"{address} is gated. Ask for access at {address.url}, then {token}.",
        missing=f"There is no repository {address.url}, or it is private. Check its name; if you have access, {token}.",
        offline=f"{address} is not in the cache, and Hugging Face cannot be reached. On a machine that is online, "
        f"download {CARD} and {WEIGHTS} from {address.url}, and pass the folder with them.",
        failed=f"Hugging Face did not answer as expected for {address} ({{}}). Try again; if access is restricted, "
        f"{token}.",
    )
    try:
        with explain_hub_errors(messages):
            yield
    except errors.RevisionNotFoundError as error:
        raise FileNotFoundError(
            f"{address.url} has no revision {address.revision!r}. See its history there."
        ) from error
    except errors.EntryNotFoundError as error:
        raise FileNotFoundError(f"{address} is no model of deepspot: it lacks {CARD} or {WEIGHTS}.") from error
