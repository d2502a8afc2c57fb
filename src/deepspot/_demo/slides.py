"""Which slides the demo runs on: real sections where they can be had, else synthetic ones."""

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
    """Slides to learn from, by name, and one to predict, which no training sees; `genes` is what to learn."""

    train: dict[str, SpatialData]
    name: str
    test: SpatialData
    genes: int | list[str]
    real: bool  # whether these are measured slides
    why_toy: str = ""

    @property
    def n_spots(self) -> int:
        """How many spots the predicted slide has."""
        return len(self.test.shapes["spots"])


@dataclass(frozen=True)
class ToySetup:
    """How large the synthetic slides are, and how much work goes into them."""

    n_patients: int = 4
    n_rows: int = 5
    n_cols: int = 7
    n_genes: int = 60
    encoder: Encoder | None = None
    network: dict[str, Any] = field(default_factory=lambda: {"members": 3})
    training: dict[str, Any] = field(default_factory=lambda: {"max_epochs": 20})


def load_slides(*, toy: bool, seed: int, setup: ToySetup) -> Slides:
    """Read the real sections, or make toy slides when asked to or when there are no real ones."""
    if toy:
        return toy_slides(seed, setup, why="they were asked for with --toy")
    try:
        return real_slides()
    except (OSError, ValueError) as error:  # no network; or one that answers with something else
        logger.warning("No real sections, so the demo runs on synthetic slides. %s", error)
        return toy_slides(seed, setup, why=f"the real sections could not be had: {error}")


def real_slides() -> Slides:
    """Three sections of one patient of the HER2ST data; two to learn from."""
    from deepspot.datasets import her2st

    sections = {name: her2st(name) for name in track((*TRAIN, TEST), "Reading", unit="section")}
    return Slides({name: sections[name] for name in TRAIN}, TEST, sections[TEST], N_GENES, real=True)


def toy_slides(seed: int, setup: ToySetup, *, why: str) -> Slides:
    """Slides of several synthetic patients; the last patient is not learned from."""
    from deepspot.datasets import toy

    slides = toy(setup.n_patients, n_rows=setup.n_rows, n_cols=setup.n_cols, n_genes=setup.n_genes, seed=seed)
    name, test = slides.popitem()
    # All genes, those too that follow nothing in the image: a sound model predicts the latter at about r = 0.
    return Slides(slides, name, test, list(test.tables["table"].var_names), real=False, why_toy=why)
