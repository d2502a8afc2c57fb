from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.hashing import digest
from deepspot._core.settings import settings
from deepspot._core.validate import check_same_length
from deepspot._features.bags import Bags
from deepspot.errors import InputError

from ._bundle.card import ModelCard, versions
from ._confidence.folds import held_out
from ._fitted import FittedModel, check_context
from ._inputs import Scaler, labels, which_rows
from ._network.config import changed, look_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepspot.encoders import Encoder

    from ._lazyslide import TilePredictor
    from ._network.network import Network


class DeepSpot(FittedModel):
    """The deep-set network of the paper as an estimator on embeddings.

    :func:`deepspot.models.train` makes one from slides; this class is for those who have arrays.

    Parameters
    ----------
    preset
        ``"default"``: one φ and one ρ, sub-spots averaged, three members trained apart. ``"paper"``: the text of the
        paper. ``"published"``: the authors' code.
    network, training
        Fields of :class:`NetworkConfig` and :class:`TrainingConfig` to change in the preset.
    seed
        Same seed, same weights on the same machine. None falls back to the settings.
    device
        Where to compute; None falls back to the settings, then to CUDA, MPS, CPU.

    Attributes
    ----------
    card
        :class:`ModelCard`: genes, geometry, encoder, training slides, license, scores.
    history
        Loss per epoch and member after training, a data frame.
    out_of_fold
        (n, genes) what fits that had not seen a spot's patient predicted for it, NaN where there is none. Kept after
        `fit` for those who want to judge it in their own way; a bundle does not hold it.

    References
    ----------
    DeepSpot, section 4.2.

    Examples
    --------
    >>> import numpy as np
    >>> import deepspot as ds
    >>> from scipy.sparse import csr_matrix
    >>> rng = np.random.default_rng(0)
    >>> spot = rng.normal(size=(50, 8)).astype("float32")
    >>> bags = ds.models.Bags(spot, spot[:, None], csr_matrix((50, 50), dtype=bool))
    >>> model = ds.models.DeepSpot(network={"width": 16, "members": 1}).fit(bags, spot[:, :3])
    >>> model.predict(bags).shape
    (50, 3)
    """

    def __init__(
        self,
        *,
        preset: str = "default",
        network: dict[str, Any] | None = None,
        training: dict[str, Any] | None = None,
        seed: int | None = None,
        device: str | None = None,
    ) -> None:
        chosen = look_up(preset)
        self.preset = preset
        self.network = changed(chosen.network, network, "network")
        self.training = changed(chosen.training, training, "training")
        self.seed = int(settings.seed if seed is None else seed)
        self.device = device

    def __repr__(self) -> str:
        if not self._is_fitted:
            return f"DeepSpot(preset={self.preset!r}), not fitted"
        card, patients = self.card, {slide.patient for slide in self.card.slides}
        encoder = card.encoder.name if card.encoder else f"{card.dim} features"
        tile = f", tiles of {card.geometry.tile.tile_um:g} µm" if card.geometry else ""
        learned = f"{len(card.slides)} slides of {len(patients)} patients" if patients else "slides it does not name"
        return (
            f"DeepSpot {card.name!r}: {len(card.genes):,} genes from {encoder}{tile}; preset {card.preset!r}, trained "
            f"on {learned}; license {card.license}" + (f". {card.gate}" if card.gate else "")
        )

    def fit(
        self,
        bags: Bags,
        targets: np.ndarray,
        *,
        genes: Sequence[str] | None = None,
        rows: np.ndarray | None = None,
        slides: np.ndarray | None = None,
        patients: np.ndarray | None = None,
        trainer_kwargs: dict[str, Any] | None = None,
    ) -> DeepSpot:
        """Fit to measured expression.

        With several patients a fifth of them, at least one, is held out while one network searches the number of
        epochs: the one with the highest mean r over genes within the held-out slides. Then all members are fitted to
        everybody for that long. With one patient the number is fixed by the preset.

        Unless ``training={"gate": "off"}``, all of this is done beforehand with patients held out in turn (with one
        patient its slides, with one slide parts of it), and tuned ridge on the same context features beside it. If the
        network is better than its blend with ridge, and the lower 90 % bound of its gain in r over ridge is above 0, it
        predicts. Else the blend does, or ridge if that gains nothing; see :attr:`card`, ``gate``. The same predictions
        tell how reliable every gene is.

        Parameters
        ----------
        bags
            Embeddings of n spots.
        targets
            (n, genes) log-expression; NaN where a slide did not measure a gene.
        genes
            Names of the columns.
        rows
            Spots to learn from (the others serve as neighbors only); by default all.
        slides, patients
            (n,) slide and patient of every spot; by default all are of one.
        trainer_kwargs
            Arguments of Lightning's Trainer, such as ``{"devices": 4, "strategy": "ddp"}``. With
            ``{"default_root_dir": folder}`` checkpoints are kept there, and the same call resumes an interrupted fit.

        Returns
        -------
        The estimator itself. If the fit fails, it stays as it was.

        Raises
        ------
        ValueError
            If arrays do not fit together, a gene has no finite target, or the bags lack a set that the network uses.
        """
        from ._baselines import Ridge
        from ._confidence.assess import assess
        from ._confidence.ood import OODDetector
        from ._network.fit import Recipe
        from ._network.train_members import train_members

        check_same_length(bags.spot, targets, "`bags` and `targets`")
        check_context(self.network.context, bags)
        rows, slides = which_rows(rows, len(bags)), labels(slides, len(bags), "slides")
        patients = labels(patients, len(bags), "patients")
        names = [f"gene_{i}" for i in range(targets.shape[1])] if genes is None else [str(gene) for gene in genes]
        _check_genes(names, targets[rows])
        state, folder = None, (trainer_kwargs or {}).get("default_root_dir")
        if folder is not None:
            embeddings = [bags.spot, bags.neighbors.indptr, bags.neighbors.indices]
            embeddings += [] if bags.subspots is None else [bags.subspots]
            make_up = [self.network.model_dump(), self.training.model_dump(), self.seed, versions()]
            groups = np.unique(slides, return_inverse=True)[1], np.unique(patients, return_inverse=True)[1]
            state = Path(folder) / digest(*embeddings, targets, rows, *groups, *make_up)
        recipe = Recipe(self.network, self.training, self.seed, self.device, state, trainer_kwargs)
        known = {"rows": rows, "slides": slides, "patients": patients}
        gate, reliability, unseen, weight = None, None, None, 1.0
        if self.training.gate != "off":
            gate, reliability, unseen = assess(bags, targets, recipe, **known, binding=self.training.gate == "bind")
            weight = gate.weight
        members: list[Network] = []
        scaler, history, epochs, ridge = Scaler.fit(targets[rows]), None, 0, Ridge(context=self.network.context)
        if weight > 0:
            members, scaler, history, epochs = train_members(
                bags, targets, recipe, rows=rows, validation=held_out(rows, patients, self.seed), slides=slides
            )
        if weight < 1:
            ridge.fit(bags, targets, **known)
        ood = OODDetector.fit(bags.spot, **known, position=bags.position, seed=self.seed)
        card = ModelCard(
            genes=names,
            dim=bags.dim,
            network=self.network,
            training=self.training,
            preset=self.preset,
            epochs=epochs,
            seed=self.seed,
            versions=versions(),
            gate=gate,
            reliability=reliability,
        )
        self.card, self.scaler, self.members, self.ridge, self.ood = card, scaler, members, ridge, ood
        self.history, self.out_of_fold = history, unseen
        return self

    def on_tiles(self, *, mpp: float, encoder: str | Encoder | None = None) -> TilePredictor:
        """Make of the model what LazySlide can predict with: ``zs.tl.feature_prediction(wsi, predictor)``.

        It takes the features that ``zs.tl.feature_extraction(wsi, predictor.image_model)`` makes of tiles with a side
        of ``predictor.tile_px`` pixels, and gives what :func:`deepspot.tl.predict` does.

        Parameters
        ----------
        mpp
            µm per pixel of the slide's finest level, ``wsi.properties.mpp``.
        encoder
            Encoder of the model, should it not be in the registry under the name in the model's card.

        Returns
        -------
        An object with `predict(features, coords)`, `image_model`, `tile_px` and `stride_px`.

        Raises
        ------
        ValueError
            If the model was not trained on slides, or the slide is too coarse.

        Examples
        --------
        >>> import deepspot as ds
        >>> ds.models.load().on_tiles(mpp=0.5).tile_px
        201
        """
        from ._lazyslide import TilePredictor

        return TilePredictor(self, mpp, encoder)


def _check_genes(names: list[str], targets: np.ndarray) -> None:
    if len(names) != targets.shape[1] or len(set(names)) != len(names):
        raise InputError(
            f"`genes` must be {targets.shape[1]} different names, one for each column of `targets`; got {len(names)}, "
            f"of which {len(set(names))} differ."
        )
    lost = [name for name, known in zip(names, np.isfinite(targets).any(axis=0), strict=True) if not known]
    if lost:
        raise InputError(f"{len(lost)} genes have no finite target, first {lost[0]!r}. Leave them out of `genes`.")
