"""What is to be done with a slide, and what became of it: small frozen objects that can be sent to a worker."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from deepspot.encoders import Encoder

Layout = Literal["square", "hexagonal"]
Tissue = Literal["brightness", "saturation"]


@dataclass(frozen=True)
class Recipe:
    """All that results depend on, alike for all slides.

    Attributes
    ----------
    model
        Fingerprint of the model, which covers its encoder.
    diameter_um, distance_um, layout, tissue
        The spots; see :func:`deepspot.pp.spots`.
    half
        Whether expression is rounded to the precision of float16.
    """

    model: str
    diameter_um: float
    distance_um: float
    layout: Layout
    tissue: Tissue | None
    half: bool


@dataclass(frozen=True)
class Job:
    """A slide to be predicted.

    Attributes
    ----------
    slide, path, mpp
        Its name, its file, and its µm per pixel if the manifest has to say that.
    out
        Folder of the cohort.
    recipe
        How.
    encoder, device, batch_size
        As in :func:`deepspot.tl.predict`; results do not depend on them.
    """

    slide: str
    path: str
    mpp: float | None
    out: Path
    recipe: Recipe
    encoder: str | Encoder | None = None
    device: str | None = None
    batch_size: int | None = None

    def made_by(self) -> dict[str, Any]:
        """What a result has to have been made by, so that it is the one of this job."""
        return {**asdict(self.recipe), "mpp": self.mpp}


@dataclass(frozen=True)
class Outcome:
    """What became of a slide.

    Attributes
    ----------
    slide
        Its name.
    seconds
        How long it took.
    spots, ood_share
        Number of spots, and the share of them that is unlike the training; None if it failed.
    error
        Kind and text of what went wrong, in one line; None if nothing did.
    """

    slide: str
    seconds: float | None
    spots: int | None = None
    ood_share: float | None = None
    error: str | None = None

    @property
    def done(self) -> bool:
        """Whether there is a result."""
        return self.error is None


def one_line(error: BaseException) -> str:
    """Kind and text of an error in one line."""
    # Python quotes the text of a KeyError.
    text = error.args[0] if isinstance(error, KeyError) and len(error.args) == 1 else error
    text = " ".join(" ".join([str(text), *getattr(error, "__notes__", [])]).split())
    if not text and isinstance(error, MemoryError):
        text = "not enough memory"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
