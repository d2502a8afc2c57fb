from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from deepspot._core.validate import check_count
from deepspot._features.bags import Bags

from .base import CellModel

if TYPE_CHECKING:
    from .deepspot2cell_network import DeepSpot2CellNetwork


@dataclass(eq=False, kw_only=True, repr=False)
class DeepSpot2Cell(CellModel):
    """DeepSpot2Cell: a deep set over the cells of a spot, which learns from spots and also predicts cells.

    The sub-spots of the bags are the cells, and the neighbors the spot tiles around. φ of a cell, φ of its spot tile
    and the mean φ of the neighbors are joined and added up over the cells of the spot, so that spot and neighbors count
    once for every cell. ρ maps the sum to genes. A cell is predicted as if it were the only one of its spot: the
    predictions of the cells do not add up to that of their spot. See :class:`CellSum` for a model in which they do.

    Parameters
    ----------
    n_ensemble
        Number of φ of cells, of φ of spot tiles and of ρ. φ are combined by their median, the ρ by their mean.
    width
        Output dimension of φ.
    dropout
        Dropout rate in φ and ρ; that of the output is always 0.1.
    lr, weight_decay, spots_per_step
        Learning rate and weight decay of AdamW, and number of spots in each of its steps.
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
    Nonchev, Manaiev et al., bioRxiv 2025.09.23.678121. The network agrees with the published code, and the defaults are
    those of the code. Its training fails: the optimizer reads a learning rate that is never set. It stops by the loss
    on held-out spots. Here embeddings are standardized and clipped, and the last layer starts at the mean expression,
    because a gene whose output starts below 0 everywhere is not learned.

    Examples
    --------
    >>> import numpy as np
    >>> import deepspot as ds
    >>> from scipy.sparse import csr_matrix
    >>> rng = np.random.default_rng(0)
    >>> cells = rng.normal(size=(40, 3, 4)).astype("float32")
    >>> bags = ds.models.Bags(cells.mean(axis=1), cells, csr_matrix((40, 40), dtype=bool))
    >>> model = ds.models.DeepSpot2Cell(width=8, n_ensemble=2, epochs=2).fit(bags, np.abs(bags.spot[:, :2]))
    >>> model.predict(bags).shape, model.predict_cells(bags).shape
    ((40, 2), (40, 3, 2))
    """

    system = "deepspot2cell"
    has_cells = True
    n_ensemble: int = 10
    spots_per_step: int = 4
    max_epochs: int = 50
    network: DeepSpot2CellNetwork = field(init=False, repr=False)

    def predict_cells(self, bags: Bags, *, device: str | None = None, rows: np.ndarray | None = None) -> np.ndarray:
        """Predict log-expression (n, s, genes) of the cells of all spots or of `rows`, NaN where there is none.

        The scale is that of spots: a cell is predicted as a spot with this cell only.
        """
        return self._unpacked(self.expression_of_cells(bags, device=device, rows=rows), bags, rows)

    def expression_of_cells(
        self, bags: Bags, *, device: str | None = None, rows: np.ndarray | None = None
    ) -> np.ndarray:
        """Predict log-expression (m, genes) of the cells that exist, spot by spot, on a scale like that of spots."""
        network = self.network
        parts = self._apply(lambda batch, tiles: network.cells(batch, tiles).cpu().numpy(), bags, rows, device)
        return np.concatenate(parts)

    def check_parameters(self) -> None:
        """Raise if a parameter is out of range."""
        super().check_parameters()
        check_count(self.n_ensemble, "n_ensemble")
