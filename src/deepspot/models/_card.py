from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from deepspot._geometry import Geometry
from deepspot._keys import SCALE
from deepspot.encoders._card import EncoderCard

from ._config import NetworkConfig, TrainingConfig
from ._gate import Gate
from ._reliability import Reliability


class TrainingSlide(BaseModel):
    """A slide that a model learnt from."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slide: str
    patient: str
    spots: int


class ModelCard(BaseModel):
    """All that has to be known of a model to use it rightly, and to judge it.

    Attributes
    ----------
    format
        Version of this layout.
    name, note, tissue, licence
        For people.
    genes
        Names, in the order of the output.
    scale
        Scale of the prediction.
    depth
        Over which genes the counts of a spot were summed for normalisation.
    dim
        Length of the embeddings it takes.
    geometry, encoder, encoder_fingerprint
        What tiles have to show and what has to embed them; None for a model that was fitted on bare arrays.
    network, training, preset, epochs, seed
        How it was made.
    slides
        What it learnt from.
    gate
        What the network gained over tuned ridge on patients that neither had seen, and what predicts: network, ridge
        or a blend. None where it was switched off.
    reliability
        Expected r of every gene, and intervals.
    versions
        Of the libraries that made it.
    sha256
        Of the weights file.
    """

    model_config = ConfigDict(extra="forbid")

    format: Literal[1] = 1
    name: str = "deepspot"
    note: str = ""
    tissue: str = ""
    licence: str = "unknown"
    genes: list[str]
    scale: str = SCALE
    depth: str = "all measured genes"
    dim: int
    geometry: Geometry | None = None
    encoder: EncoderCard | None = None
    encoder_fingerprint: str = ""
    network: NetworkConfig
    training: TrainingConfig
    preset: str
    epochs: int = 0
    seed: int
    slides: list[TrainingSlide] = Field(default_factory=list)
    gate: Gate | None = None
    reliability: Reliability | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    sha256: str = ""
