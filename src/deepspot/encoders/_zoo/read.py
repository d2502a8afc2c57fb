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
    # Without what a file may have hung on a tensor, such as a method of its own.
    tensors = {name: Tensor.detach(value) for name, value in held.items() if not name.endswith(COUNTER)}
    odd = [name for name, value in tensors.items() if not _is_plain(value)]
    if odd:
        raise ValueError(f"{path} holds tensors that are no plain numbers: {', '.join(odd[:3])}. {_WANTED}")
    return {_name(name): value.float() for name, value in tensors.items()}


def _is_plain(value: Tensor) -> bool:
    """Whether a tensor is an array of real numbers, all of which are in the file: one may stand for billions."""
    import torch

    ordinary = value.layout is torch.strided and not (value.is_meta or value.is_quantized or value.is_nested)
    known = ordinary and value.dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64)
    return known and value.numel() * value.element_size() <= value.untyped_storage().nbytes()


def _safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (FileNotFoundError, PermissionError, MemoryError):
        raise  # the system says it best
    except Exception as error:  # damaged files raise anything
        raise ValueError(f"{path} is no whole file of safetensors ({error}). Get a new copy of it.") from error


def _torch(path: Path) -> object:
    import torch

    archive = zipfile.is_zipfile(path)  # files of before 2020 are none, and cannot be mapped
    try:
        if archive:
            _check_archive(path)
        return torch.load(path, map_location="cpu", weights_only=True, mmap=archive)
    except UnpicklingError as error:
        asked = re.search(r"GLOBAL ([\w.]{1,80})", str(error))  # the rest of it tells how to run the file after all
        raise ValueError(
            f"{path} holds more than tensors{f' ({asked[1]})' if asked else ''}, or is damaged; nothing in it was "
            "executed. Get a file of bare weights, best one that ends in .safetensors."
        ) from error
    except (FileNotFoundError, PermissionError):
        raise  # the system says it best
    except Exception as error:  # damaged files raise anything, and PyTorch asks for as much memory as they say
        raise ValueError(f"{path} cannot be read as weights ({_first_line(error)}). Get a new copy of it.") from error


def _check_archive(path: Path) -> None:
    """Raise if an archive is damaged or compressed, which PyTorch does not look for: it would read other numbers."""
    with zipfile.ZipFile(path) as file:
        packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in file.infolist())
        if packed or file.testzip() is not None:
            raise ValueError("it is damaged")


def _first_line(error: Exception) -> str:
    return str(error).strip().partition("\n")[0][:200]


def _kind(held: object) -> str:
    return "nothing" if not held else f"a {type(held).__name__}"


def _name(name: str) -> str:
    # torchvision's DenseNet was saved before its layers got the names that they have now.
    return re.sub(r"(denselayer\d+\.(?:norm|conv))\.([12])\.", r"\1\2.", name)
