"""Training of one network on Lightning."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import lightning.pytorch as lightning
import numpy as np
import torch
from lightning.pytorch.callbacks import Callback, EarlyStopping, ModelCheckpoint
from torch import Tensor
from torch.utils.data import DataLoader, Sampler

from deepspot._stats.metrics import pearson

from .batches import BagDataset, keep
from .config import TrainingConfig
from .losses import make_loss
from .network import Network
from .scaler import Scaler

DONE = "done.pt"


@dataclass
class History:
    """Per epoch of one network: training loss, and one minus the mean r over genes on held-out slides."""

    train: list[float] = field(default_factory=list)
    validation: list[float] = field(default_factory=list)


def fit_network(
    make: Callable[[], Network],
    train: BagDataset,
    validation: BagDataset | None,
    scaler: Scaler,
    *,
    config: TrainingConfig,
    epochs: int,
    seed: int,
    device: torch.device,
    checkpoint: Path | None = None,
    on_epoch: Callable[[], Any] = lambda: None,
    trainer_kwargs: dict[str, Any] | None = None,
) -> tuple[Network, History]:
    """Train one network.

    Parameters
    ----------
    make
        Builds the network; called after seeding.
    train, validation
        Standardised data. With `validation`, training stops when its r no longer rises.
    scaler
        What they were standardised with.
    config
        Loss, optimiser, batch size, patience.
    epochs
        Number of passes, or their limit.
    seed
        Seeds weights, order and dropout, each epoch and step on its own: a resumed run equals one that never stopped.
    device
        Where to compute.
    checkpoint
        Folder to keep the state after every epoch in, and to resume from. A network that is complete is taken from it.
    on_epoch
        Called after every epoch.
    trainer_kwargs
        Further arguments of Lightning's Trainer, such as ``{"devices": 4, "strategy": "ddp"}``.

    Returns
    -------
    The network in evaluation mode, and its losses.
    """
    done = None if checkpoint is None else checkpoint / DONE
    if done is not None and done.exists():
        state = torch.load(done, weights_only=True)
        network = make()
        network.load_state_dict(state["network"])
        return network.eval(), History(**state["history"])
    options = dict(trainer_kwargs or {})
    _check_options(options)
    with _quiet(), torch.random.fork_rng():
        torch.manual_seed(seed)
        task = _Task(make(), scaler, config, seed, on_epoch)
        callbacks: list[Callback] = list(options.pop("callbacks", []))
        if validation is not None:
            callbacks.append(EarlyStopping("validation", patience=config.patience))
        if checkpoint is not None:
            callbacks.append(ModelCheckpoint(checkpoint, filename="last", enable_version_counter=False))
        trainer = lightning.Trainer(
            **{
                "max_epochs": epochs,
                "accelerator": "gpu" if device.type == "cuda" else device.type,
                "devices": [device.index or 0] if device.type == "cuda" else 1,
                "logger": False,
                "enable_progress_bar": False,
                "enable_model_summary": False,
                "enable_checkpointing": checkpoint is not None,
                "num_sanity_val_steps": 0,
                "callbacks": callbacks,
                **options,
            }
        )
        unfinished = None if checkpoint is None else checkpoint / "last.ckpt"
        trainer.fit(
            task,
            _loader(train, config.batch_size, _Shuffle(len(train), seed)),
            None if validation is None else _loader(validation, 4 * config.batch_size),
            ckpt_path=unfinished if unfinished is not None and unfinished.exists() else None,
            weights_only=True,
        )
    network = task.network.cpu().eval()
    if done is not None and trainer.is_global_zero:
        torch.save({"network": network.state_dict(), "history": vars(task.history)}, done)
    return network, task.history


def _check_options(options: dict[str, Any]) -> None:
    ours = sorted({"max_epochs", "enable_checkpointing", "logger"} & options.keys())
    if ours:
        raise ValueError(
            f"`trainer_kwargs` must not set {ours}: the number of epochs is `training={{'epochs': ...}}`, and "
            "checkpoints are kept with `checkpoint_dir=`."
        )


class _Task(lightning.LightningModule):
    def __init__(
        self, network: Network, scaler: Scaler, config: TrainingConfig, seed: int, on_epoch: Callable[[], Any]
    ) -> None:
        super().__init__()
        self.network, self.scaler, self.config, self.seed, self.on_epoch = network, scaler, config, seed, on_epoch
        self.history = History()
        self.held_out: list[tuple[Tensor, Tensor, Tensor]] = []

    def on_fit_start(self) -> None:
        mean, std = (torch.as_tensor(part, device=self.device) for part in (self.scaler.mean, self.scaler.std))
        self.loss = make_loss(self.config.loss, mean, std)

    def training_step(self, batch: dict[str, Tensor], _: int) -> Tensor:
        # Dropout is drawn from seed and step alone, so that a resumed run draws the same.
        torch.manual_seed(self.seed + 1_000_003 * (self.global_step + 1))
        loss = self.loss(self.network(batch), batch["target"], batch["mask"])
        self.log("train", loss, on_step=False, on_epoch=True, batch_size=len(batch["spot"]), sync_dist=True)
        return loss

    def validation_step(self, batch: dict[str, Tensor], _: int) -> None:
        measured = batch["target"].masked_fill(batch["mask"] == 0, torch.nan)
        self.held_out.append((self.network(batch).cpu(), measured.cpu(), batch["slide"].cpu()))

    def on_validation_epoch_end(self) -> None:
        predicted, measured, slide = (torch.cat(parts).numpy() for parts in zip(*self.held_out, strict=True))
        self.held_out.clear()
        # A loss would count how far another patient's mean lies from the training mean, which no epoch can mend.
        r = np.concatenate([pearson(predicted[slide == one], measured[slide == one]) for one in np.unique(slide)])
        defined = r[np.isfinite(r)]
        self.log("validation", float(1 - defined.mean()) if len(defined) else 1.0, sync_dist=True)

    def on_train_epoch_end(self) -> None:
        for name, values in vars(self.history).items():
            if name in self.trainer.callback_metrics:
                values.append(float(self.trainer.callback_metrics[name]))
        self.on_epoch()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["history"] = vars(self.history)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        self.history = History(**checkpoint["history"])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        kind = torch.optim.AdamW if self.config.optimizer == "adamw" else torch.optim.Adam
        return kind(self.parameters(), lr=self.config.lr, weight_decay=self.config.weight_decay)


class _Shuffle(Sampler[int]):
    """Order of the spots, drawn anew for every epoch from seed and epoch alone."""

    def __init__(self, n: int, seed: int) -> None:
        self.n, self.seed, self.epoch = n, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed + 1_000_003 * self.epoch)
        return iter(torch.randperm(self.n, generator=generator).tolist())


def _loader(data: BagDataset, batch_size: int, sampler: Sampler[int] | None = None) -> DataLoader:
    # Batches are gathered by one tensor operation: worker processes would only copy them.
    return DataLoader(data, batch_size=batch_size, sampler=sampler, collate_fn=keep)


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence Lightning's advice on loaders and hardware, which a user of this package can do nothing about."""
    chatty = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric")]
    before = [logger.level for logger in chatty]
    try:
        for logger in chatty:
            logger.setLevel(logging.ERROR)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module="lightning|torch")
            yield
    finally:
        for logger, level in zip(chatty, before, strict=True):
            logger.setLevel(level)
