"""Base of the models that see all spots of a slide together."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np

from deepspot._core.validate import check_count, check_positive, check_same_length
from deepspot._features.bags import Bags
from deepspot.errors import InputError
from deepspot.models._baselines.base import Baseline, seeded
from deepspot.models._inputs import CLIP, Scaler, labels, which_rows

from .array import columns_and_rows, nearest_spots, split_slide

if TYPE_CHECKING:
    from torch import Tensor

    from .part import SlideNetwork, SlidePart


@dataclass(eq=False, kw_only=True)
class WholeSlide(Baseline):
    """Base of the models on whole slides. Subclasses make the network."""

    _state = "network"
    # Number of nearest spots that are neighbors, and how far they may be in distances between spots.
    _neighbors: ClassVar[tuple[int, float]] = (4, np.inf)
    _batch: ClassVar[int | None] = None
    _decay: ClassVar[float] = 0.0
    _schedule: ClassVar[tuple[int, float] | None] = None
    inputs: Literal["embeddings", "tiles"] = "embeddings"
    n_pos: int = 128
    max_spots: int = 4096
    lr: float = 1e-5
    epochs: int = 100
    seed: int | None = None
    device: str | None = None
    network: SlideNetwork = field(init=False, repr=False)
    scaler: Scaler = field(init=False, repr=False)

    @property
    def uses_tiles(self) -> bool:
        """Whether the model learns from pixels."""
        return self.inputs == "tiles"

    def fit(
        self,
        bags: Bags,
        targets: np.ndarray,
        *,
        rows: np.ndarray | None = None,
        slides: np.ndarray | None = None,
        patients: np.ndarray | None = None,
        exposure: np.ndarray | None = None,
    ) -> Self:
        """Fit to measured expression.

        Parameters
        ----------
        bags
            Embeddings of n spots, with their positions.
        targets
            (n, genes) log-expression; NaN where a slide did not measure a gene.
        rows
            Training spots, as numbers that may repeat or as a mask; by default all. The other spots of a slide are seen
            by the model, too, but have no targets.
        slides
            (n,) slide of every spot.
        patients
            Not used.
        exposure
            (n,) factors from `expm1` of the targets to counts, for models that learn from counts.

        Raises
        ------
        ValueError
            If arrays do not match, a parameter is out of range, or the bags lack what the model needs.
        """
        import torch

        from deepspot._core.compute import choose_device

        from .training import train_network

        check_same_length(bags.spot, targets, "`bags` and `targets`")
        rows, slides = which_rows(rows, len(bags)), labels(slides, len(bags), "slides")
        labels(patients, len(bags), "patients")
        if self.inputs not in ("embeddings", "tiles"):
            raise InputError(f"`inputs` must be 'embeddings' or 'tiles', got {self.inputs!r}.")
        for name in ("n_pos", "max_spots", "epochs"):
            check_count(getattr(self, name), name)
        check_positive(self.lr, "lr")
        device, scaler = choose_device(self.device), Scaler.fit(bags.spot[rows])
        repeats = np.bincount(rows, minlength=len(bags))
        parts = [
            self._with_targets(
                self._part(bags, spots, columns, scaler),
                targets[spots],
                repeats[spots],
                None if exposure is None else exposure[spots],
            )
            for slide in np.unique(slides)
            for spots, columns in self._split(bags, np.flatnonzero(slides == slide))
            # A part without a known target has no loss, and batch normalization needs more than one spot.
            if (np.isfinite(targets[spots]).any(axis=1) & (repeats[spots] > 0)).any() and len(spots) > 1
        ]
        if not parts:
            raise InputError("No slide has two spots or more, or a measured gene. Add slides, or raise `max_spots`.")
        with seeded(self._seed, device):
            network = self._make(parts[0], torch.from_numpy(Scaler.fit(targets[rows]).mean))
            train_network(
                network,
                parts,
                lr=self.lr,
                epochs=self.epochs,
                device=device,
                batch=self._batch,
                decay=self._decay,
                schedule=self._schedule,
            )
        self.scaler, self.network = scaler, network
        return self

    def _predict(self, bags: Bags) -> np.ndarray:
        import torch

        from deepspot._core.compute import choose_device

        network, device = self.network, choose_device(self.device)
        parts, predicted = self._split(bags, np.arange(len(bags))), []
        network.to(device)
        with torch.inference_mode():
            for spots, columns in parts:
                predicted.append(network(self._part(bags, spots, columns, self.scaler).to(device)).cpu().numpy())
        network.cpu()
        return np.concatenate(predicted)[np.argsort(np.concatenate([spots for spots, _ in parts]))]

    def _position(self, bags: Bags) -> np.ndarray:
        """Return the positions (n, 2) in µm; raise if there are none."""
        if bags.position is None:
            raise InputError(
                f"{type(self).__name__} needs the positions of spots, but the bags have none. Set `Bags(position=...)`."
            )
        return bags.position

    def _tiles(self, bags: Bags) -> np.ndarray:
        """Return the tiles (n, px, px, 3); raise if there are none, or if the network cannot use them."""
        if bags.tiles is None:
            raise InputError(
                f"{type(self).__name__} with `inputs='tiles'` learns from pixels, but the bags have no tiles. Make "
                "them with `Bags(tiles=...)`, uint8 (n, px, px, 3), or pass `inputs='embeddings'`."
            )
        return bags.tiles

    def _split(self, bags: Bags, spots: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return the spots of the parts of one slide, and their columns and rows (n, 2) in the part."""
        array = columns_and_rows(self._position(bags)[spots])
        parts = split_slide(array, self.max_spots, self.n_pos)
        return [(spots[part], array[part] - array[part].min(axis=0)) for part in parts]

    def _part(self, bags: Bags, spots: np.ndarray, columns: np.ndarray, scaler: Scaler) -> SlidePart:
        """Return some spots of one slide, at these columns and rows, as the input of the network."""
        import torch

        from .part import SlidePart

        position = self._position(bags)[spots]
        if self.uses_tiles:
            inputs = self._layout(torch.from_numpy(self._tiles(bags)[spots]))
        else:
            inputs = torch.from_numpy(scaler.standardize(bags.spot[spots]).clip(-CLIP, CLIP))
        return SlidePart(
            inputs=inputs,
            positions=torch.from_numpy(columns),
            edges=torch.from_numpy(nearest_spots(position, *self._neighbors)),
        )

    def _with_targets(
        self, part: SlidePart, targets: np.ndarray, repeats: np.ndarray, exposure: np.ndarray | None
    ) -> SlidePart:
        """Return a part with the expression (n, genes) of its spots, which count `repeats` (n,) times."""
        import torch

        weights = np.isfinite(targets) * repeats[:, None]
        return replace(
            part,
            targets=torch.from_numpy(np.where(weights > 0, targets, 0).astype(np.float32)),
            weights=torch.from_numpy(weights.astype(np.float32)),
        )

    def _layout(self, tiles: Tensor) -> Tensor:
        """Return tiles (n, y, x, 3) in the layout of the network: (n, 3, x, y)."""
        return tiles.permute(0, 3, 2, 1)

    def _make(self, part: SlidePart, mean: Tensor) -> SlideNetwork:
        """Return the untrained network for parts like this one, which predicts about the mean expression (genes,)."""
        raise NotImplementedError
