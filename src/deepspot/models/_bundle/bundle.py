"""A model on disk: a folder, or a zip, with `model.safetensors` and `card.json`. Nothing in it is ever unpickled."""

from __future__ import annotations

import hashlib
import json
import re
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

from deepspot._core.logging import logger

from .card import ModelCard
from .card_file import hash_of, read_card, read_content, same_card, understood
from .files import CARD, PAGE, WEIGHTS, opened, pack
from .header import check_header, most_bytes, read_header, shapes_of
from .hub import parse, send
from .tensors import check_tensors, stored

if TYPE_CHECKING:
    from torch import Tensor


def write_bundle(card: ModelCard, tensors: dict[str, Tensor], path: Path, *, half: bool, overwrite: bool) -> None:
    """Write a bundle; what was there stays whole until the new one is complete."""
    if re.match(r"hf:/", str(path)):
        raise ValueError(f"`save` writes to this machine. To send a model to {str(path)!r} call `model.upload`.")
    if path.exists() and not overwrite:
        raise ValueError(f"{path} exists. Pass `overwrite=True`, or another path.")
    zipped = path.suffix.lower() == ".zip"
    if path.exists() and not _is_bundle(path, zipped=zipped):
        raise ValueError(f"{path} exists and is no bundle, so it is not replaced. Choose another path.")
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=f".{path.name}-") as scratch:
        new, old = Path(scratch) / "new", Path(scratch) / "old"
        new.mkdir()
        write(card, tensors, new, half=half)
        if zipped:
            pack(new, new := Path(scratch) / "new.zip")
        read_bundle(new)  # what cannot be read again is not kept
        if path.exists():
            path.rename(old)
        try:
            new.rename(path)
        except OSError:
            if old.exists():
                old.rename(path)
            raise


def write(card: ModelCard, tensors: dict[str, Tensor], folder: Path, *, half: bool) -> None:
    """Write the two files of a bundle into a folder."""
    from safetensors.torch import save_file

    told = hash_of(json.loads(card.model_dump_json()))
    save_file(stored(tensors, half=half), folder / WEIGHTS, metadata={"card": told})
    card = card.model_copy(update={"sha256": _sha256((folder / WEIGHTS).read_bytes())})
    (folder / CARD).write_text(card.model_dump_json(indent=1), encoding="utf-8")
    (folder / WEIGHTS).chmod((folder / CARD).stat().st_mode)  # safetensors lets nobody else read it


def read_bundle(path: Path, sha256: str | None = None) -> tuple[ModelCard, dict[str, Tensor]]:
    """Read card and tensors, refusing what is truncated, altered, from the future, or larger than its card says.

    Every check comes before what it protects: the card is bounded before it is parsed, the weights are bounded by the
    card before they are read, their header is compared with the card before a tensor is made.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as parse

    with opened(path) as files:
        content = read_content(files)
        card = understood(content, files.named(CARD))
        _check_pin(card.sha256, sha256, path)
        shapes = shapes_of(card, files.named(CARD))
        raw, file = files.read(WEIGHTS, most_bytes(shapes, card.dim)), files.named(WEIGHTS)
        described = files.named(CARD)
    if _sha256(raw) != card.sha256:
        raise ValueError(f"{file} is not the file that its card describes: truncated or altered. Get a new copy.")
    header = read_header(raw, file)
    if not same_card(header.get("__metadata__", {}).get("card"), content):
        raise ValueError(f"{described} is not the card that the model was saved with: altered. Get a new copy.")
    check_header(header, shapes, card.dim, file)
    try:
        tensors = {name: value.float() for name, value in parse(raw).items()}
    except SafetensorError as error:
        raise ValueError(f"{file} is no readable safetensors file ({error}). Get a new copy.") from error
    check_tensors(tensors, file)
    return card, tensors


def upload(
    card: ModelCard, tensors: dict[str, Tensor], address: str, *, token: str | None, private: bool, half: bool
) -> str:
    """Write a bundle and its page to a repository in one commit, and return the address of that commit."""
    place = parse(address)
    if place.revision is not None:
        raise ValueError(f"{address!r} names a revision, and models are uploaded to the main branch. Leave it out.")
    with tempfile.TemporaryDirectory(prefix="deepspot-") as scratch:
        folder = Path(scratch)
        write(card, tensors, folder, half=half)
        card = read_card(folder)  # what cannot be read again is not sent
        (folder / PAGE).write_text(card.to_markdown(str(place)), encoding="utf-8")
        made = send(folder, place, private=private, token=token, message=f"{card.name}, by deepspot")
    logger.info(
        "Uploaded %r (licence %s) to %s. Its card names %d training slides. `ds.models.load(%r)` loads this very "
        "version.", card.name, card.licence, place.url, len(card.slides), str(made),
    )  # fmt: skip
    return str(made)


def _check_pin(known: str, wanted: str | None, path: Path) -> None:
    if wanted is None:
        return
    if not re.fullmatch(r"[0-9a-fA-F]{64}", wanted):
        raise ValueError(f"`sha256` must be 64 hexadecimal digits, those of `model.card.sha256`; got {wanted!r}.")
    if known != wanted.lower():
        raise ValueError(f"{path} is not the model that was asked for: its `sha256` is {known[:64]!r}, not {wanted!r}.")


def _is_bundle(path: Path, *, zipped: bool) -> bool:
    """Whether there are the two files and nothing else that would be lost."""
    if zipped != path.is_file() or path.is_symlink():
        return False
    try:
        if zipped:
            with zipfile.ZipFile(path) as file:
                names = file.namelist()
        else:
            names = [f"{file.name}{'' if file.is_file() else '?'}" for file in path.iterdir()]
        if sorted(names) != [CARD, WEIGHTS]:
            return False
        with opened(path) as files:
            read_content(files)
    except (zipfile.BadZipFile, OSError, ValueError):
        return False
    return True


def _sha256(raw: bytes) -> str:
    return hashlib.sha256(raw).hexdigest()
