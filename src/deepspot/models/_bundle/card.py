from __future__ import annotations

import hashlib
import json
import math
import re
from math import prod
from typing import Any, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from deepspot._core.keys import SCALE
from deepspot._spatial.geometry import Geometry
from deepspot.encoders._card import EncoderCard
from deepspot.errors import InputError
from deepspot.models._confidence.gate import Gate
from deepspot.models._confidence.reliability import Reliability
from deepspot.models._network.config import PRESETS, NetworkConfig, TrainingConfig

FORMAT = 1
# 60,000 genes and all that is known of them. Every wrong value is an error of its own, which takes time and memory.
LARGEST_CARD, MOST_VALUES = 16_000_000, 500_000
# 4 GB of weights. The largest model of the paper has 16 million of them.
MOST_NUMBERS, MOST_TENSORS = 2**30, 10_000
# Embeddings of training spots in a bundle, their length up to the rounding of float16, and the distance to divide by.
MOST_CORE, CORE_LENGTH, LEAST_DISTANCE = 512, 1.01, 1e-6
# Seeds have at most 20 digits; a float never needs more than 17 of them.
MOST_DIGITS = 25
LONGEST_QUOTE, LONGEST_MESSAGE = 120, 400
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


def short(value: object) -> str:
    """What somebody else wrote, for a message: in quotes, on one line, and no longer than one."""
    text = repr(value)
    return text if len(text) <= LONGEST_QUOTE else f"{text[:LONGEST_QUOTE]}…"


def strict_json(raw: bytes, name: str) -> Any:
    """Parse JSON with one meaning: UTF-8, no key twice, no NaN or infinity, no endless integer; `name` is the file.

    Pydantic's parser takes the last of two equal keys, and infinity for 1e999.
    """

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for key, value in pairs:
            if key in found:
                raise InputError(f"it has {short(key)} twice")
            found[key] = value
        return found

    def finite(number: str) -> float:
        if not math.isfinite(value := float(number)):
            raise InputError(f"{number[:MOST_DIGITS]} is no finite number")
        return value

    def whole(number: str) -> int:
        if len(number) > MOST_DIGITS:
            raise InputError(f"a number has {len(number)} digits")
        return int(number)

    try:
        return json.loads(
            raw.decode("utf-8"), object_pairs_hook=unique, parse_constant=finite, parse_float=finite, parse_int=whole
        )
    except RecursionError as error:
        raise InputError(f"{name} is nested deeper than any file of deepspot. Get a new copy of the bundle.") from error
    except ValueError as error:  # what is no JSON, no UTF-8, or refused above
        raise InputError(f"{name} is no readable JSON ({error}). Get a new copy of the bundle.") from error


def parse_content(raw: bytes, name: str) -> dict[str, Any]:
    """Parse a card of a known format, whatever its fields say; `name` is the file."""
    if raw.count(b",") > MOST_VALUES:
        raise InputError(f"{name} lists more than {MOST_VALUES:,} values, which no card does. Get a new copy.")
    content = strict_json(raw, name)
    found = content.get("format") if isinstance(content, dict) else None
    if type(found) is int and found > FORMAT:
        raise InputError(
            f"{name} has format {found}, of a later version: this one reads format {FORMAT}. Update deepspot."
        )
    if type(found) is not int or found != FORMAT:  # True is 1, but no format
        raise InputError(
            f"{name} has format {short(found)}, and only format {FORMAT} is known. Get a new copy of the bundle."
        )
    return content


def parse_card(content: dict[str, Any], name: str) -> ModelCard:
    """Check all that a card says, and that the model it describes is no larger than any real one."""
    from pydantic import ValidationError

    unknown = sorted(set(content) - set(ModelCard.model_fields) - {"licence"})
    if unknown:
        raise InputError(
            f"{name} does not describe a model: unknown fields {short(unknown)}. A newer deepspot may know them."
        )
    try:
        card = ModelCard.model_validate(content)
    except ValidationError as error:
        wrong = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}".lstrip(": ") for e in error.errors(include_input=False)]
        raise InputError(
            f"{name} does not describe a model ({'; '.join(wrong[:3])[:LONGEST_MESSAGE]}). Get a new copy."
        ) from error
    expected_shapes(card, name)
    return card


def card_hash(content: dict[str, Any]) -> str:
    """Hash of a card without that of its weights, which are not there yet when it is written into their file."""
    # Of what is written, not of what is read: a later version may add fields with defaults.
    kept = {key: value for key, value in content.items() if key != "sha256"}
    return hashlib.sha256(json.dumps(kept, sort_keys=True).encode() + b"\0").hexdigest()


def expected_shapes(card: ModelCard, name: str) -> dict[str, tuple[int, ...]]:
    """Name and shape of every tensor that a model needs, but for the two of novelty, which it may do without.

    A model that is larger than any real one is refused; `name` is the card's file.
    """
    network, genes, weight = card.network, len(card.genes), 1.0 if card.gate is None else card.gate.weight
    sets = len(network.context)
    count = 2 * network.members * (network.n_phi + network.n_rho)
    if count > MOST_TENSORS:
        raise InputError(f"{name} describes a network of {count:,} parts, more than {MOST_TENSORS:,}. Get a new copy.")
    # ρ was collapsed to one layer when the model was fitted.
    member: dict[str, tuple[int, ...]] = {"rho.0.weight": (genes, sets * network.width), "rho.0.bias": (genes,)}
    for phi in range(network.n_phi):
        member |= {f"phi.{phi}.weight": (network.width, card.dim), f"phi.{phi}.bias": (network.width,)}
    members = {f"members.{i}.{part}": shape for i in range(network.members) for part, shape in member.items()}
    ridge: dict[str, tuple[int, ...]] = {"ridge.coef": (sets * card.dim, genes)}
    ridge |= {f"ridge.{part}": (genes,) for part in ("intercept", "mean", "std")}
    numbers = sum(map(prod, [*members.values(), *ridge.values(), (MOST_CORE, card.dim)]))
    if numbers > MOST_NUMBERS:
        raise InputError(
            f"{name} describes a model of {numbers:,} numbers, more than {MOST_NUMBERS:,}. Get a new copy."
        )
    used = (members if weight > 0 else {}) | (ridge if weight < 1 else {})
    return {"scaler.mean": (genes,), "scaler.std": (genes,)} | used
