"""Systems that are compared: how an estimator is made, and what it is made of."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from deepspot._core.keys import key_in
from deepspot.errors import InputError, InputTypeError
from deepspot.models._estimator import Estimator
from deepspot.models._systems import NULLS, SYSTEMS

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
            raise InputTypeError(
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
        raise InputTypeError(
            f"{factory!r} cannot be described by its content, which `out=` needs to find finished work again. Use a "
            "class or a function at the top of a module, or a functools.partial of one."
        )
    # What ours do is told by their version (`deepspot.models._systems.FITS`), wherever in the package they lie.
    package = factory.__module__.partition(".")[0]
    return [package, name, ""] if package == "deepspot" else [factory.__module__, name, _source(factory)]


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
        raise InputTypeError(
            f"The source of {factory!r} cannot be read, which `out=` needs to notice changes. Put it into a module."
        ) from error


Grid = Mapping[str, Any] | Sequence[Mapping[str, Any]]


def choose_systems(
    models: str | Sequence[str] | Mapping[str, Factory | str], grid: Mapping[str, Grid] | None
) -> list[System]:
    """Look up systems, spread out their grids, and add the null models.

    Parameters
    ----------
    models
        Names, or a mapping from names of your own to classes, callables or names.
    grid
        What to choose from: parameters and their values, in the form of scikit-learn's ParameterGrid, by model.
    """
    from sklearn.model_selection import ParameterGrid

    if isinstance(models, str):
        raise InputTypeError(
            f"`models` must be a list of names or a mapping, got the text {models!r}. Write [{models!r}]."
        )
    wanted = dict(models) if isinstance(models, Mapping) else {name: name for name in models}
    if not wanted:
        raise InputError(f"`models` is empty. Name some of {list(SYSTEMS)}.")
    taken = [name for name in wanted if name in NULLS]
    if taken:
        raise InputError(f"{taken} are the names of null models, which always run. Give yours another name.")
    factories = {
        name: SYSTEMS[key_in(made, SYSTEMS, "models")] if isinstance(made, str) else made
        for name, made in wanted.items()
    }
    for name, factory in factories.items():
        if not callable(factory):
            raise InputTypeError(
                f"Model {name!r} must be a class or make an estimator when it is called, got {factory!r}."
            )
    settings: dict[str, tuple[dict[str, Any], ...]] = {}
    for name, values in (grid or {}).items():
        settings[key_in(name, factories, "models")] = tuple(ParameterGrid(values))
    systems = [System(name, factory, settings.get(name, ({},))) for name, factory in factories.items()]
    return systems + [System(name, factory, null=True) for name, factory in NULLS.items()]


def check_systems(
    systems: Sequence[System], seed: int, device: str | None, *, tiles: bool, subspots: bool, described: bool
) -> None:
    """Make every estimator once, so that a wrong parameter is found before hours of work.

    Parameters
    ----------
    systems
        From :func:`choose_systems`.
    seed, device
        For estimators that take one.
    tiles, subspots
        Whether there will be tiles to learn from, and sub-spots.
    described
        Whether their content must be known, to find finished work again.
    """
    for system in systems:
        for setting, params in enumerate(system.grid):
            made = system.make(setting, seed, device)
            if getattr(made, "fine_tune", False) and not tiles:
                raise InputError(
                    f"Model {system.name!r} learns from pixels. Pass the side of its tiles, `tiles_px=224`."
                )
            if "subspots" in getattr(getattr(made, "network", made), "context", ()) and not subspots:
                raise InputError(
                    f"Model {system.name!r} uses sub-spots. Embed them, or give it a `context` without them."
                )
            if described:
                describe(system.factory)
                plain(params)
