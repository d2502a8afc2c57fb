from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from deepspot._core.keys import key_in
from deepspot._features.bags import Bags
from deepspot._stats.normalize import SCALES
from deepspot.errors import InputError
from deepspot.models._inputs import which_rows

from .base import CellModel

if TYPE_CHECKING:
    from torch import Tensor

    from .cell_sum_network import CellSumNetwork


@dataclass(eq=False, kw_only=True, repr=False)
class CellSum(CellModel):
    """Model in which a spot is the sum of its cells and a background, on the scale of rates.

    It learns from spots, whose sub-spots in the bags are the cells, and predicts cells that add up to their spot. The
    rate of a spot, which is `expm1` of its log-expression, is the rate of the background plus the rates of all cells:

    - background: softplus(ρ_b([φ(spot), mean of φ(neighbors)]))
    - cell: softplus(ρ_c([φ'(cell), φ(spot), mean of φ(neighbors)]))

    φ and φ' are linear layers with ReLU, ρ linear layers. All rates are in units of the mean expression of the gene;
    the background starts at a tenth of it. On scales per total counts, which do not grow with the number of cells, the
    rate of a cell is divided by the number of cells of its spot, and a spot without cells is all background.

    What the spots do not determine, the model cannot know: how a gene is divided among the cells of a spot is learned
    only from spots with other cells. A gene that depends on the surroundings is divided evenly.

    Parameters
    ----------
    scale
        Scale of the targets, as `normalize` of :class:`deepspot.models.SlideKeys`: ``"log1p_10k"``, ``"log1p_cpm"`` or
        ``"log1p_counts"``. If :func:`deepspot.models.cross_validate` varies `normalize`, vary `scale` with it.
    width
        Output dimension of φ.
    dropout
        Dropout rate in φ and ρ.
    lr, weight_decay, spots_per_step
        Learning rate and weight decay of AdamW, and number of spots in each of its steps. The loss is the mean squared
        error of log-expression, in units of the standard deviation of each gene.
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

    Examples
    --------
    >>> import numpy as np
    >>> import deepspot as ds
    >>> from scipy.sparse import csr_matrix
    >>> rng = np.random.default_rng(0)
    >>> cells = rng.normal(size=(40, 3, 4)).astype("float32")
    >>> bags = ds.models.Bags(cells.mean(axis=1), cells, csr_matrix((40, 40), dtype=bool))
    >>> model = ds.models.CellSum(width=8, epochs=2).fit(bags, np.abs(bags.spot[:, :2]))
    >>> cells, background = model.predict_cells(bags)
    >>> cells.shape, background.shape
    ((40, 3, 2), (40, 2))
    >>> bool(np.allclose(cells.sum(axis=1) + background, np.expm1(model.predict(bags)), rtol=1e-4))
    True
    """

    system = "cell_sum"
    has_cells = True
    scale: str = "log1p_10k"
    lr: float = 1e-3
    network: CellSumNetwork = field(init=False, repr=False)

    def predict_cells(
        self, bags: Bags, *, device: str | None = None, rows: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Predict the rates of cells and backgrounds, of all spots or of `rows`.

        Returns
        -------
        Cells (n, s, genes), NaN where there is none, and backgrounds (n, genes), in float32. Both are parts of the rate
        of the spot, such as counts per 10,000 counts of the spot. They add up to `expm1` of :meth:`predict`.
        """
        cells, background = self._rates(bags, rows, device)
        return self._unpacked(cells, bags, rows), background

    def expression_of_cells(
        self, bags: Bags, *, device: str | None = None, rows: np.ndarray | None = None
    ) -> np.ndarray:
        """Predict log-expression (m, genes) of the cells that exist, spot by spot, on a scale like that of spots.

        On scales per total counts it is the rate times the number of cells of the spot: that of a spot of such cells.
        """
        cells, _ = self._rates(bags, rows, device)
        if SCALES[self.scale].total is not None:
            number = bags.exist[which_rows(rows, len(bags))].sum(axis=1)
            cells *= np.repeat(number, number).astype(np.float32)[:, None]
        return np.log1p(cells, out=cells)

    def predict_background(
        self, bags: Bags, *, device: str | None = None, rows: np.ndarray | None = None
    ) -> np.ndarray:
        """Predict the rates (n, genes) of the backgrounds of all spots or of `rows`."""
        network = self.network
        parts = self._apply(lambda batch, tiles: network.background(batch, tiles)[0].cpu().numpy(), bags, rows, device)
        return np.concatenate(parts)

    def _rates(self, bags: Bags, rows: np.ndarray | None, device: str | None) -> tuple[np.ndarray, np.ndarray]:
        """Return the rates of the cells that exist (m, genes) and of backgrounds (n, genes)."""
        network = self.network

        def compute(batch: dict[str, Tensor], tiles: Tensor) -> tuple[np.ndarray, np.ndarray]:
            cells, background, _ = network.rates(batch, tiles)
            return cells.cpu().numpy(), background.cpu().numpy()

        cells, backgrounds = zip(*self._apply(compute, bags, rows, device), strict=True)
        return np.concatenate(cells), np.concatenate(backgrounds)

    def check_parameters(self) -> None:
        """Raise if a parameter is out of range."""
        super().check_parameters()
        key_in(self.scale, SCALES, "scale")

    def _check_targets(self, targets: np.ndarray) -> None:
        super()._check_targets(targets)
        if np.nanmin(targets) < 0:
            raise InputError(
                f"CellSum needs log1p of rates, which are not negative, but the lowest target is "
                f"{np.nanmin(targets):.3g}. Do not standardize or center the targets."
            )

    def _n_cells(self, bags: Bags, rows: np.ndarray) -> float:
        if SCALES[self.scale].total is not None or bags.subspots is None:
            return 0.0
        return float(bags.exist[rows].sum(axis=1).mean())
