from __future__ import annotations

from collections.abc import Mapping
from numbers import Integral
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StrictBool, ValidationError, field_validator

from deepspot._core.keys import key_in
from deepspot.errors import InputError, InputTypeError

Context = Literal["spot", "subspots", "neighbors"]
Config = TypeVar("Config", bound=BaseModel)
Loss = Literal["mse", "pearson", "poisson", "cosine", "mse_cosine"]


def _check_rank(value: Any) -> Any:
    if value is None or value == "select":
        return value
    if isinstance(value, Integral) and not isinstance(value, bool) and int(value) > 0:
        return int(value)
    raise InputError('must be a positive integer, "select", or None for no projection')


class NetworkConfig(BaseModel):
    """Architecture of the network, with the terms of section 4.2 of the paper.

    Attributes
    ----------
    context
        Sets that the network uses, in this order: the spot, its sub-spots, its neighbors.
    width
        Output dimension of φ.
    n_phi, n_rho
        Number of φ and of ρ in the network.
    phi_average
        Average over the φ: the mean as in the paper, or the median as in the published code.
    subspot_pooling
        Pooling of φ over the sub-spots.
    dropout
        Dropout rate after the linear layer of φ and before that of ρ.
    output_dropout
        Dropout rate on the output, used by the published code.
    init
        Initial weights: the default of PyTorch, or LeCun normal as in the paper.
    members
        Number of networks that are trained separately and averaged.
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
    """Training of the network.

    Attributes
    ----------
    loss
        Loss on standardized genes (for Poisson: on expression).
    standardize
        Divide every gene by its standard deviation in the training set, as in the paper. Otherwise genes with a higher
        variance have a higher weight.
    level_slides
        Give every gene the same mean and standard deviation in each training slide, so that differences between slides
        in level and depth are not learned.
    weight_slides
        Weight the spots of a slide by the square root of its median depth, because shallow slides are noisy.
    rank
        Number of principal components of the standardized targets on which predictions are projected, which removes
        noise of single genes. ``"select"`` chooses 10, 20, 50 or no projection on held-out patients, together with
        the gate; without the gate there is no projection. None never projects.
    optimizer, lr, weight_decay, batch_size
        As in PyTorch.
    epochs
        Number of epochs if no patient can be held out. It is fixed, because long training lowers the agreement on
        other patients.
    max_epochs, patience
        If patients can be held out: highest number of epochs, and number of epochs without improvement after which the
        search stops.
    pca
        Number of principal components of the embeddings to train on, which makes training several times faster. None
        trains on the embeddings. The fitted network takes embeddings in both cases.
    gate
        Selection of the predictor. ``"select"``: network, blend or tuned ridge, by their gain on held-out patients.
        ``"record"``: the gain is recorded and the network predicts. ``"off"``: the gain is not measured.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    loss: Loss = "mse"
    standardize: bool = True
    level_slides: StrictBool = False
    weight_slides: StrictBool = False
    rank: Annotated[int | Literal["select"] | None, BeforeValidator(_check_rank)] = None
    optimizer: Literal["adam", "adamw"] = "adam"
    lr: float = Field(default=3e-4, gt=0)
    weight_decay: float = Field(default=1e-6, ge=0)
    batch_size: int = Field(default=128, gt=0)
    epochs: int = Field(default=12, gt=0)
    max_epochs: int = Field(default=60, gt=0)
    patience: int = Field(default=5, gt=0)
    pca: int | None = Field(default=512, gt=0)
    # Bundles of the first release spell "select" as "bind".
    gate: Annotated[
        Literal["select", "record", "off"], BeforeValidator(lambda value: "select" if value == "bind" else value)
    ] = "select"


class Preset(BaseModel):
    """Configuration of network and training; `array_box` is the reach of a box of the spot array with the neighbors."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    network: NetworkConfig
    training: TrainingConfig
    array_box: int | None = None


_PUBLISHED = NetworkConfig(
    n_phi=10, n_rho=10, phi_average="median", subspot_pooling="sum", output_dropout=0.1, members=1
)
# Presets that reproduce the publication are not blended with ridge.
_PAPER_TRAINING = TrainingConfig(lr=1e-4, batch_size=1024, epochs=30, max_epochs=200, pca=None, gate="off")

PRESETS = {
    "default": Preset(
        network=NetworkConfig(), training=TrainingConfig(level_slides=True, weight_slides=True, rank="select")
    ),
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
    """Return the preset of this name: ``"default"``, ``"paper"`` (the text) or ``"published"`` (the authors' code)."""
    return PRESETS[key_in(name, PRESETS, "presets")]


def changed(config: Config, changes: dict[str, Any] | None, argument: str) -> Config:
    """Return a configuration with some fields changed; `argument` names it in errors."""
    if not isinstance(changes, Mapping | None):
        raise InputTypeError(f"`{argument}` must be a dictionary of fields to change, got {changes!r}.")
    try:
        return type(config)(**{**config.model_dump(exclude_unset=True), **(changes or {})})
    except ValidationError as error:
        wrong = "; ".join(f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors())
        raise InputError(f"`{argument}` does not fit ({wrong}). Fields: {list(type(config).model_fields)}.") from error
