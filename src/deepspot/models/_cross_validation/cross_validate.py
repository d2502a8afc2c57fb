from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deepspot._core.atomic import check_outside_stores
from deepspot._core.keys import checked
from deepspot._core.logging import logger
from deepspot._core.validate import check_count, check_seed
from deepspot._stats.oversample import require
from deepspot.errors import InputError
from deepspot.models._training.config import SlideKeys, TileConfig, as_config
from deepspot.models._training.slides import as_mapping
from deepspot.models._training.targets import Oversample, choose_genes, log_fewer

if TYPE_CHECKING:
    import pandas as pd
    from spatialdata import SpatialData

    from deepspot.encoders import Encoder

    from .result import CrossValidation

TOP = (100, 150, 200, 250, 300, 400, 500, 1000, 2000, 3000, 5000)


@checked
def cross_validate(
    slides: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData],
    *,
    patient_key: str | Mapping[str, str] | pd.Series | None,
    models: Sequence[str] | Mapping[str, Callable[..., Any] | str] = ("deepspot", "ridge"),
    grid: Mapping[str, Mapping[str, Any] | Sequence[Mapping[str, Any]]] | None = None,
    genes: int | Sequence[str] = 5000,
    min_detected: float = 0.0,
    top: Sequence[int] = TOP,
    leave_out: Literal["patient", "slide"] = "patient",
    splits: Sequence[tuple[Sequence[str], Sequence[str]]] | Mapping[str, Any] | None = None,
    encoder: str | Encoder | None = None,
    keys: SlideKeys | Mapping[str, Any] | None = None,
    tiles: TileConfig | Mapping[str, Any] | None = None,
    oversample: Oversample | None = None,
    out: str | Path | None = None,
    seed: int | None = None,
    device: str | None = None,
) -> CrossValidation:
    """Compare models by nested cross-validation over patients.

    Every patient is held out once, or the folds are given. Genes, their scale, oversampling and all parameters are
    chosen from the other patients: parameters by the area under the curve of mean r over the top genes, on inner folds
    of these patients. The model is then fitted to all of them and predicts the held-out slides, whose counts are
    normalized over the genes that the training slides share. Three null models always run: ``"training mean"``,
    ``"position only"`` and ``"shuffled images"``.

    The three inner folds are over patients. With fewer than three training patients each is held out once; with one
    they are over its slides; with one slide they are strips of neighboring spots.

    Parameters
    ----------
    slides
        A list of slides, or a mapping from names to slides.
    patient_key
        Column of the tables' `obs` with the patient, or a mapping from slide names to patients. None only with
        `splits`, if the patients are not known: the given folds are taken to be by patient, and every slide counts as
        one patient.
    models
        Names: ``"deepspot"``, its presets ``"deepspot_paper"`` and ``"deepspot_published"``, ``"ridge"``,
        ``"ridge_pca"``, ``"linear"``, ``"random_forest"``, ``"mlp"``, ``"stnet"``, ``"stnet_finetuned"``, ``"bleep"``,
        ``"histogene"``, ``"hist2st"``, ``"thitogene"``, ``"triplex"``.
        Or a mapping from names of your choice to these, or to classes or functions that return an
        :class:`~deepspot.models.Estimator` from keyword parameters; `seed` and `device` are passed to those that take
        them.
    grid
        Parameters to choose from, by model: ``{"deepspot": {"network": [{"width": 256}, {"width": 512}]}}``, as in
        scikit-learn's ParameterGrid. Besides those of the model they can be `encoder`, `oversample`, `tiles` (fields
        that differ, such as ``[{"radius_um": 200}, {"radius_um": 400}]``) and `normalize` (see :class:`SlideKeys`;
        r is then on the scale of the setting, so a choice of it is a choice of the targets). A model without a grid has
        fixed parameters and needs no inner folds.
    genes
        Number of most variable genes (Seurat v3, batch by slide) of the training set, or names. If there are fewer, as
        on a panel of Xenium, all are taken, with a log line. A named gene that no training slide measures is left out
        of that fold.
    min_detected
        Minimum share of the spots of every training slide in which a gene is detected, for a gene to be chosen as most
        variable.
    top
        Numbers of genes of the curve; those above the number of genes mean all genes.
    leave_out
        ``"patient"``; or ``"slide"``, which holds out slides of patients that are in the training set: this
        checks that training works, and does not measure accuracy on other patients.
    splits
        Folds, such as those of a benchmark, in place of holding out every patient once: a list of pairs (names of
        training slides, names of test slides), or a mapping from names of folds to such pairs. In a mapping, a list of
        names is that of the test slides, and all other slides are for training. A patient on both sides of a fold is an
        error, unless `leave_out` is ``"slide"``. Slides in no fold are left out.
    encoder
        Name in :func:`deepspot.encoders.available`, or an encoder; by default the embedded one.
    keys
        Elements of the slides to use: a :class:`SlideKeys`, or a mapping of its fields such as
        ``{"table_key": "counts"}``. Only needed if a slide has several candidates, or for another scale of expression:
        ``{"normalize": "log1p_counts"}``.
    tiles
        Tiles and neighbors: a :class:`TileConfig`, or a mapping of its fields such as ``{"radius_um": 300}``.
    oversample
        Repeat training spots until clusters have the same size: ``"leiden"`` or ``"aestetik"`` (section 4.1.1).
    out
        Folder for finished fits, from which the same call resumes after an interruption, with the same result. A file
        is named by a hash of all that its fit depends on (for models of this package the version of the package, for
        others their source), and contains the predictions of the held-out slides.
    seed
        Random seed; the same seed gives the same result on the same machine. By default from the settings.
    device
        Device to compute on; by default from the settings, else CUDA, MPS or CPU.

    Returns
    -------
    A :class:`CrossValidation`: table of scores, curve, summary, comparison and chosen parameters. Feature tables are
    added to the slides, see :func:`deepspot.pp.embed`; nothing else changes.

    Raises
    ------
    ValueError
        If there are fewer than two patients (slides), one of them would be on both sides of a fold, a side of a given
        fold is empty, slides of two patients (two slides, if these are left out) are copies by their counts or image,
        or a field of a configuration is wrong.
    KeyError
        If a model, gene, column, table, layer, or slide of `splits` does not exist.
    TypeError
        If a model is not an estimator, or `splits` are not folds; with `out`, if a model cannot be described by its
        content, such as a lambda.

    References
    ----------
    DeepSpot, section 4.3 (ablation study: 4.3.2). In the paper the held-out patient takes part in the choice of genes.

    Examples
    --------
    >>> import deepspot as ds
    >>> slides = ds.datasets.toy(n_patients=3, n_rows=4, n_cols=5)
    >>> cv = ds.models.cross_validate(slides, patient_key="patient", models=["ridge"], genes=20)
    >>> cv.compare("training mean").index.tolist()
    ['ridge']

    With given folds, of which each has a training and a test side:

    >>> folds = {"first": (["P2_S1", "P3_S1"], ["P1_S1"]), "second": (["P1_S1"], ["P2_S1", "P3_S1"])}
    >>> cv = ds.models.cross_validate(slides, patient_key="patient", models=["ridge"], genes=20, splits=folds)
    >>> list(cv.areas().columns)
    ['first', 'second']
    """
    from deepspot._core.compute import choose_device
    from deepspot.models._training.plan import plan_slides
    from deepspot.models._training.slides import slide_columns

    from .data_options import DataOptions
    from .factories import check_systems, choose_systems
    from .folds import given_folds, plan_folds
    from .result import CrossValidation
    from .run import Runner
    from .tables import tidy

    if not len(top):
        raise InputError(f"`top` is empty. The numbers of genes in the paper are {TOP}.")
    numbers = tuple(sorted({check_count(n, "top") for n in top}))
    if leave_out not in ("patient", "slide"):
        raise InputError(f'`leave_out` must be "patient" or "slide", got {leave_out!r}.')
    if oversample is not None:
        require(oversample)
    seed = check_seed(seed)
    choose_device(device)
    look, used = as_config(TileConfig, tiles, "tiles"), as_config(SlideKeys, keys, "keys")
    systems = choose_systems(models, grid)
    base = DataOptions(encoder, look, oversample, used.normalize)
    needed = check_systems(systems, seed, device, base=base, described=out is not None)
    folder = None if out is None else Path(out).expanduser()
    if folder is not None:
        check_outside_stores(folder)
    named, given = as_mapping(slides), None
    if splits is not None:
        given = given_folds(splits, list(named))
        tested = {name for sides in given.values() for side in sides for name in side}
        unused = [name for name in named if name not in tested]
        if unused:
            logger.warning("Slides %s are in no fold of `splits` and are left out.", unused)
        named = {name: sdata for name, sdata in named.items() if name in tested}
        patient_key = {name: name for name in named} if patient_key is None else patient_key
    features = dict.fromkeys(options.features for options in needed)
    plans = {(coder, tiling): plan_slides(named, patient_key, coder, used, tiling) for coder, tiling in features}
    plan = plans[base.features]
    views = {name: feature.features.view for name, feature in plan.features.items()}
    wanted = check_count(int(genes), "genes") if isinstance(genes, Integral) else choose_genes(plan.measured, genes)
    folds = plan_folds(
        plan.measured,
        {name: view.centers for name, view in views.items()},
        wanted,
        min_detected=min_detected,
        leave_out=leave_out,
        tune=any(len(system.grid) > 1 for system in systems),
        scale=used.scale,
        given=given,
    )
    log_fewer(wanted, min(len(fold.genes) for fold, _ in folds))
    if leave_out == "slide":
        logger.warning(
            "Slides of patients in the training set are held out. This checks that training works, and does not "
            "measure accuracy on other patients."
        )

    # All input is checked; the slow steps follow.
    bags = {key: one.embed(device=device, tiles_px=key[1].tiles_px) for key, one in plans.items()}
    runner = Runner(systems, bags[base.features], folder, numbers, seed, device, base, bags)
    scores, patterns, inner = runner.run(folds)
    return CrossValidation(
        scores=tidy(scores),
        patterns=tidy(patterns),
        inner=inner,
        grid={system.name: list(system.grid) for system in systems},
        top=numbers,
        leave_out=leave_out,
        genes=wanted,
        normalize=used.normalize,
        splits={
            fold.split.name: [[slide.name for slide in side] for side in (fold.split.train, fold.split.test)]
            for fold, _ in folds
        },
        given=given is not None,
        slides={slide.name: slide.patient for slide in plan.measured},
        columns=slide_columns({s.name: views[s.name].sdata.tables[s.table_key] for s in plan.measured}),
        seed=seed,
        systems={system.name: system for system in systems},
    )
