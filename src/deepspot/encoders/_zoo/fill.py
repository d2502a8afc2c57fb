"""Weights into a network, to the letter: nothing missing, nothing left over, nothing that is not a number."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from deepspot._core.hashing import digest

from .build import configuration, model_class, network, without_pooler
from .read import COUNTER
from .specs import Spec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn


def needed(tensors: dict[str, Tensor], spec: Spec) -> dict[str, Tensor]:
    """Tensors that the embedding is computed with, under the names that all copies of the weights share."""
    named = {name.removeprefix(spec.stripped): value for name, value in tensors.items()}
    return {
        name: value
        for name, value in named.items()
        if not name.startswith(spec.unused or ("\0",)) and not name.endswith(COUNTER)
    }


def check_finite(tensors: dict[str, Tensor], path: Path) -> None:
    """Raise if a weight is no finite number."""
    wrong = [name for name, value in tensors.items() if not bool(value.isfinite().all())]
    if wrong:
        raise ValueError(
            f"{path} holds weights that are not finite, in {len(wrong)} tensors: {_few(wrong)}. Get a new copy of it."
        )


def content(tensors: dict[str, Tensor]) -> str:
    """Content hash of names, shapes and values in float32, whichever format and order they were stored in."""
    return digest(*(part for name in sorted(tensors) for part in (name, np.asarray(tensors[name].float()))))


def fill(spec: Spec, tensors: dict[str, Tensor], path: Path) -> nn.Module:
    """Network of an encoder with its weights."""
    import torch

    if spec.library == "transformers":
        return _through_transformers(spec, tensors, path)
    with torch.device("meta"):  # neither memory nor time for random weights
        module = network(spec)
    ours = {name: value for name, value in module.state_dict().items() if not name.endswith(COUNTER)}
    shapes = {name: tuple(value.shape) for name, value in tensors.items()}
    other = {name: (shapes[name], tuple(ours[name].shape)) for name in ours if name in shapes}
    _raise_if_unlike(
        spec,
        path,
        missing=[name for name in ours if name not in shapes],
        unknown=[name for name in shapes if name not in ours],
        reshaped=[f"{name} {found} instead of {wanted}" for name, (found, wanted) in other.items() if found != wanted],
    )
    zeros = {name: torch.zeros((), dtype=torch.long) for name in module.state_dict() if name.endswith(COUNTER)}
    module.load_state_dict(tensors | zeros, assign=True)
    return module


def _through_transformers(spec: Spec, tensors: dict[str, Tensor], path: Path) -> nn.Module:
    # transformers renames layers now and then, and knows the names that it has published weights under.
    cls = model_class(spec.card.architecture)
    with _quiet():
        module, report = cls.from_pretrained(
            None,
            config=configuration(spec.options),
            state_dict=dict(tensors),
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            **without_pooler(spec.card.architecture),
        )
    _raise_if_unlike(
        spec,
        path,
        missing=sorted(report["missing_keys"]),
        unknown=sorted(report["unexpected_keys"]),
        reshaped=[f"{name} {tuple(a)} instead of {tuple(b)}" for name, a, b in sorted(report["mismatched_keys"])],
    )
    return module.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without bars and reports: what does not fit is said by us, with the name of the file."""
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


def _raise_if_unlike(spec: Spec, path: Path, *, missing: list[str], unknown: list[str], reshaped: list[str]) -> None:
    said = {"missing": missing, "not known": unknown, "of another shape": reshaped}
    found = [f"{len(names)} tensors are {what} ({_few(names)})" for what, names in said.items() if names]
    if found:
        raise ValueError(
            f"{path} does not hold the weights of {spec.card.name!r}: {'; '.join(found)}. They are published at "
            f"{spec.card.url}."
        )


def _few(names: list[str]) -> str:
    return ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
