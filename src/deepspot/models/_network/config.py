from __future__ import annotations

from typing import Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from deepspot._core.keys import key_in
from deepspot.errors import InputError

Context = Literal["spot", "subspots", "neighbors"]
Config = TypeVar("Config", bound=BaseModel)
Loss = Literal["mse", "pearson", "poisson", "cosine", "mse_cosine"]


class NetworkConfig(BaseModel):
    """Make-up of the network; the fields are those of the paper's method section.

    Attributes
    ----------
    context
        The sets that are used, in this order: the spot, its sub-spots, its neighbors.
    width
        Length of φ's output.
    n_phi, n_rho
        Size of the two ensembles inside the network.
    phi_average
        How the φ ensemble is averaged: the paper says mean, the published code takes the median.
    subspot_pooling
        How φ of the sub-spots is pooled.
    dropout
        Dropout after φ's linear layer and before ρ's.
    output_dropout
        Dropout on the output, which the published code has.
    init
        Initial weights: PyTorch's default, or normal LeCun as in the paper.
    members
        Networks that are trained apart and averaged.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    context: tuple[Context, ...] = Field(default=("spot", "subspots", "neighbors"), min_length=1)
    width: int = Field(default=512, gt=0)
    n_phi: int = Field(default=1, gt=0)
    n_rho: int = Field(default=1, gt=0)
    phi_average: Literal["mean", "median"] = "mean"
    subspot_pooling: Literal["mean", "sum"] = "mean"
    dropout: float = Field(default=0.3, ge=0, lt=1)
    output_dropout: float = Field(default=0.0, ge=0, lt=1)
    init: Literal["torch", "lecun"] = "torch"
    members: int = Field(default=3, gt=0)

    @field_validator("context")
    @classmethod
    def _in_order(cls, context: tuple[Context, ...]) -> tuple[Context, ...]:
        return tuple(part for part in get_args(Context) if part in context)


class TrainingConfig(BaseModel):
    """How a network is trained.

    Attributes
    ----------
    loss
        What is minimized, on standardized genes (Poisson: on expression).
    standardize
        Divide every gene by its sd in the training set, as the paper does; else genes that vary more weigh more.
    optimizer, lr, weight_decay, batch_size
        As in PyTorch.
    epochs
        Passes over the data where nothing can be held out; a fixed number, as more of them hurt the next patient.
    max_epochs, patience
        Where patients can be held out: the limit, and how many epochs without improvement end the search.
    pca
        Principal components of the embeddings that a network learns from, which makes training several times faster;
        None takes embeddings as they are. The fitted network is the same kind either way.
    gate
        Who predicts: ``"bind"``: network, blend or tuned ridge, by their gain on held-out patients; ``"record"``: the
        gain is written down and the network predicts; ``"off"``: nothing is measured, for those who measure it
        themselves.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    loss: Loss = "mse"
    standardize: bool = True
    optimizer: Literal["adam", "adamw"] = "adam"
    lr: float = Field(default=3e-4, gt=0)
    weight_decay: float = Field(default=1e-6, ge=0)
    batch_size: int = Field(default=128, gt=0)
    epochs: int = Field(default=12, gt=0)
    max_epochs: int = Field(default=60, gt=0)
    patience: int = Field(default=5, gt=0)
    pca: int | None = Field(default=512, gt=0)
    gate: Literal["bind", "record", "off"] = "bind"


class Preset(BaseModel):
    """A complete make-up: network, training, and whether neighbors come from a box of the spot array."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: NetworkConfig
    training: TrainingConfig
    array_box: int | None = None


_PUBLISHED = NetworkConfig(
    n_phi=10, n_rho=10, phi_average="median", subspot_pooling="sum", output_dropout=0.1, members=1
)
# What reproduces others is not blended with ridge.
_PAPER_TRAINING = TrainingConfig(lr=1e-4, batch_size=1024, epochs=30, max_epochs=200, pca=None, gate="off")

PRESETS = {
    "default": Preset(network=NetworkConfig(), training=TrainingConfig()),
    "paper": Preset(
        network=_PUBLISHED.model_copy(update={"phi_average": "mean", "output_dropout": 0.0, "init": "lecun"}),
        training=_PAPER_TRAINING,
        array_box=1,
    ),
    "published": Preset(
        network=_PUBLISHED,
        training=_PAPER_TRAINING.model_copy(update={"optimizer": "adamw", "epochs": 15, "max_epochs": 15}),
        array_box=1,
    ),
}


def look_up(name: str) -> Preset:
    """Look up a preset: ``"default"``, ``"paper"`` (the text) or ``"published"`` (the authors' code)."""
    return PRESETS[key_in(name, PRESETS, "presets")]


def changed(config: Config, changes: dict[str, Any] | None, argument: str) -> Config:
    """A configuration with some fields changed."""
    try:
        return type(config)(**{**config.model_dump(), **(changes or {})})
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise InputError(f"`{argument}` does not fit ({wrong}). Fields: {list(type(config).model_fields)}.") from error
