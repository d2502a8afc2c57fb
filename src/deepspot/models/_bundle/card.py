"""The card of a model, with the limits of what a card can state."""

from __future__ import annotations

from math import prod
from typing import Annotated, Literal, Self

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, model_validator

from deepspot._core.keys import SCALE, is_label
from deepspot._core.logging import count_of
from deepspot._spatial.geometry import Geometry
from deepspot.encoders._card import EncoderCard
from deepspot.errors import InputError
from deepspot.models._cells.config import CellNetworkConfig
from deepspot.models._confidence.gate import Gate
from deepspot.models._confidence.reliability import Reliability
from deepspot.models._network.config import PRESETS, Context, NetworkConfig, TrainingConfig

# Spots of a training slide that the card can recognize.
HASHES = 16
# Numbers and tensors of a model: 4 GB of weights. The largest model of the paper has 16 million numbers.
MOST_NUMBERS, MOST_TENSORS = 2**30, 10_000
# Training spots of the OOD detector.
MOST_CORE = 512
# Limits of the geometry: larger tiles and bags would fill the memory at prediction.
LEAST_UM, MOST_UM, MOST_PX, MOST_PARTS = 0.01, 1e5, 10_000, 1_000
# Fields of the reliability with one value per gene, and their largest absolute value (float32 overflows above 3e38).
BY_GENE = dict.fromkeys(("r", "r_low", "r_high", "r_beyond_axis", "r_ceiling"), 1.0) | dict.fromkeys(
    ("r_n", "half_width", "dispersion", "rate_level"), 1e9
)


