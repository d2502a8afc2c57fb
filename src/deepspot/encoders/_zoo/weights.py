"""Load an encoder from a weights file. Only tensors are read, no code runs, and all tensors must match."""

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

# Number of training steps in batch normalizations, which is missing in old files and not used.
COUNTER = "num_batches_tracked"
EXPECTED = "A weights file maps names to tensors, as written by `torch.save(module.state_dict(), path)`."


def load(spec: Spec, path: Path) -> MapEncoder:
    """Load an encoder with the weights in a file, after checking them."""
    from deepspot.encoders._torch import MapEncoder, Pooled

    from .networks import class_of_transformers

    if spec.library == "transformers":
        class_of_transformers(spec)  # raises if transformers is missing, before gigabytes are read
    tensors = needed(read(path), spec, path)
    module = Pooled(fill(spec, tensors, path), spec.card.pooling, spec.prefix_tokens)
    log_license(spec.card)
    return MapEncoder(spec.card, module, identity=identity(spec, hash_tensors(tensors)))


def identity(spec: Spec, weights: str) -> str:
    """Return text that identifies network, pooling and weights, independent of library versions."""
    network = [spec.card.architecture, spec.options, spec.card.pooling, spec.prefix_tokens]
    return f"zoo 1, {digest(network)}, {weights}"


def hash_tensors(tensors: dict[str, Tensor]) -> str:
    """Hash names, shapes and float32 values of tensors, independent of file format and order."""
    return digest(*(part for name in sorted(tensors) for part in (name, np.asarray(tensors[name].float()))))


def read(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a file by name, as float32."""
    from torch import Tensor

    content = _load_file(path)
    if not isinstance(content, dict) or not content:
        kind = "nothing" if isinstance(content, dict) else f"a {type(content).__name__}"
        raise InputError(f"{path} contains no tensors by name, but {kind}. {EXPECTED}")
    others = [repr(key) for key, value in content.items() if not (isinstance(key, str) and isinstance(value, Tensor))]
    if others:
        raise InputError(f"{path} contains more than tensors by name: {_shorten(others)}. {EXPECTED}")
    # `Tensor.detach` drops attributes that a file may set on a tensor, such as methods.
    tensors = {name: Tensor.detach(value) for name, value in content.items() if not name.endswith(COUNTER)}
    others = [name for name, value in tensors.items() if not _is_plain(value)]
    if others:
        raise InputError(f"{path} contains tensors that are not plain arrays: {_shorten(others)}. {EXPECTED}")
    # torchvision's DenseNet weights have old names of layers.
    old = re.compile(r"(denselayer\d+\.(?:norm|conv))\.([12])\.")
    return {old.sub(r"\1\2.", name): value.float() for name, value in tensors.items()}


def _load_file(path: Path) -> object:
    import torch
    from safetensors.torch import load_file

    try:
        if path.suffix.lower() == ".safetensors":
            return load_file(path)
        archive = zipfile.is_zipfile(path)  # files from before PyTorch 1.6 are not, and cannot be memory-mapped
        if archive:
            _check_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except UnpicklingError as error:
        name = re.search(r"GLOBAL ([\w.]{1,80})", str(error))  # the full message explains how to disable the check
        raise InputError(
            f"{path} contains more than tensors{f' ({name[1]})' if name else ''}, or is damaged; nothing in it was "
            "executed. Get a file that contains only tensors, preferably in the format .safetensors."
        ) from error
    except (FileNotFoundError, PermissionError):
        raise
    except Exception as error:  # damaged files raise errors of any type, also MemoryError
        reason = str(error).strip().partition("\n")[0][:200]
        raise InputError(f"{path} cannot be read as weights ({reason}). Get a new copy of it.") from error


def _check_archive(path: Path) -> None:
    """Raise if an archive is damaged or compressed, because PyTorch would silently read wrong values."""
    with zipfile.ZipFile(path) as file:
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in file.infolist())
        if packed or file.testzip() is not None:
            raise InputError("it is damaged")


def _is_plain(value: Tensor) -> bool:
    """Check that a tensor is an array of real numbers that are all stored in the file (not an expanded view)."""
    import torch

    ordinary = value.layout is torch.strided and not (value.is_meta or value.is_quantized or value.is_nested)
    real = ordinary and value.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return real and value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def needed(tensors: dict[str, Tensor], spec: Spec, path: Path) -> dict[str, Tensor]:
    """Return the tensors that the embedding uses, without prefixes of names; raise if one is not finite."""
    named = {name.removeprefix(spec.stripped): value for name, value in tensors.items()}
    kept = {name: value for name, value in named.items() if not name.startswith(spec.unused or ("\0",))}
    wrong = [name for name, value in kept.items() if not bool(value.isfinite().all())]
    if wrong:
        raise InputError(
            f"{path} contains weights that are not finite, in {len(wrong)} tensors: {_shorten(wrong)}. Get a new copy."
        )
    return kept


def fill(spec: Spec, tensors: dict[str, Tensor], path: Path) -> nn.Module:
    """Build the network of an encoder with its weights; raise if tensors are missing, unknown or of another shape."""
    import torch

    from .networks import class_of_transformers, network

    if spec.library == "transformers":
        # from_pretrained maps the published names of layers to those of the installed version.
        cls, arguments = class_of_transformers(spec)
        options = {"output_loading_info": True, "ignore_mismatched_sizes": True, **arguments}
        with _quiet():
            module, report = cls.from_pretrained(None, state_dict=dict(tensors), **options)
        missing, unknown, reshaped = (report[f"{kind}_keys"] for kind in ("missing", "unexpected", "mismatched"))
    else:
        with torch.device("meta"):  # no memory and time for random weights
            module = network(spec)
        expected = {name: value.shape for name, value in module.state_dict().items() if not name.endswith(COUNTER)}
        missing, unknown = expected.keys() - tensors.keys(), tensors.keys() - expected.keys()
        both = [(name, tensors[name].shape, expected[name]) for name in expected.keys() & tensors.keys()]
        reshaped = [(name, given, shape) for name, given, shape in both if given != shape]
    differences = {
        "missing": sorted(missing),
        "unknown": sorted(unknown),
        "of another shape": sorted(
            f"{name} {tuple(given)} instead of {tuple(shape)}" for name, given, shape in reshaped
        ),
    }
    wrong = [f"{len(names)} tensors are {what} ({_shorten(names)})" for what, names in differences.items() if names]
    if wrong:
        raise InputError(
            f"{path} does not contain the weights of {spec.card.name!r}: {'; '.join(wrong)}. The weights are published "
            f"at {spec.card.url}."
        )
    if spec.library == "timm":
        module.load_state_dict(tensors, assign=True)
    return module.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the progress bars and reports of transformers; mismatches are reported by `fill`."""
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


def _shorten(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
