"""Slides of the demo: real sections if available, else synthetic slides."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from deepspot._core.logging import logger, track

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from deepspot.encoders import Encoder

TRAIN, TEST = ("C2", "C3"), "C5"
N_GENES = 200


@dataclass(frozen=True)
class Slides:
    """Training slides by name, one test slide, and the genes to train on (`genes`)."""

    train: dict[str, SpatialData]
    name: str
    test: SpatialData
    genes: int | list[str]
    real: bool
    why_toy: str = ""

    @property
    def n_spots(self) -> int:
        """Number of spots of the test slide."""
        return len(self.test.shapes["spots"])


@dataclass(frozen=True)
class ToySetup:
    """Size of the synthetic slides, and options of the training on them."""

    n_patients: int = 4
    n_rows: int = 5
    n_cols: int = 7
    n_genes: int = 60
    encoder: Encoder | None = None
    network: dict[str, Any] = field(default_factory=lambda: {"members": 3})
    training: dict[str, Any] = field(default_factory=lambda: {"max_epochs": 20})


def load_slides(*, toy: bool, seed: int, setup: ToySetup) -> Slides:
    """Read three HER2ST sections of one patient; make toy slides if requested or if the sections are unavailable."""
    from deepspot import datasets

    why = "of the option --toy."
    if not toy:
        try:
            sections = {name: datasets.her2st(name) for name in track((*TRAIN, TEST), "Reading", unit="section")}
        except (OSError, ValueError) as error:  # ValueError: unexpected content from the network
            logger.warning("The real sections are not available; the demo uses synthetic slides. %s", error)
            why = f"the real sections are not available: {error}"
        else:
            return Slides({name: sections[name] for name in TRAIN}, TEST, sections[TEST], N_GENES, real=True)
    slides = datasets.toy(setup.n_patients, n_rows=setup.n_rows, n_cols=setup.n_cols, n_genes=setup.n_genes, seed=seed)
    name, test = slides.popitem()
    # All genes, including those independent of the image, for which a valid model has r of about 0.
    return Slides(slides, name, test, list(test.tables["table"].var_names), real=False, why_toy=why)
