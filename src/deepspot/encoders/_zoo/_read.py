"""Files of weights: only tensors are read, and nothing in a file is executed."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path
from pickle import UnpicklingError
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

SUFFIXES = (".safetensors", ".bin", ".pth", ".pt")
# How a folder of Hugging Face names its weights, the safe format first.
IN_A_FOLDER = ("model.safetensors", "pytorch_model.bin")
# Counts steps of training, in whole numbers, and is absent from old files.
COUNTER = "num_batches_tracked"
_WANTED = "A file of weights maps names to tensors, as `torch.save(module.state_dict(), path)` makes it."


def read(path: Path) -> dict[str, Tensor]:
    """Tensors of a file by name, in float32."""
    from torch import Tensor

    held = _safetensors(path) if path.suffix.lower() == ".safetensors" else _torch(path)

    if not isinstance(held, dict) or not held:
        raise ValueError(f"{path} holds no tensors by name, but {_kind(held)}. {_WANTED}")
    strange = [repr(name) for name, value in held.items() if not (isinstance(name, str) and isinstance(value, Tensor))]
    if strange:
        raise ValueError(f"{path} holds more than tensors by name: {', '.join(strange[:3])}. {_WANTED}")
    odd = [name for name, value in held.items() if not _is_plain(value) and not name.endswith(COUNTER)]
    if odd:
        raise ValueError(f"{path} holds tensors that are no plain numbers: {', '.join(odd[:3])}. {_WANTED}")
    return {_name(name): value.float() if value.is_floating_point() else value for name, value in held.items()}


def _is_plain(value: Tensor) -> bool:
    """Whether a tensor is an array of real numbers: not sparse, quantised, complex, or without values."""
    import torch

    return value.layout is torch.strided and value.is_floating_point() and not (value.is_meta or value.is_quantized)


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is no whole file of safetensors ({error}). Get a new copy of it.") from error


def _torch(path: Path) -> object:
    import torch

    try:
        # Files of before 2020 are no archives, and cannot be mapped.
        return torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except UnpicklingError as error:
        raise ValueError(
            f"{path} holds more than tensors, or is damaged; nothing in it was executed ({_first_line(error)}). Get a "
            "file of bare weights, best one that ends in .safetensors."
        ) from error
    except (FileNotFoundError, PermissionError):
        raise  # the system says it best
    except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError, IndexError, OSError) as error:
        raise ValueError(f"{path} cannot be read as weights ({_first_line(error)}). Get a new copy of it.") from error


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


def _kind(held: object) -> str:
    return "nothing" if not held else f"a {type(held).__name__}"


def _name(name: str) -> str:
    # torchvision's DenseNet was saved before its layers got the names that they have now.
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name)
