from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch

from deepspot._bags import Bags
from deepspot._device import choose_device
from deepspot._logging import bar

from ._batches import BagDataset
from ._config import NetworkConfig, TrainingConfig
from ._fit import History, fit_network
from ._losses import make_loss
from ._network import Network
from ._scaler import Scaler


def train_members(
    bags: Bags,
    targets: np.ndarray,
    rows: np.ndarray,
    validation: np.ndarray | None,
    slides: np.ndarray | None,
    *,
    scaler: Scaler,
    network: NetworkConfig,
    training: TrainingConfig,
    seed: int,
    device: str | None,
    checkpoint: Path | None = None,
    trainer_kwargs: dict[str, Any] | None = None,
) -> tuple[list[Network], pd.DataFrame, int]:
    """Train the members of an ensemble apart.

    With `validation`, one network first learns without these rows, to find the number of epochs; then all members learn
    from all rows. Returns the members with their ρ collapsed, the loss curves and the number of epochs.
    """
    where = choose_device(device)
    loss = make_loss(training.loss, *(torch.as_tensor(v).to(where) for v in (scaler.mean, scaler.std)))
    scores = scaler.standardize(targets)
    owner = np.zeros(len(bags), dtype=int) if slides is None else np.unique(slides, return_inverse=True)[1]
    curves = []

    def dataset(chosen: np.ndarray) -> BagDataset:
        return BagDataset(bags, network.context, scores, chosen, owner)

    def fit(name: str, number: int, train: np.ndarray, held_out: np.ndarray | None, epochs: int) -> Network:
        with bar(f"Training {name}", total=epochs, unit="epoch") as progress:
            fitted, history = fit_network(
                lambda: Network(network, bags.dim, targets.shape[1]),
                dataset(train), None if held_out is None else dataset(held_out),
                config=training, loss=loss, epochs=epochs, seed=seed + number, device=where,
                checkpoint=checkpoint and checkpoint / name, on_epoch=progress.update, trainer_kwargs=trainer_kwargs,
            )  # fmt: skip
        curves.append(_curve(name, history))
        return fitted

    epochs = training.epochs
    if validation is not None and len(validation):
        if set(validation) >= set(rows):
            raise ValueError("`validation` holds out every row. Leave some to learn from.")
        fit("search", -1, np.setdiff1d(rows, validation), validation, training.max_epochs)
        held_out = curves[0]["validation"].to_numpy()
        epochs = int(held_out.argmin()) + 1
    members = [fit(f"member_{i + 1}", i, rows, None, epochs).collapse() for i in range(network.members)]
    return members, pd.concat(curves, ignore_index=True), epochs


def _curve(name: str, history: History) -> pd.DataFrame:
    curve = pd.DataFrame({"epoch": np.arange(1, len(history.train) + 1), "train": history.train})
    return curve.assign(validation=history.validation or np.nan, member=name)
