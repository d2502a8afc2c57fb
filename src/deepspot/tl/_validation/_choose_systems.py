"""From names, classes and grids to the systems of a comparison. The null models always come along."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from deepspot._check import key_in
from deepspot.models._systems import NULLS, SYSTEMS

from ._factories import Factory, System, describe, plain

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
        raise TypeError(f"`models` must be a list of names or a mapping, got the text {models!r}. Write [{models!r}].")
    wanted = dict(models) if isinstance(models, Mapping) else {name: name for name in models}
    if not wanted:
        raise ValueError(f"`models` is empty. Name some of {list(SYSTEMS)}.")
    taken = [name for name in wanted if name in NULLS]
    if taken:
        raise ValueError(f"{taken} are the names of null models, which always run. Give yours another name.")
    factories = {name: SYSTEMS[key_in(made, SYSTEMS, "models")] if isinstance(made, str) else made
                 for name, made in wanted.items()}  # fmt: skip
    for name, factory in factories.items():
        if not callable(factory):
            raise TypeError(f"Model {name!r} must be a class or make an estimator when it is called, got {factory!r}.")
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
                raise ValueError(
                    f"Model {system.name!r} learns from pixels. Pass the side of its tiles, `tiles_px=224`."
                )
            if "subspots" in getattr(getattr(made, "network", made), "context", ()) and not subspots:
                raise ValueError(
                    f"Model {system.name!r} uses sub-spots. Embed them, or give it a `context` without them."
                )
            if described:
                describe(system.factory)
                plain(params)
