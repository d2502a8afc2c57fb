"""Systems of a comparison: how an estimator is made, and a description of it for file names."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from deepspot._core.hashing import source_of
from deepspot._core.keys import key_in
from deepspot.errors import InputError, InputTypeError
from deepspot.models._estimator import Estimator
from deepspot.models._systems import NULLS, SYSTEMS

from .data_options import DATA, DataOptions

Factory = Callable[..., Any]
Grid = Mapping[str, Any] | Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class System:
    """A factory of estimators, with a name, the parameter settings to choose from, and whether it is a null model."""

    name: str
    factory: Factory
    grid: tuple[dict[str, Any], ...] = ({},)
    null: bool = False

    def params(self, setting: int) -> dict[str, Any]:
        """Return the parameters of the estimator in one of the settings, without those that change its data."""
        return {name: value for name, value in self.grid[setting].items() if name not in DATA}

    def make(self, setting: int, seed: int, device: str | None) -> Estimator:
        """Return an unfitted estimator with one of the settings; `seed` and `device` if the factory takes them."""
        params = self.params(setting)
        taken = _parameters(self.factory)
        unknown = sorted(params.keys() - taken.keys())
        if unknown and taken and all(parameter.kind != parameter.VAR_KEYWORD for parameter in taken.values()):
            raise InputTypeError(
                f"Model {self.name!r} has no parameters {unknown}. Parameters: {list(taken)}; and those of the data, "
                f"{list(DATA)}."
            )
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
                "`predict(bags)`. See `ds.models.Estimator` for the interface."
            )
        return made


def _parameters(factory: Factory) -> Mapping[str, inspect.Parameter]:
    try:
        return inspect.signature(factory).parameters
    except (TypeError, ValueError):  # some builtins have no signature
        return {}


def describe(factory: Factory) -> Any:
    """Return the content of a factory, from which files of finished fits are named; TypeError if it has none."""
    if isinstance(factory, partial):
        return [describe(factory.func), plain(factory.args), plain(factory.keywords)]
    name = getattr(factory, "__qualname__", "<object>")
    if "<" in name:
        raise InputTypeError(
            f"{factory!r} cannot be described by its content, which `out=` needs to identify finished fits. Use a "
            "class or a function at the top of a module, or a functools.partial of one."
        )
    # `deepspot.models._systems.FITS` is the version of the package's own estimators, wherever they are defined.
    package = factory.__module__.partition(".")[0]
    if package == "deepspot":
        return [package, name, ""]
    try:
        return [factory.__module__, name, source_of(factory)]
    except (OSError, TypeError) as error:
        raise InputTypeError(
            f"The source of {factory!r} cannot be read, which `out=` needs to notice changes. Put it into a module."
        ) from error


def plain(value: Any, other: Callable[[Any], Any] = describe) -> Any:
    """Return parameters in types of JSON; `other` converts everything else."""
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): plain(item, other) for key, item in value.items()}
    if isinstance(value, Sequence):
        return [plain(item, other) for item in value]
    return other(value)


def choose_systems(
    models: str | Sequence[str] | Mapping[str, Factory | str], grid: Mapping[str, Grid] | None
) -> list[System]:
    """Look up systems, expand their grids, and add the null models; see :func:`deepspot.models.cross_validate`."""
    from sklearn.model_selection import ParameterGrid

    if isinstance(models, str):
        raise InputTypeError(
            f"`models` must be a list of names or a mapping, got the text {models!r}. Write [{models!r}]."
        )
    if not isinstance(models, Iterable):
        raise InputTypeError(f"`models` must be a list of names or a dictionary, got {models!r}.")
    wanted = dict(models) if isinstance(models, Mapping) else {name: name for name in models}
    if not wanted:
        raise InputError(f"`models` is empty. Name some of {list(SYSTEMS)}.")
    taken = [name for name in wanted if name in NULLS]
    if taken:
        raise InputError(f"{taken} are names of null models, which always run. Use other names.")
    factories = {
        name: SYSTEMS[key_in(made, SYSTEMS, "models")] if isinstance(made, str) else made
        for name, made in wanted.items()
    }
    for name, factory in factories.items():
        if not callable(factory):
            raise InputTypeError(f"Model {name!r} must be a class or a function that makes one, got {factory!r}.")
    settings: dict[str, tuple[dict[str, Any], ...]] = {}
    for name, values in (grid or {}).items():
        key_in(name, factories, "models")
        try:
            settings[name] = tuple(ParameterGrid(values))
        except (TypeError, ValueError) as error:
            raise InputTypeError(
                f"`grid` of model {name!r} must be a dictionary of lists, such as {{'alpha': [1, 10]}}: {error}"
            ) from error
    systems = [System(name, factory, settings.get(name, ({},))) for name, factory in factories.items()]
    return systems + [System(name, factory, null=True) for name, factory in NULLS.items()]


def check_systems(
    systems: Sequence[System], seed: int, device: str | None, *, base: DataOptions, described: bool
) -> list[DataOptions]:
    """Make every estimator once, to raise errors in parameters before the slow steps. Return the data that are needed.

    `base` are the options of the data that a setting does not change; `described` is whether finished fits are kept.
    """
    needed = [base]
    for system in systems:
        for setting, params in enumerate(system.grid):
            try:
                options = base.changed(params)
            except (TypeError, ValueError, KeyError) as error:
                error.add_note(f"This happened in `grid` of model {system.name!r} with {params}.")
                raise
            needed.append(options)
            made = system.make(setting, seed, device)
            if getattr(made, "uses_tiles", False) and options.tiles.tiles_px is None:
                raise InputError(
                    f"Model {system.name!r} learns from pixels. Set the side of its tiles: `tiles={{'tiles_px': 224}}`."
                )
            if "subspots" in getattr(getattr(made, "network", made), "context", ()) and not options.tiles.subspots:
                raise InputError(
                    f"Model {system.name!r} uses sub-spots. Embed them, or give it a `context` without them."
                )
            if described:
                describe(system.factory)
                plain(system.params(setting))
    return list(dict.fromkeys(needed))