class TrainingSlide(BaseModel):
    """A slide of the training set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    slide: str
    patient: str
    spots: int
    # Of the counts of some spots: they show whether the model is evaluated on a slide that it learned from.
    hashes: list[int] = Field(default_factory=list, max_length=HASHES)
    # Of the pixels of the image level that was embedded. Empty for models of earlier versions.
    image: str = Field(default="", pattern="^([0-9a-f]{16})?$")


class Card(BaseModel):
    """Description of any model: what it takes and predicts, and how accurate it is.

    Attributes
    ----------
    name, note, tissue, license
        Free text.
    genes
        Names of the genes, in the order of the output.
    scale
        Scale of the prediction.
    depth
        Genes whose counts were summed to normalize a spot; empty if the scale is that of raw counts.
    dim
        Length of the embeddings.
    geometry, encoder, encoder_fingerprint
        Tiles and neighbors, and the encoder; None for a model that was fitted to arrays.
    preset
        How the model was made.
    slides
        Training slides.
    gate
        Gain of the network over tuned ridge on held-out patients, and the predictor: network, ridge or a blend. None
        if the gate was off.
    reliability
        Expected r of every gene, and intervals.
    versions
        Versions of the libraries at training.
    calibrated_on
        Slides of :func:`deepspot.models.calibrate`, on which the reliability was measured. Empty: in training.
    """

    # Bundles of the first release spell the license "licence".
    model_config = ConfigDict(extra="forbid", validate_by_name=True)

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
    preset: str
    slides: list[TrainingSlide] = Field(default_factory=list, max_length=10_000)
    gate: Gate | None = None
    reliability: Reliability | None = None
    # Keys of `uns` of a prediction, which cannot be written with a slash.
    versions: dict[Annotated[str, Field(pattern=r"^\w[\w.-]{0,99}$")], str] = Field(
        default_factory=dict, max_length=100
    )
    calibrated_on: list[TrainingSlide] = Field(default_factory=list, max_length=10_000)

    @model_validator(mode="after")
    def _check_consistency(self) -> Self:
        if len(set(self.genes)) < len(self.genes) or not all(self.genes):
            raise InputError("`genes` must be unique")
        if self.encoder is not None and self.encoder.dim != self.dim:
            raise InputError(
                f"encoder {self.encoder.name!r} makes embeddings of length {self.encoder.dim}, but the model takes "
                f"{self.dim}"
            )
        if self.gate is not None and not 0 <= self.gate.weight <= 1:
            raise InputError(f"the share of the network is {self.gate.weight}, not between 0 and 1")
        for field, most in BY_GENE.items() if self.reliability else ():
            values = getattr(self.reliability, field)
            if values is not None and len(values) != len(self.genes):
                raise InputError(f"`reliability.{field}` has {len(values)} genes instead of {len(self.genes)}")
            if any(value is not None and abs(value) > most for value in values or ()):
                raise InputError(f"`reliability.{field}` holds numbers beyond {most:g}")
        return self

    @model_validator(mode="after")
    def _check_sizes(self) -> Self:
        px = 0 if self.encoder is None else max(self.encoder.input_px, self.encoder.resize_px or 0)
        if self.geometry is not None:
            tile, rule = self.geometry.tile, self.geometry.neighbors
            px = max(px, tile.input_px)
            large = (
                max(tile.tile_um, rule.reach, rule.pitch_um or 0) > MOST_UM or max(tile.grid**2, rule.cap) > MOST_PARTS
            )
            if large or tile.tile_um < LEAST_UM:
                raise InputError(f"`geometry` is not a geometry of spots: {self.geometry}")
        if px > MOST_PX:
            raise InputError(f"tiles of {px} px are larger than the limit of {MOST_PX} px")
        return self

    @model_validator(mode="after")
    def _check_text(self) -> Self:
        """Refuse control characters in short text, which is written to logs, terminals and tables."""
        nuclei = "" if self.geometry is None else self.geometry.tile.nuclei_key or ""
        for text in (self.name, self.tissue, self.license, self.scale, self.depth, nuclei, *self.genes):
            if not is_label(text):
                raise InputError(f"{text[:20]!r}… is too long for a name, or holds control characters")
        return self

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.name!r}: {len(self.genes):,} genes"

    def __str__(self) -> str:
        return repr(self)

    def learned_from(self, image: str) -> str:
        """Return whether a training slide has the image with this hash: yes, no or unknown."""
        known = {slide.image for slide in self.slides}
        return "yes" if image in known - {""} else "unknown" if "" in known or not known else "no"


class StoredCard(Card):
    """Description of a model that is stored in a bundle.

    Attributes
    ----------
    format
        Version of the format.
    epochs, seed
        Training.
    sha256
        Hash of the weights file.
    """

    format: Literal[1] = 1
    network: BaseModel
    epochs: int = 0
    seed: int
    sha256: str = ""

    @property
    def context(self) -> tuple[Context, ...]:
        """Sets of the bags that the model uses."""
        raise NotImplementedError

    @property
    def summary(self) -> str:
        """Name, genes, encoder, tiles, preset, training slides and license in one line."""
        patients = {slide.patient for slide in self.slides}
        encoder = self.encoder.name if self.encoder else f"{self.dim} features"
        tile = f", tiles of {self.geometry.tile.tile_um:g} µm" if self.geometry else ""
        slides = (
            f"{count_of(len(self.slides), 'slide')} of {count_of(len(patients), 'patient')}"
            if patients
            else "unknown slides"
        )
        return (
            f"{self.name!r}: {len(self.genes):,} genes from {encoder}{tile}; preset {self.preset!r}, trained on "
            f"{slides}; license {self.license}"
        )

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return names and shapes of the tensors of the model, without the optional ones; see `expected_shapes`."""
        raise NotImplementedError

    def to_markdown(self, where: str = "path/of/the/model") -> str:
        """Return the card in Markdown: the README of a repository on Hugging Face, with metadata at the top.

        Parameters
        ----------
        where
            Argument of `ds.models.load` in the example.

        Returns
        -------
        Markdown. Text of the card is escaped.

        Examples
        --------
        >>> import deepspot as ds
        >>> "license: cc-by-4.0" in ds.models.load().card.to_markdown("her2st")
        True
        """
        from .page import front_matter

        return front_matter(self.model_dump()) + self._page(where)

    def __repr__(self) -> str:
        return f"{type(self).__name__} {self.summary}"

    def __str__(self) -> str:
        return self._page("path/of/the/model")

    def _repr_markdown_(self) -> str:
        return str(self)

    def _page(self, where: str) -> str:
        from .page import page

        return page(self.model_dump(), self.context, "" if self.gate is None else str(self.gate), where)


