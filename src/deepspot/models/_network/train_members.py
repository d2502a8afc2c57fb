from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from deepspot._core.device import choose_device
from deepspot._core.logging import bar
from deepspot._features.bags import Bags

from .batches import BagDataset
from .config import NetworkConfig, TrainingConfig
from .fit import History, fit_network
from .network import Network, Reduction
from .scaler import Scaler

SEARCH = "search"


@dataclass(frozen=True)
class Recipe:
    """How the members of an ensemble are trained.

    Attributes
    ----------
    network, training, seed, device
        As in :class:`deepspot.models.DeepSpot`.
    checkpoint
        Folder for the state of an unfinished training.
    trainer_kwargs
        For Lightning's Trainer.
    stage
        What the progress bar says before the name of a member.
    """

    network: NetworkConfig
    training: TrainingConfig
    seed: int
    device: str | None
    checkpoint: Path | None
    trainer_kwargs: dict[str, Any] | None
    stage: str = ""


def train_members(
    bags: Bags,
    targets: np.ndarray,
    recipe: Recipe,
    *,
    rows: np.ndarray,
    validation: np.ndarray | None,
    slides: np.ndarray,
) -> tuple[list[Network], Scaler, pd.DataFrame, int]:
    """Train the members of an ensemble apart.

    With `validation`, one network first learns without these rows, to find the number of epochs; the genes are then
    standardised without them too. After that all members learn from all rows.

    Returns
    -------
    The members with their ρ collapsed, the scaler, the curves, and the number of epochs.
    """
    slides = np.unique(slides, return_inverse=True)[1]
    curves, epochs = [], recipe.training.epochs
    if validation is not None and len(validation):
        learnt = rows[~np.isin(rows, validation)]
        search = _Lesson.of(bags, targets, recipe, learnt)
        data = [search.data(r, slides) for r in (learnt, validation)]
        _, history = _train(SEARCH, recipe, data, search.scaler, recipe.training.max_epochs)
        curves.append(_curve(SEARCH, history))
        epochs = int(np.argmin(history.validation)) + 1
    lesson = _Lesson.of(bags, targets, recipe, rows)
    everything, members = lesson.data(rows, slides), []
    for number in range(recipe.network.members):
        name = f"member_{number + 1}"
        member, history = _train(name, recipe, [everything], lesson.scaler, epochs)
        members.append(lesson.unfold(member.collapse()))
        curves.append(_curve(name, history))
    return members, lesson.scaler, pd.concat(curves, ignore_index=True), epochs


@dataclass(frozen=True, eq=False)
class _Lesson:
    """Bags and targets on the scales that the rows to learn from give them."""

    bags: Bags
    scores: np.ndarray
    scaler: Scaler
    reduction: Reduction | None
    context: tuple[str, ...]

    @classmethod
    def of(cls, bags: Bags, targets: np.ndarray, recipe: Recipe, rows: np.ndarray) -> _Lesson:
        scaler, k, reduction = Scaler.fit(targets[rows]), recipe.training.pca, None
        scaler = scaler if recipe.training.standardize else scaler.centered()
        if k is not None and k < bags.dim:
            reduction = Reduction.fit(bags.spot[np.unique(rows)], k)
            bags = reduction.bags(bags)
        return cls(bags, scaler.standardize(targets), scaler, reduction, recipe.network.context)

    def data(self, rows: np.ndarray, slides: np.ndarray) -> BagDataset:
        return BagDataset(self.bags, self.context, self.scores, rows, slides)

    def unfold(self, member: Network) -> Network:
        return member if self.reduction is None else self.reduction.unfold(member)


def _train(
    name: str, recipe: Recipe, data: Sequence[BagDataset], scaler: Scaler, epochs: int
) -> tuple[Network, History]:
    train, held_out = data[0], data[1] if len(data) > 1 else None
    # Seeds that follow one another would share members between neighbouring seeds.
    number = 0 if name == SEARCH else int(name.removeprefix("member_"))
    seed = int(np.random.SeedSequence([recipe.seed, number]).generate_state(1)[0])
    with bar(f"Training {recipe.stage}{name}", total=epochs, unit="epoch") as progress:
        return fit_network(
            lambda: Network(recipe.network, train.spot.shape[1], len(scaler.mean)),
            train, held_out, scaler,
            config=recipe.training, epochs=epochs, seed=seed, device=choose_device(recipe.device),
            checkpoint=recipe.checkpoint and recipe.checkpoint / f"{name}_{epochs}", on_epoch=progress.update,
            trainer_kwargs=recipe.trainer_kwargs,
        )  # fmt: skip


def _curve(name: str, history: History) -> pd.DataFrame:
    curve = pd.DataFrame({"epoch": np.arange(1, len(history.train) + 1), "train": history.train})
    return curve.assign(validation=history.validation or np.nan, member=name)
