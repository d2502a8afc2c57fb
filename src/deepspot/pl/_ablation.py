from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import fill
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.keys import checked, key_in
from deepspot.errors import InputError

from ._style import BLUE, GRAY, GRID, several_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from deepspot.models._cross_validation.result import CrossValidation

DEFAULT, CHOSEN = "default", "chosen"
PANEL_SIZE = (1.0, 3.8)  # width of a value and height of a panel, in inches


@checked
def ablation(cv: CrossValidation, reference: str, *, ax: Axes | Sequence[Axes] | None = None) -> list[Axes]:
    """Plot what one parameter at a time does to the accuracy of a model.

    Every model whose settings in `grid` differ from those of the reference in one parameter is drawn in the panel of
    this parameter. Dots are held-out patients, lines connect the same patient, and a bar is the mean. Below a value is
    its mean difference to the reference with its 95 % interval over patients, if there are at least three.
    Parameters that are chosen on inner folds in both models do not count as a difference. Models of another kind are
    left out, unless the result was loaded, which has no kinds.

    Parameters
    ----------
    cv
        From :func:`deepspot.models.cross_validate`, with a model for each value: ``models={"full": "deepspot", "spot
        only": "deepspot"}, grid={"spot only": {"network": [{"context": ("spot",)}]}}``.
    reference
        Name of the model to compare with.
    ax
        One axes for each parameter; by default a new figure.

    Returns
    -------
    The axes, one for each parameter.

    Raises
    ------
    KeyError
        If there is no model of this name.
    ValueError
        If no model differs from the reference in one parameter.

    References
    ----------
    DeepSpot, section 4.3.2 and figure S1.

    Examples
    --------
    >>> import deepspot as ds
    >>> slides = ds.datasets.toy(n_patients=3, n_rows=4, n_cols=5)
    >>> models = {"ridge": "ridge", "spot only": "ridge", "wide": "ridge"}
    >>> grid = {"spot only": {"context": [("spot",)]}, "wide": {"tiles": [{"radius_um": 300}]}}
    >>> cv = ds.models.cross_validate(slides, patient_key="patient", models=models, grid=grid, genes=20)
    >>> [ax.get_title() for ax in ds.pl.ablation(cv, "ridge")]
    ['context', 'tiles.radius_um']
    """
    import matplotlib.pyplot as plt

    null = set(cv.scores.loc[cv.scores["null"], "model"])
    grids = {model: grid for model, grid in cv.grid.items() if model not in null}
    key_in(reference, grids, "models")
    kinds = {model: system.factory for model, system in cv.systems.items()}  # empty in a result that was loaded
    panels = _panels({m: grid for m, grid in grids.items() if kinds.get(m) == kinds.get(reference)}, reference)
    if not panels:
        raise InputError(
            f"No model differs from {reference!r} in one parameter of `grid`. Give each value a model of its own: "
            "models={'full': 'deepspot', 'spot only': 'deepspot'}, grid={'spot only': {'network': [{'context': "
            "('spot',)}]}}."
        )
    areas, gains = cv.areas(), cv.compare(reference)
    note = gains.attrs["note"]
    if ax is None:
        widths = [len(values) + 0.6 for values in panels.values()]
        size = (PANEL_SIZE[0] * sum(widths) + 1, PANEL_SIZE[1])
        _, made = plt.subplots(
            1, len(panels), figsize=size, sharey=True, width_ratios=widths, layout="constrained", squeeze=False
        )
        axes = list(made[0])
        if note:
            axes[0].figure.suptitle(fill(note, 90), fontsize="small", color="#555555", x=0.01, ha="left")
    else:
        axes = several_axes(ax, len(panels), "parameters")
    for panel, (name, values) in zip(axes, panels.items(), strict=True):
        points = areas.loc[list(values.values())].to_numpy()
        places = np.arange(len(values))
        panel.plot(places, points, color=GRID, linewidth=0.8, zorder=1)
        panel.plot(places, points, "o", color=GRAY, markersize=4, zorder=2)
        panel.hlines(points.mean(axis=1), places - 0.25, places + 0.25, color=BLUE, linewidth=2.5, zorder=3)
        panel.set_xticks(places, [_label(value, model, reference, gains) for value, model in values.items()])
        panel.set_xlim(-0.6, len(values) - 0.4)
        panel.set_title(name, fontsize="medium")
        panel.grid(axis="y", color=GRID, linewidth=0.8)
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(axis="x", labelsize="small")
    axes[0].set_ylabel(f"area under the curve of r\non the held-out {cv.leave_out}")
    return axes


def _label(value: str, model: str, reference: str, gains: Any) -> str:
    text = fill(value, 14)
    if model == reference:
        return f"{text}\n(reference)"
    row = gains.loc[model]
    found = f"{text}\n{row['difference']:+.3f}"
    return f"{found}\n({row['low']:+.3f} to\n{row['high']:+.3f})" if row["folds"] > 2 else found


def _panels(grid: Mapping[str, Sequence[Mapping[str, Any]]], reference: str) -> dict[str, dict[str, str]]:
    """Return the models to draw, by the name of the parameter and its value; the reference is the first of each."""
    fixed = {model: _fixed(settings) for model, settings in grid.items()}
    mine, chosen = fixed[reference]
    panels: dict[str, dict[str, str]] = {}
    for model, (theirs, tuned) in fixed.items():
        names = (mine.keys() | theirs.keys() | chosen | tuned) - (chosen & tuned)
        sides = (mine | dict.fromkeys(chosen, CHOSEN), theirs | dict.fromkeys(tuned, CHOSEN))
        differ = [name for name in sorted(names) if sides[0].get(name, DEFAULT) != sides[1].get(name, DEFAULT)]
        if model == reference or len(differ) != 1:
            continue
        (name,) = differ
        panels.setdefault(name, {sides[0].get(name, DEFAULT): reference})[sides[1].get(name, DEFAULT)] = model
    return panels


def _fixed(settings: Sequence[Mapping[str, Any]]) -> tuple[dict[str, str], set[str]]:
    """Return the parameters with one value in all settings, as text, and the names of the others."""
    flat = [_flatten(setting) for setting in settings]
    names = dict.fromkeys(name for setting in flat for name in setting)
    values = {name: {setting.get(name, DEFAULT) for setting in flat} for name in names}
    return {name: next(iter(v)) for name, v in values.items() if len(v) == 1}, {
        n for n, v in values.items() if len(v) > 1
    }


def _flatten(setting: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    found: dict[str, str] = {}
    for name, value in setting.items():
        if isinstance(value, Mapping):
            found |= _flatten(value, f"{prefix}{name}.")
        else:
            items = value if isinstance(value, list | tuple) else [value]
            found[f"{prefix}{name}"] = ", ".join(map(str, items))
    return found
