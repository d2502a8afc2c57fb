"""Images of figures for a page, and the charts of the report."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from io import BytesIO
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot.pl._style import BLUE, ORANGE

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes

    from .contents import SlideContents

DPI = 110
JPEG_QUALITY = 85
NOT_DRAWN = "Not drawn, because many {} are unlike the training tissue."


def to_png(ax: Axes | Sequence[Axes]) -> bytes:
    """Return the figure of axes as PNG, and close it."""
    # A tight box keeps legends next to a figure, and aligns figures with the text.
    return _save(ax, format="png", bbox_inches="tight", pad_inches=0.05, metadata={"Software": None})


def to_jpeg(ax: Axes | Sequence[Axes]) -> bytes:
    """Return the figure of axes as JPEG, which is a quarter of PNG if it shows tissue, and close it."""
    return _save(ax, format="jpeg", pil_kwargs={"quality": JPEG_QUALITY, "subsampling": 0})


def _save(ax: Axes | Sequence[Axes], **options: Any) -> bytes:
    import matplotlib.pyplot as plt

    first = ax[0] if isinstance(ax, Sequence) else ax
    figure: Any = first.get_figure(root=True)
    content = BytesIO()
    try:
        figure.savefig(content, dpi=DPI, **options)
    finally:
        plt.close(figure)
    return content.getvalue()


def try_drawing(
    slide: SlideContents,
    part: str,
    draw: Callable[..., Axes | Sequence[Axes]],
    *args: Any,
    to_image: Callable[[Axes | Sequence[Axes]], bytes] = to_png,
    **options: Any,
) -> bytes | None:
    """Draw a figure; note it in `slide.missing` if the input does not allow it."""
    import matplotlib.pyplot as plt

    before = set(plt.get_fignums())
    try:
        return to_image(draw(*args, **options))
    except (KeyError, ValueError) as error:
        for number in set(plt.get_fignums()) - before:
            plt.close(number)
        slide.missing[part] = str(error.args[0] if error.args else error)
        return None


def untitled(draw: Callable[..., Axes | Sequence[Axes]], *args: Any, **options: Any) -> Axes | Sequence[Axes]:
    """Draw a figure without the title of its axes or, if it has one, of the figure: it is in the text of the page."""
    drawn = draw(*args, **options)
    axes = drawn if isinstance(drawn, Sequence) else [drawn]
    figure: Any = axes[0].get_figure(root=True)
    if figure.get_suptitle():
        figure.suptitle("")
        return drawn
    for ax in axes:
        for side in ("left", "center"):
            ax.set_title("", loc=side)
    return drawn


def draw_r(r: Mapping[str, pd.Series]) -> Axes:
    """Draw the distribution over genes of one or two named series of r."""
    import matplotlib.pyplot as plt

    _, ax = plt.subplots(figsize=(5.6, 3.2), layout="constrained")
    every = np.concatenate(list(r.values()))
    edges = [float(edge) for edge in np.linspace(min(0.0, every.min()), 1.0, 31)]
    for (name, values), color in zip(r.items(), (BLUE, ORANGE), strict=False):
        label = f"{name}, median {np.median(values):.2f}"
        ax.hist(values, bins=edges, histtype="step", linewidth=1.8, color=color, label=label)
        ax.axvline(float(np.median(values)), color=color, linewidth=1, linestyle="--")
    ax.axvline(0, color="0.7", linewidth=0.8, zorder=0)
    ax.set(xlabel="Pearson r over spots", ylabel="genes")
    ax.spines[["top", "right"]].set_visible(False)
    # Above the axes, so that it hides no bars.
    ax.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1))
    return ax