class ModelCard(StoredCard):
    """Description of a model of this package, as it is stored in a bundle.

    Attributes
    ----------
    format
        Version of the format.
    network, training, epochs, seed
        Architecture and training.
    sha256
        Hash of the weights file.
    name, note, tissue, license
        Free text.
    genes, scale, depth, dim
        Genes in the order of the output, their scale, the genes whose counts were summed to normalize a spot (empty on
        the scale of raw counts), and the length of the embeddings.
    geometry, encoder, encoder_fingerprint
        Tiles and neighbors, and the encoder; None for a model that was fitted to arrays.
    preset, slides, versions
        How the model was made, from which slides, and with which versions of the libraries.
    gate, reliability, calibrated_on
        Gain of the network over tuned ridge (None if the gate was off); expected r of every gene and intervals; and the
        slides of :func:`deepspot.models.calibrate` on which they were measured, if not in training.
    """

    network: NetworkConfig
    training: TrainingConfig

    @model_validator(mode="after")
    def _check_preset(self) -> Self:
        if self.preset not in PRESETS:
            raise InputError(f"`preset` must be one of {list(PRESETS)}, got {self.preset!r}")
        return self

    @property
    def context(self) -> tuple[Context, ...]:
        """Sets of the bags that the model uses."""
        return self.network.context

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return names and shapes of the tensors of the model, without the optional ones; see `expected_shapes`."""
        network, genes, weight = self.network, len(self.genes), 1.0 if self.gate is None else self.gate.weight
        sets = len(network.context)
        count = 2 * network.members * (network.n_phi + network.n_rho)
        if count > MOST_TENSORS:
            raise InputError(f"describes a network of {count:,} parts, more than {MOST_TENSORS:,}")
        # Fitted models have a single, collapsed ρ.
        member: dict[str, tuple[int, ...]] = {"rho.0.weight": (genes, sets * network.width), "rho.0.bias": (genes,)}
        for phi in range(network.n_phi):
            member |= {f"phi.{phi}.weight": (network.width, self.dim), f"phi.{phi}.bias": (network.width,)}
        members = {f"members.{i}.{part}": shape for i in range(network.members) for part, shape in member.items()}
        ridge: dict[str, tuple[int, ...]] = {"ridge.coef": (sets * self.dim, genes)}
        ridge |= {f"ridge.{part}": (genes,) for part in ("intercept", "mean", "std")}
        check_numbers(sum(map(prod, [*members.values(), *ridge.values(), (MOST_CORE, self.dim)])))
        used = (members if weight > 0 else {}) | (ridge if weight < 1 else {})
        return {"scaler.mean": (genes,), "scaler.std": (genes,)} | used


class CellModelCard(StoredCard):
    """Description of a model of cells, as it is stored in a bundle.

    Attributes
    ----------
    network
        Architecture.
    training
        Parameters of the training by name.
    """

    network: CellNetworkConfig
    training: dict[str, float | int | str] = Field(default_factory=dict, max_length=20)

    @model_validator(mode="after")
    def _check_preset(self) -> Self:
        if self.preset != self.network.system:
            raise InputError(f"`preset` must be that of the network, {self.network.system!r}, got {self.preset!r}")
        return self

    @property
    def context(self) -> tuple[Context, ...]:
        """Sets of the bags that the model uses."""
        return self.network.context

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Return names and shapes of the tensors of the model, without the optional ones; see `expected_shapes`."""
        from deepspot.models._cells.build import shapes

        network, widest = self.network, max(self.dim, 3 * self.network.width)
        check_numbers(network.n_ensemble * widest * (2 * widest + len(self.genes)))  # before anything is built
        return {f"network.{name}": shape for name, shape in shapes(network, self.dim, len(self.genes)).items()}


def check_numbers(numbers: int) -> None:
    """Raise if a model is larger than the limit."""
    if numbers > MOST_NUMBERS:
        raise InputError(f"describes a model of {numbers:,} numbers, more than {MOST_NUMBERS:,}")


def versions() -> dict[str, str]:
    """Return the versions of the libraries that train a model."""
    from importlib.metadata import version

    return {name: version(name) for name in ("deepspot", "torch", "lightning", "scanpy", "spatialdata", "timm")}
