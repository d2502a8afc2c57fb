from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.hashing import digest
from deepspot._core.validate import check_same_length, check_seed
from deepspot._features.bags import Bags
from deepspot.errors import InputError

from ._bundle.card import ModelCard, versions
from ._confidence.folds import held_out
from ._fitted import FittedModel
from ._inputs import Scaler, check_context, labels, level_slides, slide_weights, which_rows
from ._low_rank import candidate_ranks, loadings, project, project_members
from ._network.config import changed, look_up

if TYPE_CHECKING:
    from collections.abc import Sequence

    from deepspot.encoders import Encoder

    from ._lazyslide import TilePredictor
    from ._network.network import Network


class DeepSpot(FittedModel):
    """Deep-set network of the paper, as an estimator on embeddings.

    To train on slides, use :func:`deepspot.models.train`.

    Parameters
    ----------
    preset
        ``"default"``: one φ and one ρ, mean over sub-spots, three members trained separately. ``"paper"``: the text of
        the paper. ``"published"``: the code of the authors.
    network, training
        Fields of :class:`NetworkConfig` and :class:`TrainingConfig` that differ from the preset.
    seed
        Random seed; the same seed gives the same weights on the same machine. None takes `settings.seed`.
    device
        Device; None takes `settings.device`, or else CUDA, MPS or the CPU.

    Attributes
    ----------
    card
        :class:`ModelCard`: genes, geometry, encoder, training slides, license, evaluation.
    history
        Data frame with the loss per epoch and member.
    out_of_fold
        (n, genes) out-of-fold predictions of the gate, each by a fit without the patient of the spot; NaN for spots
        that were never held out. Not part of a bundle.

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
        self.seed = check_seed(seed)
        self.device = device

    def __repr__(self) -> str:
        if not self._is_fitted:
            return f"DeepSpot(preset={self.preset!r}), not fitted"
        return f"DeepSpot {self.card.summary}" + (f". {self.card.gate}" if self.card.gate else "")

    def fit(
        self,
        bags: Bags,
        targets: np.ndarray,
        *,
        genes: Sequence[str] | None = None,
        rows: np.ndarray | None = None,
        slides: np.ndarray | None = None,
        patients: np.ndarray | None = None,
        depth: np.ndarray | None = None,
        trainer_kwargs: dict[str, Any] | None = None,
    ) -> DeepSpot:
        """Fit to measured expression.

        With several patients, a fifth of them (at least one) is held out to find the number of epochs with the highest
        mean r over genes within the held-out slides. Then all members are trained on all patients for this number of
        epochs. With one patient, the preset fixes the number.

        Unless ``training={"gate": "off"}``, this procedure and tuned ridge on the same context features are first
        evaluated by cross-validation over patients (with one patient over slides, with one slide over parts of it).
        The network predicts if it is better than its blend with ridge and the lower 90 % bound of its gain in r over
        ridge is above 0. Otherwise the blend predicts, or ridge if the blend has no gain: see ``card.gate``. The
        out-of-fold predictions also give the reliability of every gene.

        Parameters
        ----------
        bags
            Embeddings of n spots.
        targets
            (n, genes) log-expression; NaN for genes that a slide did not measure.
        genes
            Names of the columns.
        rows
            Training spots; the others serve as neighbors only. By default all.
        slides, patients
            (n,) slide and patient of every spot. By default all spots are of one slide and one patient.
        depth
            (n,) total counts of every spot, NaN where unknown, to weight slides with ``training={"weight_slides":
            True}``. Without it all slides have the same weight.
        trainer_kwargs
            Arguments of Lightning's Trainer, such as ``{"devices": 4, "strategy": "ddp"}``. With
            ``{"default_root_dir": folder}`` checkpoints are kept there, and the same call resumes an interrupted fit.

        Returns
        -------
        The estimator itself. A fit that fails leaves it unchanged.

        Raises
        ------
        ValueError
            If shapes do not match, a gene has no finite target, or the bags lack a set that the network uses.
        """
        from ._baselines import Ridge
        from ._baselines.ridge import fit_weighted
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
        if depth is not None:
            _check_depth(depth, bags, rows, slides)
        if not self.training.weight_slides:
            depth = None
        state, folder = None, (trainer_kwargs or {}).get("default_root_dir")
        if folder is not None:
            embeddings = [bags.spot, bags.neighbors.indptr, bags.neighbors.indices]
            embeddings += [part for part in (bags.subspots, bags.present, depth) if part is not None]
            settings_of_fit = [self.network.model_dump(), self.training.model_dump(), self.seed, versions()]
            numbers = np.unique(slides, return_inverse=True)[1], np.unique(patients, return_inverse=True)[1]
            state = Path(folder) / digest(*embeddings, targets, rows, *numbers, *settings_of_fit)
        recipe = Recipe(self.network, self.training, self.seed, self.device, state, trainer_kwargs)
        groups = {"rows": rows, "slides": slides, "patients": patients}
        gate, reliability, out_of_fold, weight = None, None, None, 1.0
        rank = candidate_ranks(self.training.rank, len(names))[-1]  # without the gate nothing is selected
        if self.training.gate != "off":
            gate, reliability, out_of_fold = assess(
                bags, targets, recipe, **groups, depth=depth, applied=self.training.gate == "select"
            )
            weight, rank = gate.weight, gate.rank
        if self.training.level_slides:
            targets = level_slides(targets, rows, slides)
        weights = slide_weights(depth, rows, slides)
        members: list[Network] = []
        common, history, epochs, ridge = Scaler.fit(targets[rows]), None, 0, Ridge(context=self.network.context)
        scaler = common
        if weight > 0:
            members, scaler, history, epochs = train_members(
                bags,
                targets,
                recipe,
                rows=rows,
                validation=held_out(rows, patients, self.seed),
                slides=slides,
                weights=weights,
            )
        if weight < 1:
            ridge = fit_weighted(bags, targets, context=self.network.context, **groups, weights=weights)
        if rank is not None:
            directions = loadings(targets[rows], common, rank, weights[rows])
            project_members(members, scaler.std / common.std, directions)
            if weight < 1:
                ridge.coef, ridge.intercept = (project(value, directions) for value in (ridge.coef, ridge.intercept))
        ood = OODDetector.fit(bags.spot, **groups, position=bags.position, seed=self.seed)
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
        self.history, self.out_of_fold = history, out_of_fold
        return self

    def on_tiles(self, *, mpp: float, encoder: str | Encoder | None = None) -> TilePredictor:
        """Return a predictor for LazySlide: ``zs.tl.feature_prediction(wsi, predictor)``.

        It predicts the same as :func:`deepspot.tl.predict`, from the features that
        ``zs.tl.feature_extraction(wsi, predictor.image_model)`` extracts from tiles of ``predictor.tile_px`` pixels.

        Parameters
        ----------
        mpp
            µm per pixel of the finest level of the slide, ``wsi.properties.mpp``.
        encoder
            Encoder of the model, if the registry does not have it under the name in the card.

        Returns
        -------
        An object with `predict(features, coords)`, `image_model`, `tile_px` and `stride_px`.

        Raises
        ------
        ValueError
            If the model was not trained on slides, its sub-spots are nuclei, or the slide is too coarse.

        Examples
        --------
        >>> import deepspot as ds
        >>> ds.models.load().on_tiles(mpp=0.5).tile_px
        201
        """
        from ._lazyslide import TilePredictor

        return TilePredictor(self, mpp, encoder)


def _check_depth(depth: np.ndarray, bags: Bags, rows: np.ndarray, slides: np.ndarray) -> None:
    check_same_length(bags.spot, depth, "`bags` and `depth`")
    for slide in np.unique(slides[rows]):
        known = depth[(slides == slide) & np.isfinite(depth)]
        if len(known) == 0 or np.median(known) <= 0:
            raise InputError(
                f"The median of `depth` must be above 0 in every training slide, and is not in slide {str(slide)!r}. "
                "Leave this slide out of `rows`, or do not pass `depth`."
            )


def _check_genes(names: list[str], targets: np.ndarray) -> None:
    if len(names) != targets.shape[1] or len(set(names)) != len(names):
        raise InputError(
            f"`genes` must be {targets.shape[1]} different names, one for each column of `targets`; got {len(names)}, "
            f"{len(set(names))} of them different."
        )
    lost = [name for name, known in zip(names, np.isfinite(targets).any(axis=0), strict=True) if not known]
    if lost:
        raise InputError(f"{len(lost)} genes have no finite target, first {lost[0]!r}. Leave them out of `genes`.")
