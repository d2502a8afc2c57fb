from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from deepspot._core.keys import key_in
from deepspot._core.validate import check_count

from .base import CellModel

if TYPE_CHECKING:
    from .deepcell_network import DeepCellNetwork


@dataclass(eq=False, kw_only=True, repr=False)
class DeepCell(CellModel):
    """DeepCell: the network of DeepSpot on measured cells and their neighbors.

    A cell is a spot of the bags: `bags.spot` is the embedding of its tile, and `bags.neighbors` are the cells next to
    it. It learns from measured cells, as those of Xenium. φ is shared by the cell and its neighbors.

    Parameters
    ----------
    neighbors
        Whether the model sees the neighbors of a cell, too.
    aggregation
        Pooling of φ over the neighbors: ``"max"``, ``"mean"`` or ``"sum"``.
    loss
        ``"mse"``, ``"l1"``, ``"huber"``, ``"cos"``, ``"pearson"``, the sums ``"mse_cos"``, ``"l1_cos"``,
        ``"huber_cos"`` and ``"mse_pearson"``, or ``"poisson"``, on standardized genes. As published, the cosine is over
        the cells of a batch, ``"mse_pearson"`` adds a tenth of the cosine, and ``"poisson"`` exponentiates the
        prediction twice, so that it diverges easily.
    n_ensemble
        Number of φ, combined by their median, and of ρ, combined by their mean.
    width
        Output dimension of φ.
    dropout
        Dropout rate in φ and ρ; that of the output is always 0.1.
    lr, weight_decay, spots_per_step
        Learning rate and weight decay of AdamW, and number of cells in each of its steps.
    epochs
        Number of epochs with one patient.
    max_epochs, patience
        With several patients, a fifth of them is held out to find the number of epochs: the highest number, and the
        number of epochs without a higher r after which the search ends.
    seed
        Random seed; the same seed gives the same weights on the same machine. By default from the settings.
    device
        Device to compute on; by default from the settings, else CUDA, MPS or CPU.

    Attributes
    ----------
    network
        The trained torch module.
    n_epochs
        Number of epochs that it was trained for.

    References
    ----------
    Nonchev et al., medRxiv 2025.02.09.25321567v2, and its code. The network and the losses agree with the code;
    `epochs` and `spots_per_step` are those of its tutorial. There, embeddings of zeros fill up the neighbors of a cell,
    neighbors are the 44 nearest cells in training and those within 45 pixels in prediction, x and y of the crops are
    exchanged in prediction, and the training stops by the loss on the training cells. Here the neighbors are those of
    the bags, a cell may have none, and embeddings are standardized and clipped.

    Examples
    --------
    >>> import numpy as np
    >>> import deepspot as ds
    >>> from scipy.sparse import csr_matrix
    >>> cell = np.random.default_rng(0).normal(size=(40, 4)).astype("float32")
    >>> bags = ds.models.Bags(cell, None, csr_matrix((40, 40), dtype=bool))
    >>> ds.models.DeepCell(width=16, n_ensemble=2, epochs=2).fit(bags, cell[:, :2]).predict(bags).shape
    (40, 2)
    """

    system = "deepcell"
    spots_are_cells = True
    neighbors: bool = True
    aggregation: Literal["max", "mean", "sum"] = "max"
    loss: str = "mse"
    n_ensemble: int = 10
    width: int = 1024
    dropout: float = 0.2
    spots_per_step: int = 1024
    epochs: int = 10
    network: DeepCellNetwork = field(init=False, repr=False)

    def check_parameters(self) -> None:
        """Raise if a parameter is out of range."""
        from .deepcell_network import LOSSES

        super().check_parameters()
        check_count(self.n_ensemble, "n_ensemble")
        key_in(self.loss, LOSSES, "loss")
        key_in(self.aggregation, ("max", "mean", "sum"), "aggregation")
