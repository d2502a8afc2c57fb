from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from deepspot._core.logging import logger
from deepspot._core.settings import settings
from deepspot._features.feature_table import subspots_from
from deepspot._stats.oversample import require
from deepspot.errors import InputError, InputTypeError
from deepspot.models._training.targets import Oversample, choose_genes

if TYPE_CHECKING:
    from spatialdata import SpatialData

    from deepspot._spatial.geometry import SubspotsFrom
    from deepspot.encoders import Encoder

    from .result import CrossValidation

TOP = (100, 150, 200, 250, 300, 400, 500, 1000, 2000, 3000, 5000)


def cross_validate(
    sdatas: SpatialData | Sequence[SpatialData] | Mapping[str, SpatialData],
    *,
    patient_key: str | Mapping[str, str] | None,
    models: Sequence[str] | Mapping[str, Callable[..., Any] | str] = ("deepspot", "ridge"),
    grid: Mapping[str, Mapping[str, Any] | Sequence[Mapping[str, Any]]] | None = None,
    genes: int | Sequence[str] = 5000,
    min_detected: float = 0.0,
    top: Sequence[int] = TOP,
    inner_folds: int = 3,
    leave_out: Literal["patient", "slide"] = "patient",
    encoder: str | Encoder | None = None,
    image_key: str | None = None,
    shapes_key: str | None = None,
    table_key: str | None = None,
    layer: str | None = None,
    coordinate_system: str | None = None,
    tile_um: float | None = None,
    radius_um: float | None = None,
    max_neighbors: int = 8,
    array_box: int | None = None,
    tiles_px: int | None = None,
    subspots: bool | SubspotsFrom = True,
    oversample: Oversample | None = None,
    n_bootstrap: int = 10_000,
    out: str | Path | None = None,
    seed: int | None = None,
    device: str | None = None,
    batch_size: int | None = None,
) -> CrossValidation:
    """Compare models on patients that they did not learn from.

    Every patient is held out once. Genes, their scale, oversampling and every parameter are chosen from the other
    patients alone; parameters by the area under the curve of mean r over the top genes, on inner folds of these
    patients. A model is then fitted to all of them and predicts the held-out slides. Three null models always run:
    ``"training mean"``, ``"position only"`` and ``"shuffled images"``.

    The inner folds are over patients; with fewer patients than `inner_folds` each is held out once; with one training
    patient they are over its slides; with one training slide over strips of neighboring spots.

    The counts of a held-out slide are normalized over the genes that the training slides share.

    Parameters
    ----------
    sdatas
        A list of slides, or a mapping from names to slides.
    patient_key
        Column of the tables' `obs` with the patient, or a mapping from slide names to patients.
    models
        Names: ``"deepspot"``, its presets ``"deepspot_paper"`` and ``"deepspot_published"``, ``"ridge"``,
        ``"ridge_pca"``, ``"linear"``, ``"random_forest"``, ``"mlp"``, ``"stnet"``, ``"stnet_finetuned"``, ``"bleep"``.
        Or a mapping from names of your own to these, or to classes or callables that make an estimator with
        ``fit(bags, targets, rows=, slides=, patients=)`` and ``predict(bags)`` from keyword parameters. Those that take
        `seed` or `device` get it.
    grid
        Parameters to choose from, by model: ``{"deepspot": {"network": [{"width": 256}, {"width": 512}]}}``, as in
        scikit-learn's ParameterGrid. Without one a model runs as it is made, and needs no inner folds.
    genes
        How many of the training side's most variable genes (Seurat v3, batch by slide), or names. A named gene that no
        training slide measures is left out of that fold.
    min_detected
        Share of the spots of every training slide in which a gene has to be seen to be among the most variable.
    top
        Numbers of genes of the curve; those above the number of genes become all genes, once.
    inner_folds
        At most so many inner folds.
    leave_out
        ``"patient"``; or ``"slide"``, which holds out sections of patients that are learned from: a check that the code
        learns, never evidence of how it does on the next patient.
    encoder
        Name in :func:`deepspot.encoders.available`, or an encoder; by default the embedded one.
    image_key, shapes_key, table_key
        Image, spots and measured genes; needed only where a slide has several.
    layer
        Layer with the raw counts; by default `X`.
    coordinate_system
        Coordinate system to relate spots and image with, should they share several that disagree.
    tile_um
        Side of a spot tile in µm; by default the diameter of the tissue that a spot measures.
    radius_um
        Spots up to this distance in µm are neighbors; by default 1.5 times the distance between spots.
    max_neighbors
        At most so many neighbors in the radius, the nearest first.
    array_box
        Neighbors from a box of the spot array with so many steps (the paper takes 1), unless there is a radius.
    tiles_px
        Side in pixels at which tiles are read for models that learn from pixels, such as ``"stnet_finetuned"``.
    subspots
        Whether to embed the sub-spots, and from what. True, or ``"tiles"``: each from a tile of its own (nine tenths of
        the work). ``"tokens"``: in one pass with the tile of their spot; see :func:`deepspot.pp.embed`. Without them
        every model needs a `context` that has none.
    oversample
        Repeat training spots until clusters are of one size: ``"leiden"`` or ``"aestetik"``.
    n_bootstrap
        Bootstrap samples of patients.
    out
        Folder for finished fits: the same call goes on where a killed one stopped, and gives the same result. A file is
        named by the content of all that its fit depended on (for models of this package by the version of the package,
        for others by their source), and holds the predictions of the held-out slides.
    seed
        Same seed, same result on the same machine. None falls back to the settings.
    device
        Where to compute; None falls back to the settings, then to CUDA, MPS, CPU.
    batch_size
        Tiles that go through the encoder at once; None falls back to the settings.

    Returns
    -------
    A :class:`CrossValidation`: the tidy table, curve, summary, comparison and chosen parameters. Feature tables are
    added to the slides (see :func:`deepspot.pp.embed`), nothing else.

    Raises
    ------
    ValueError
        If there are fewer than two patients (slides), one of them would be on both sides of a fold, or two patients
        have the same counts.
    KeyError
        If a model, gene, column, table or layer does not exist.
    TypeError
        If a model is no estimator; with `out`, if it has no content by which to find it again, such as a lambda.

    References
    ----------
    DeepSpot, sections 4.5 and 4.6; there, the genes were chosen with the held-out patient.

    Examples
    --------
    >>> import deepspot as ds
    >>> slides = ds.datasets.toy(n_patients=3, n_rows=4, n_cols=5)
    >>> cv = ds.models.cross_validate(slides, patient_key="patient", models=["ridge"], genes=20)
    >>> cv.compare("training mean").index.tolist()
    ['ridge']
    """
    from deepspot import encoders
    from deepspot._core.compute import choose_device
    from deepspot.models._training.plan import Keys, Tiling, plan_slides

    from .factories import check_systems, choose_systems
    from .fold import plan_folds
    from .records import Records
    from .result import CrossValidation, tidy
    from .run import Runner

    _at_least(inner_folds, 2, "inner_folds")
    _at_least(n_bootstrap, 2, "n_bootstrap")
    if not top:
        raise InputError(f"`top` is empty. The paper's numbers of genes are {TOP}.")
    numbers = tuple(sorted({_at_least(n, 1, "top") for n in top}))
    if leave_out not in ("patient", "slide"):
        raise InputError(f'`leave_out` must be "patient" or "slide", got {leave_out!r}.')
    if oversample is not None:
        require(oversample)
    seed = int(settings.seed if seed is None else seed)
    choose_device(device)
    systems = choose_systems(models, grid)
    made_from = subspots_from(subspots)
    check_systems(
        systems, seed, device, tiles=tiles_px is not None, subspots=made_from is not None, described=out is not None
    )

    keys = Keys(image_key, shapes_key, table_key, layer, coordinate_system)
    tiling = Tiling(encoders.get(encoder), tile_um, radius_um, array_box, max_neighbors, made_from)
    plan = plan_slides(sdatas, patient_key, keys, tiling)
    slides = plan.measured
    wanted = _at_least(genes, 1, "genes") if isinstance(genes, Integral) else choose_genes(slides, genes)
    folds = plan_folds(
        slides,
        {name: feature.features.view.centers for name, feature in plan.features.items()},
        wanted,
        min_detected=min_detected,
        leave_out=leave_out,
        inner_folds=inner_folds if any(len(system.grid) > 1 for system in systems) else None,
    )
    if leave_out == "slide":
        logger.warning(
            "Slides are held out, their patients are learned from: a check that the code learns, no evidence of how "
            "a model does on the next patient."
        )

    # Everything has been checked; now the hours begin.
    tiles = {} if tiles_px is None else {"tiles_px": tiles_px}
    bags = plan.embed(device=device, batch_size=batch_size, **tiles)
    records = Records(None if out is None else Path(out))
    table, inner = Runner(systems, bags, records, numbers, seed, device, oversample).run(folds)
    return CrossValidation(
        table=tidy(table),
        inner=inner,
        grid={system.name: list(system.grid) for system in systems},
        top=numbers,
        leave_out=leave_out,
        genes=wanted,
        slides={slide.name: slide.patient for slide in slides},
        seed=seed,
        n_bootstrap=int(n_bootstrap),
        systems={system.name: system for system in systems},
    )


def _at_least(value: Any, least: int, argument: str) -> int:
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InputTypeError(f"`{argument}` must be a whole number, got {value!r}.")
    if value < least:
        raise InputError(f"`{argument}` must be at least {least}, got {value}.")
    return int(value)
