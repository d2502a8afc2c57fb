"""Systems that are compared: how an estimator is made, and what it is made of."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np

from deepspot._fingerprint import digest
from deepspot.models._estimator import Estimator

Factory = Callable[..., Any]


@dataclass(frozen=True)
class System:
    """A name, what makes an estimator from keyword parameters, and the parameters to choose from.

    Attributes
    ----------
    name, factory
        Its name and its maker.
    grid
        Parameter settings; one of them is no choice.
    null
        Whether it is a null model.
    """

    name: str
    factory: Factory
    grid: tuple[dict[str, Any], ...] = ({},)
    null: bool = False

    def make(self, setting: int, seed: int, device: str | None) -> Estimator:
        """Make an unfitted estimator; seed and device go to those that take one."""
        params = self.grid[setting]
        taken = _parameters(self.factory)
        bound = {*params, *(self.factory.keywords if isinstance(self.factory, partial) else ())}
        offered = {"seed": seed} | ({} if device is None else {"device": device})
        try:
            made = self.factory(**{k: v for k, v in offered.items() if k in taken and k not in bound}, **params)
        except (TypeError, ValueError, KeyError) as error:
            error.add_note(f"This happened when model {self.name!r} was made with {params}.")
            raise
        if not isinstance(made, Estimator):
            raise TypeError(
                f"Model {self.name!r} makes a {type(made).__name__}, which lacks `fit(bags, targets, ...)` or "
                "`predict(bags)`. See how `ds.models.Ridge` does it."
            )
        return made


def _parameters(factory: Factory) -> Collection[str]:
    try:
        return inspect.signature(factory).parameters.keys()
    except (TypeError, ValueError):  # some builtins do not tell
        return ()


def describe(factory: Factory) -> Any:
    """Content of a factory, so that work is found again by what was done; TypeError if it has none."""
    if isinstance(factory, partial):
        return [describe(factory.func), plain(factory.args), plain(factory.keywords)]
    name = getattr(factory, "__qualname__", "<object>")
    if "<" in name:
        raise TypeError(
            f"{factory!r} cannot be described by its content, which `out=` needs to find finished work again. Use a "
            "class or a function at the top of a module, or a functools.partial of one."
        )
    # Ours is told apart by `source`.
    ours = factory.__module__.partition(".")[0] == "deepspot"
    return [factory.__module__, name, "" if ours else _source(factory)]


@cache
def source() -> str:
    """Content hash of the code that fits and predicts: the models, and the modules that they stand on."""
    import deepspot

    # A version alone does not tell what changed before a release.
    package = Path(deepspot.__file__).parent
    files = sorted([*package.glob("_*.py"), *(package / "models").rglob("*.py")])
    return digest(*(f"{path.relative_to(package).as_posix()}\n{path.read_text(encoding='utf-8')}" for path in files))


def plain(value: Any, other: Callable[[Any], Any] = describe) -> Any:
    """Parameters as JSON can write them; `other` takes what is no plain value."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item, other) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [plain(item, other) for item in value]
    return other(value)


def _source(factory: Factory) -> str:
    try:
        return inspect.getsource(factory)
    except (OSError, TypeError) as error:
        raise TypeError(
            f"The source of {factory!r} cannot be read, which `out=` needs to notice changes. Put it into a module."
        ) from error
