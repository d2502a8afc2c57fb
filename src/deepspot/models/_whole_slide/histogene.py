from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from .base import WholeSlide

if TYPE_CHECKING:
    from torch import Tensor

    from .part import SlideNetwork, SlidePart


@dataclass(eq=False, kw_only=True)
class HisToGene(WholeSlide):
    """HisToGene: a transformer over the spots of a slide.

    A spot is a linear embedding of its tile, or of its frozen embedding, plus learned vectors of its column and row.
    The loss is the mean squared error, and a slide is a batch.

    Parameters
    ----------
    inputs
        ``"embeddings"`` learns from `bags.spot`, standardized and clipped to three standard deviations, so that systems
        differ in their architecture only. ``"tiles"`` learns from the pixels of `bags.tiles`, as published (112 px).
    dim
        Width of a token.
    layers
        Number of transformer blocks.
    heads
        Number of attention heads, each of width 64.
    dropout
        Dropout rate.
    n_pos
        Number of columns, and of rows, that have a learned vector. Positions are computed from those in µm, relative to
        the first column and row, so that they do not depend on where a section is on its array.
    max_spots
        A slide with more spots, or with more than `n_pos` columns or rows, is divided into rectangular parts, each of
        which is seen alone. This limits the memory.
    lr, epochs
        Learning rate of Adam, and number of epochs.
    seed
        Random seed; the same seed gives the same weights on the same machine. By default from the settings.
    device
        Device to compute on; by default from the settings, else CUDA, MPS or CPU.

    Attributes
    ----------
    network
        The trained torch module.
    scaler
        Mean and standard deviation of the embeddings of the training spots.

    References
    ----------
    Pang, Su and Li, bioRxiv 2021.11.28.470212. The defaults are those of its experiments. There, positions are absolute
    columns and rows, and tiles near the border of the image fail. The last layer here starts at the mean expression.

    Examples
    --------
    >>> import deepspot as ds
    >>> slides = ds.datasets.toy(n_patients=2, n_rows=3, n_cols=4)
    >>> small = {"dim": [32], "layers": [1], "heads": [2], "lr": [1e-3], "epochs": [2]}
    >>> cv = ds.models.cross_validate(
    ...     slides, patient_key="patient", models=["histogene"], grid={"histogene": small}, genes=20
    ... )
    >>> "histogene" in cv.summary().index
    True
    """

    dim: int = 1024
    layers: int = 8
    heads: int = 16
    dropout: float = 0.1

    def _layout(self, tiles: Tensor) -> Tensor:
        return tiles.transpose(1, 2).flatten(1)

    def _make(self, part: SlidePart, mean: Tensor) -> SlideNetwork:
        from .histogene_network import HisToGeneNetwork

        return HisToGeneNetwork(
            part.inputs.shape[1],
            mean,
            dim=self.dim,
            layers=self.layers,
            heads=self.heads,
            n_pos=self.n_pos,
            dropout=self.dropout,
        )
