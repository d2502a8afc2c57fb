"""From a file of weights to an encoder: only tensors are read, nothing is executed, none is missing or left over."""

from __future__ import annotations

import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING

import numpy as np

from deepspot._core.hashing import digest
from deepspot.errors import InputError

from .specs import Spec, log_license

if TYPE_CHECKING:
    from torch import Tensor, nn

    from deepspot.encoders._torch import MapEncoder

# Counts steps of training, in whole numbers, and is absent from old files.
COUNTER = "num_batches_tracked"
WANTED = "A file of weights maps names to tensors, as `torch.save(module.state_dict(), path)` makes it."


def load(spec: Spec, path: Path) -> MapEncoder:
    """Encoder with the weights in a file, which are checked first."""
    from deepspot.encoders._torch import MapEncoder, Pooled

    from .networks import class_of_transformers

    if spec.library == "transformers":
        class_of_transformers(spec)  # what is not installed is said before gigabytes are read
    tensors = needed(read(path), spec, path)
    module = Pooled(fill(spec, tensors, path), spec.card.pooling, spec.prefix_tokens)
    log_license(spec.card)
    return MapEncoder(spec.card, module, identity=identity(spec, content(tensors)))


def identity(spec: Spec, weights: str) -> str:
    """Network, pooling and weights, in words that do not change with the library that builds the network."""
    network = [spec.card.architecture, spec.options, spec.card.pooling, spec.prefix_tokens]
    return f"zoo 1, {digest(network)}, {weights}"


def content(tensors: dict[str, Tensor]) -> str:
    """Content hash of names, shapes and values in float32, whichever format and order they were stored in."""
    return digest(*(part for name in sorted(tensors) for part in (name, np.asarray(tensors[name].float()))))


def read(path: Path) -> dict[str, Tensor]:
    """Tensors of a file by name, in float32."""
    from torch import Tensor

    held = _held(path)
    if not isinstance(held, dict) or not held:
        kind = "nothing" if isinstance(held, dict) else f"a {type(held).__name__}"
        raise InputError(f"{path} holds no tensors by name, but {kind}. {WANTED}")
    strange = [repr(name) for name, value in held.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if strange:
        raise InputError(f"{path} holds more than tensors by name: {_few(strange)}. {WANTED}")
    # Without what a file may have hung on a tensor, such as a method of its own.
    tensors = {name: Tensor.detach(value) for name, value in held.items() if not name.endswith(COUNTER)}
    odd = [name for name, value in tensors.items() if not _is_plain(value)]
    if odd:
        raise InputError(f"{path} holds tensors that are no plain numbers: {_few(odd)}. {WANTED}")
    # torchvision's DenseNet was saved before its layers got the names that they have now.
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")
    return {old.sub(r"\1\2.", name): value.float() for name, value in tensors.items()}


def _held(path: Path) -> object:
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix.lower() == ".safetensors":
            return load_file(path)
        archive = zipfile.is_zipfile(path)  # files of before 2020 are none, and cannot be mapped
        if archive:
            _check_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]{1,80})", str(error))  # the rest of it says how to run the file after all
        raise InputError(
            f"{path} holds more than tensors{f' ({asked[1]})' if asked else ''}, or is damaged; nothing in it was "
            "executed. Get a file of bare weights, best one that ends in .safetensors."
        ) from error
    except (FileNotFoundError, PermissionError):
        raise  # the system says it best
    except Exception as error:  # damaged files raise anything, and PyTorch asks for as much memory as they say
        reason = str(error).strip().partition("\n")[0][:200]
        raise InputError(f"{path} cannot be read as weights ({reason}). Get a new copy of it.") from error


def _check_archive(path: Path) -> None:
    """Raise if an archive is damaged or compressed, which PyTorch does not look for: it would read other numbers."""
    with zipfile.ZipFile(path) as file:
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in file.infolist())
        if packed or file.testzip() is not None:
            raise InputError("it is damaged")


def _is_plain(value: Tensor) -> bool:
    """Whether a tensor is an array of real numbers, all of which are in the file: one may stand for billions."""
    import torch

    ordinary = value.layout is torch.strided and not (value.is_meta or value.is_quantized or value.is_nested)
    known = ordinary and value.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return known and value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def needed(tensors: dict[str, Tensor], spec: Spec, path: Path) -> dict[str, Tensor]:
    """Tensors that the embedding is computed with, by the names that all copies share; raise if one is not finite."""
    named = {name.removeprefix(spec.stripped): value for name, value in tensors.items()}
    kept = {name: value for name, value in named.items() if not name.startswith(spec.unused or ("\0",))}
    wrong = [name for name, value in kept.items() if not bool(value.isfinite().all())]
    if wrong:
        raise InputError(
            f"{path} holds weights that are not finite, in {len(wrong)} tensors: {_few(wrong)}. Get a new copy of it."
        )
    return kept


def fill(spec: Spec, tensors: dict[str, Tensor], path: Path) -> nn.Module:
    """Network of an encoder with its weights: raise if one is missing, not known or of another shape."""
    import torch

    from .networks import class_of_transformers, network

    if spec.library == "transformers":
        # transformers renames layers now and then, and knows the names that it has published weights under.
        cls, arguments = class_of_transformers(spec)
        options = {"output_loading_info": True, "ignore_mismatched_sizes": True, **arguments}
        with _quiet():
            module, report = cls.from_pretrained(None, state_dict=dict(tensors), **options)
        missing, unknown, reshaped = (report[f"{kind}_keys"] for kind in ("missing", "unexpected", "mismatched"))
    else:
        with torch.device("meta"):  # neither memory nor time for random weights
            module = network(spec)
        ours = {name: value.shape for name, value in module.state_dict().items() if not name.endswith(COUNTER)}
        missing, unknown = ours.keys() - tensors.keys(), tensors.keys() - ours.keys()
        both = [(name, tensors[name].shape, ours[name]) for name in ours.keys() & tensors.keys()]
        reshaped = [(name, held, own) for name, held, own in both if held != own]
    differences = {
        "missing": sorted(missing),
        "not known": sorted(unknown),
        "of another shape": sorted(f"{name} {tuple(held)} instead of {tuple(own)}" for name, held, own in reshaped),
    }
    wrong = [f"{len(names)} tensors are {what} ({_few(names)})" for what, names in differences.items() if names]
    if wrong:
        raise InputError(
            f"{path} does not hold the weights of {spec.card.name!r}: {'; '.join(wrong)}. They are published at "
            f"{spec.card.url}."
        )
    if spec.library == "timm":
        module.load_state_dict(tensors, assign=True)
    return module.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' bars and reports: what does not fit is said by us, with the name of the file."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(logging.CRITICAL)
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
