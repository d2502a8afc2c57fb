from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

from deepspot.errors import InputError

from .settings import settings

if TYPE_CHECKING:
    import torch


def choose_device(device: str | torch.device | None = None) -> torch.device:
    """Return the asked device, else the one in the settings, else CUDA, MPS, CPU in this order."""
    import torch

    asked = device if device is not None else settings.device
    if asked is None:
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        chosen = torch.device(asked)
    except RuntimeError as error:
        raise InputError(f"`device` must be 'cpu', 'cuda', 'cuda:<n>' or 'mps', got {asked!r}.") from error
    missing = (chosen.type == "cuda" and not torch.cuda.is_available()) or (
        chosen.type == "mps" and not torch.backends.mps.is_available()
    )
    if missing:
        raise InputError(f"`device={asked!r}` is not available here. Leave `device` out to choose automatically.")
    return chosen


def autocast(device: torch.device) -> AbstractContextManager[None]:
    """Half precision where the hardware is built for it (CUDA); plain float32 elsewhere."""
    import torch

    if device.type != "cuda":
        return nullcontext()  # half precision is 100 times slower on CPUs without the instructions
    dtype = torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16
    return torch.autocast("cuda", dtype=dtype)
