from __future__ import annotations

import re
from typing import Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from deepspot._core.keys import SCALE
from deepspot._spatial.geometry import Geometry
from deepspot.encoders._card import EncoderCard
from deepspot.errors import InputError
from deepspot.models._confidence.gate import Gate
from deepspot.models._confidence.reliability import Reliability
from deepspot.models._network.config import PRESETS, NetworkConfig, TrainingConfig

# Beyond anything that is a spot: what is larger would fill the memory of whoever predicts with it.
LEAST_UM, MOST_UM, MOST_PX, MOST_PARTS = 0.01, 1e5, 10_000, 1_000
MOST_LETTERS = 2_000
# Control characters, ends of lines, what turns the direction of writing, and halves of characters.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
# What is known of every gene, and how far from 0 it may be: float32 has to hold it.
BY_GENE = {"r": 1, "r_low": 1, "r_high": 1, "half_width": 1e9, "dispersion": 1e9, "rate_level": 1e9}


class TrainingSlide(BaseModel):
    """A slide that a model learned from."""

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
    name, note, tissue, license
        For people.
    genes
        Names, in the order of the output.
    scale
        Scale of the prediction.
    depth
        Over which genes the counts of a spot were summed for normalization.
    dim
        Length of the embeddings it takes.
    geometry, encoder, encoder_fingerprint
        What tiles have to show and what has to embed them; None for a model that was fitted on bare arrays.
    network, training, preset, epochs, seed
        How it was made.
    slides
        What it learned from.
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

    # Cards that are in use spell the license "licence".
    model_config = ConfigDict(extra="forbid", validate_by_name=True)

    format: Literal[1] = 1
    name: str = "deepspot"
    note: str = ""
    tissue: str = ""
    license: str = Field(default="unknown", validation_alias=AliasChoices("license", "licence"))
    genes: list[str] = Field(min_length=1, max_length=200_000)
    scale: str = SCALE
    depth: str = "all measured genes"
    dim: int = Field(gt=0)
    geometry: Geometry | None = None
    encoder: EncoderCard | None = None
    encoder_fingerprint: str = ""
    network: NetworkConfig
    training: TrainingConfig
    preset: str
    epochs: int = 0
    seed: int
    slides: list[TrainingSlide] = Field(default_factory=list, max_length=10_000)
    gate: Gate | None = None
    reliability: Reliability | None = None
    versions: dict[str, str] = Field(default_factory=dict)
    sha256: str = ""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if len(set(self.genes)) < len(self.genes) or not all(self.genes):
            raise InputError("`genes` must be different names")
        if self.encoder is not None and self.encoder.dim != self.dim:
            raise InputError(
                f"encoder {self.encoder.name!r} makes embeddings of length {self.encoder.dim}, but the model takes "
                f"{self.dim}"
            )
        if self.preset not in PRESETS:
            raise InputError(f"preset {self.preset!r} is none of {list(PRESETS)}")
        if self.gate is not None and not 0 <= self.gate.weight <= 1:
            raise InputError(f"the share of the network is {self.gate.weight}, not between 0 and 1")
        for field, most in BY_GENE.items() if self.reliability else ():
            values = getattr(self.reliability, field)
            if values is not None and len(values) != len(self.genes):
                raise InputError(f"`reliability.{field}` is of {len(values)} genes, but there are {len(self.genes)}")
            if any(value is not None and abs(value) > most for value in values or ()):
                raise InputError(f"`reliability.{field}` holds numbers beyond {most:g}")
        return self

    @model_validator(mode="after")
    def _sizes_are_possible(self) -> Self:
        px = 0 if self.encoder is None else max(self.encoder.input_px, self.encoder.resize_px or 0)
        if self.geometry is not None:
            tile, rule = self.geometry.tile, self.geometry.neighbors
            px = max(px, tile.input_px)
            large = max(tile.tile_um, rule.reach) > MOST_UM or max(tile.grid**2, rule.cap) > MOST_PARTS
            if large or tile.tile_um < LEAST_UM:
                raise InputError(f"`geometry` is no geometry of spots: {self.geometry}")
        if px > MOST_PX:
            raise InputError(f"tiles of {px} px are larger than any encoder takes")
        return self

    @model_validator(mode="after")
    def _short_text_is_plain(self) -> Self:
        """Short text goes to logs, terminals and tables, where control characters do more than be read."""
        encoder = () if self.encoder is None else (self.encoder.name, self.encoder.license)
        for text in (self.name, self.tissue, self.license, self.scale, self.depth, *encoder, *self.genes):
            if len(text) > MOST_LETTERS or _CONTROL.search(text):
                raise InputError(f"{text[:20]!r}… is too long for a name, or holds control characters")
        return self

    def to_markdown(self, where: str = "path/of/the/model") -> str:
        """The card as a page for people: the README of a repository on Hugging Face, with its metadata on top.

        Parameters
        ----------
        where
            What `ds.models.load` is to be given, for the lines that say how to use it.

        Returns
        -------
        Markdown. What the card holds is shown as text, whatever is in it.

        Examples
        --------
        >>> import deepspot as ds
        >>> "license: cc-by-4.0" in ds.models.load().card.to_markdown("her2st")
        True
        """
        from .page import front_matter, page

        content = self.model_dump()
        return front_matter(content) + page(content, self._gate_in_words(), where)

    def _repr_markdown_(self) -> str:
        from .page import page

        return page(self.model_dump(), self._gate_in_words())

    def _gate_in_words(self) -> str:
        return "" if self.gate is None else str(self.gate)


def versions() -> dict[str, str]:
    """Versions of the libraries that make a model, for its card."""
    from importlib.metadata import version

    return {name: version(name) for name in ("deepspot", "torch", "lightning", "scanpy", "spatialdata", "timm")}
