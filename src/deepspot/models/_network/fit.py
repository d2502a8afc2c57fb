"""Training of one network with Lightning."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Sampler, Subset

from deepspot._core.compute import choose_device
from deepspot._core.logging import bar
from deepspot._stats.metrics import pearson
from deepspot.errors import InputError
from deepspot.models._inputs import Scaler

from .config import Loss, NetworkConfig, TrainingConfig
from .network import BagDataset, Network

SEARCH, DONE = "search", "done.pt"
# Training loss per epoch, and 1 - mean r over genes on held-out slides.
History = dict[str, list[float]]
LossFunction = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Recipe:
    """Settings of :class:`deepspot.models.DeepSpot` for training networks.

    `checkpoint` is the folder for the state of training, `stage` a prefix of the progress bar.
    """

    network: NetworkConfig
    training: TrainingConfig
    seed: int
    device: str | None
    checkpoint: Path | None
    trainer_kwargs: dict[str, Any] | None
    stage: str = ""


def fit_network(
    number: int,
    recipe: Recipe,
    scaler: Scaler,
    epochs: int,
    data: BagDataset,
    rows: np.ndarray,
    held_out: np.ndarray | None = None,
) -> tuple[str, Network, History]:
    """Train one network of an ensemble on the `rows`; return its name, the network in evaluation mode, and its history.

    Number 0 is the search for the number of epochs: it stops when the r of the rows `held_out` no longer rises. A
    finished network is read from its checkpoint, an unfinished one is resumed from it.
    """
    config, device, name = recipe.training, choose_device(recipe.device), f"member_{number}" if number else SEARCH
    folder = None if recipe.checkpoint is None else recipe.checkpoint / f"{name}_{epochs}"
    # With consecutive seeds, neighboring seeds of the model would share members.
    seed = int(np.random.SeedSequence([recipe.seed, number]).generate_state(1)[0])
    dim = data.spot.shape[1]
    if folder is not None and (folder / DONE).exists():
        state = torch.load(folder / DONE, weights_only=True)
        network = Network(recipe.network, dim, len(scaler.mean))
        network.load_state_dict(state["network"])
        return name, network.eval(), state["history"]
    options: dict[str, Any] = dict(recipe.trainer_kwargs or {})
    if ours := sorted({"max_epochs", "enable_checkpointing", "logger"} & options.keys()):
        raise InputError(
            f"`trainer_kwargs` must not set {ours}: the number of epochs is `training={{'epochs': ...}}`, and "
            "checkpoints are kept in `default_root_dir`."
        )
    callbacks: list[Callback] = list(options.pop("callbacks", []))
    if held_out is not None:
        callbacks.append(EarlyStopping("validation", patience=config.patience))
    if folder is not None:
        callbacks.append(ModelCheckpoint(folder, filename="last", enable_version_counter=False))
    options = {  # the arguments of the user come last and take precedence
        "max_epochs": epochs,
        "accelerator": "gpu" if device.type == "cuda" else device.type,
        "devices": [device.index or 0] if device.type == "cuda" else 1,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": folder is not None,
        "num_sanity_val_steps": 0,
        "callbacks": callbacks,
        **options,
    }
    unfinished = None if folder is None else folder / "last.ckpt"
    progress = bar(f"Training {recipe.stage}{name}", total=epochs, unit="epoch")
    with progress, _quiet(), torch.random.fork_rng():
        torch.manual_seed(seed)
        task = _Task(Network(recipe.network, dim, len(scaler.mean)), scaler, config, seed, progress.update)
        trainer = lightning.Trainer(**options)
        trainer.fit(
            task,
            _loader(data, rows, config.batch_size, _Shuffle(len(rows), seed)),
            None if held_out is None else _loader(data, held_out, 4 * config.batch_size),
            ckpt_path=unfinished if unfinished is not None and unfinished.exists() else None,
            weights_only=True,
        )
    network = task.network.cpu().eval()
    if folder is not None and trainer.is_global_zero:
        torch.save({"network": network.state_dict(), "history": task.history}, folder / DONE)
    return name, network, task.history


def make_loss(name: Loss, mean: Tensor, std: Tensor) -> LossFunction:
    """Return a loss of standardized prediction, standardized target, mask (1 if measured), each (n, genes), and weight.

    `mean` and `std` (genes,) convert standardized values to expression. Values that were not measured have no effect.
    The loss of a spot is multiplied by its `weight` (n,), which is 1 on average over the training spots.
    """

    def average(values: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
        return (values * mask * weight.unsqueeze(1)).sum() / mask.sum().clamp(min=1)

    def centered(values: Tensor, mask: Tensor) -> Tensor:
        return values - (values * mask).sum(1, keepdim=True) / mask.sum(1, keepdim=True).clamp(min=1)

    def mse(prediction: Tensor, target: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
        return average((prediction - target).square(), mask, weight)

    def cosine(prediction: Tensor, target: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
        return (weight * (1 - F.cosine_similarity(prediction * mask, target * mask, dim=1))).mean()

    def correlation(prediction: Tensor, target: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
        # Across the genes of a spot, as in the published code.
        return cosine(centered(prediction, mask), centered(target, mask), mask, weight)

    def poisson(prediction: Tensor, target: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
        # This softplus keeps rates positive and changes values above 0.1 little.
        rate = F.softplus(prediction * std + mean, beta=20)
        expression = (target * std + mean).clamp(min=0)
        return average(F.poisson_nll_loss(rate, expression, log_input=False, reduction="none"), mask, weight)

    def mse_cosine(prediction: Tensor, target: Tensor, mask: Tensor, weight: Tensor) -> Tensor:
        return mse(prediction, target, mask, weight) + cosine(prediction, target, mask, weight)

    losses: dict[Loss, LossFunction] = {
        "mse": mse,
        "pearson": correlation,
        "cosine": cosine,
        "poisson": poisson,
        "mse_cosine": mse_cosine,
    }
    return losses[name]


class _Task(lightning.LightningModule):
    """Lightning module of one network and its loss; calls `on_epoch` after every epoch."""

    def __init__(
        self, network: Network, scaler: Scaler, config: TrainingConfig, seed: int, on_epoch: Callable[[], Any]
    ) -> None:
        super().__init__()
        self.network, self.scaler, self.config, self.seed, self.on_epoch = network, scaler, config, seed, on_epoch
        self.history: History = {"train": [], "validation": []}
        self.held_out: list[tuple[Tensor, Tensor, Tensor]] = []

    def on_fit_start(self) -> None:
        mean, std = (torch.as_tensor(part, device=self.device) for part in (self.scaler.mean, self.scaler.std))
        self.loss = make_loss(self.config.loss, mean, std)

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        # Dropout depends on seed and step only, so that resumed training gives the same weights.
        torch.manual_seed(self.seed + 1_000_003 * (self.global_step + 1))
        loss = self.loss(self.network(batch), batch["target"], batch["mask"], batch["weight"])
        self.log("train", loss, on_step=False, on_epoch=True, batch_size=len(batch["spot"]), sync_dist=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        measured = batch["target"].masked_fill(batch["mask"] == 0, torch.nan)
        self.held_out.append((self.network(batch).cpu(), measured.cpu(), batch["slide"].cpu()))

    def on_validation_epoch_end(self) -> None:
        predicted, measured, slide = (torch.cat(parts).numpy() for parts in zip(*self.held_out, strict=True))
        self.held_out.clear()
        # A loss would also measure the distance between the means of two patients, which training does not reduce.
        r = np.concatenate([pearson(predicted[slide == one], measured[slide == one]) for one in np.unique(slide)])
        defined = r[np.isfinite(r)]
        self.log("validation", float(1 - defined.mean()) if len(defined) else 1.0, sync_dist=True)

    def on_train_epoch_end(self) -> None:
        for name, values in self.history.items():
            if name in self.trainer.callback_metrics:
                values.append(float(self.trainer.callback_metrics[name]))
        self.on_epoch()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = self.history

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = checkpoint["history"]

    def configure_optimizers(self) -> torch.optim.Optimizer:
        kind = torch.optim.AdamW if self.config.optimizer == "adamw" else torch.optim.Adam
        return kind(self.parameters(), lr=self.config.lr, weight_decay=self.config.weight_decay)


class _Shuffle(Sampler[int]):
    """Random order of the spots that depends on seed and epoch only; Lightning sets the epoch."""

    def __init__(self, n: int, seed: int) -> None:
        self.n, self.seed, self.epoch = n, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch)
        return iter(torch.randperm(self.n, generator=generator).tolist())


def _loader(data: BagDataset, rows: np.ndarray, batch_size: int, sampler: Sampler[int] | None = None) -> DataLoader:
    # The data set makes whole batches with one tensor operation, so worker processes would only copy them.
    part = Subset(data, rows.tolist())
    return DataLoader(part, batch_size=batch_size, sampler=sampler, collate_fn=lambda batch: batch)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence messages of Lightning on loaders and hardware, which users of this package cannot act on."""
    loggers = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    before = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning|torch")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)
