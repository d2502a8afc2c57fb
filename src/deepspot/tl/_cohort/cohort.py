from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, get_args

from deepspot._core.validate import check_positive, key_in

if TYPE_CHECKING:
    import pandas as pd
    from distributed import Client

    from deepspot.encoders import Encoder
    from deepspot.models import DeepSpot

    from .job import Layout, Tissue


def cohort(
    manifest: str | Path | pd.DataFrame,
    model: DeepSpot | str | Path | None = None,
    out: str | Path | None = None,
    *,
    client: Client | str | None = None,
    diameter_um: float | None = None,
    distance_um: float | None = None,
    layout: Layout = "square",
    tissue: Tissue | None = "brightness",
    half: bool = True,
    encoder: str | Encoder | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Predict the spots of all slides of a cohort, here or on a Dask cluster, and say what became of each.

    For each slide: read its file (:func:`deepspot.io.slide`), lay spots over the tissue (:func:`deepspot.pp.spots`),
    predict them to disk (:func:`deepspot.tl.predict`), and average them to a profile.

    A process may be killed at any moment. Started again in the same way, this goes on: slides that are finished are not
    done again, and nothing half-written is taken for finished. Slides that failed are tried again, and those during
    which a process was killed come last. A slide that cannot be done is a row of the run table, and others go on.

    Parameters
    ----------
    manifest
        The slides: path of a CSV, or a data frame. Needs columns `path` (relative ones are meant from the folder of the
        CSV) and `patient`. Optional are `slide` (its name, by default that of the file), `mpp` (µm per pixel, where the
        file does not say that or is wrong), `preservation` (``"FF"`` or ``"FFPE"``), `tissue_area` (mm²) and
        `tumour_type`. Other columns are carried along.
    model
        From :func:`deepspot.tl.train`, or the path of a bundle; None takes the embedded model.
    out
        Folder for results. It may hold an earlier run of the cohort, or of a part of it.
    client
        Where to run: None is this process; else a ``distributed.Client``, or the address of a scheduler. Workers do one
        slide at a time. They need this package, and see `out` and the slides under the same paths. They take over
        :data:`deepspot.settings`.
    diameter_um, distance_um
        Of spots; by default the side of the tile that the model was trained on, and the distance between the spots that
        it was trained on.
    layout, tissue
        How spots are laid, and what counts as tissue; see :func:`deepspot.pp.spots`. The paper has a square grid, and
        takes what is not brighter than 200.
    half
        Keep expression in the precision of float16, which packs to about half the size.
    encoder
        Encoder of the model, should it not be in the registry under the name in the model's card. On a cluster workers
        have to know its name, or it is an object of less than 50 MB that can be pickled.
    device
        Where to compute; None falls back to the settings, then to CUDA, MPS, CPU. GPUs are given one worker each.
    batch_size
        Tiles that go through the encoder at once; None falls back to the settings.
    overwrite
        Do slides again that were made with another model, other options, or of another file.

    Returns
    -------
    The run table, one row for each slide of the manifest, by its name: `path`, `patient`, `status` (``"done"`` or
    ``"failed"``), `seconds` (float64), `spots` (Int64), `ood_share` (float64, share of spots that are unlike the
    training), `error` (kind and text of what went wrong). Writes to `out`:

    ``slides/<name>.zarr``
        A SpatialData for each slide: the spots, and the table ``deepspot_spots`` as :func:`deepspot.tl.predict` makes
        it, with the profile in ``var["pseudobulk"]`` (float32). The image is not copied; ``attrs["deepspot_slide"]``
        says where it is, ``attrs["deepspot_cohort"]`` how the slide was made.
    ``pseudobulk.h5ad``
        An AnnData (slides, genes), float32: the mean over the spots of each slide that is done. `obs` has the columns
        of the manifest, `spots` and `ood_share`.
    ``runs.csv``
        The run table, written after each slide; slides that wait have the status ``"waiting"``.
    ``model``
        The model, as a bundle.

    Raises
    ------
    FileNotFoundError
        If there is no such manifest or model. A slide that does not exist is a row of the run table instead.
    ValueError
        Before anything runs: if the manifest has mistakes, the distance between spots is neither given nor known,
        slides in `out` were made otherwise, `out` belongs to something else, another process works in it, or workers
        cannot do this.
    OSError
        At last, if the run table or the profiles could not be written. Finished slides are kept.
    TypeError
        If `out` is missing, or the encoder cannot be sent to workers.

    References
    ----------
    DeepSpot, sections 2.5, 4.3.1 and 4.5.4: whole slides of TCGA, and the mean over their spots.

    Examples
    --------
    >>> import deepspot as ds
    >>> runs = ds.tl.cohort("manifest.csv", model, "results")  # doctest: +SKIP
    >>> runs["status"].value_counts()  # doctest: +SKIP
    """
    from deepspot import models

    from .job import Layout, Recipe, Tissue
    from .manifest import read_manifest
    from .run import Options, run_cohort

    if out is None:
        raise TypeError("`out` is missing: the folder for results.")
    slides = read_manifest(manifest)
    ready = model if isinstance(model, models.DeepSpot) else models.load(model)
    geometry = ready.geometry
    if client is None:
        ready.get_encoder(encoder)
    diameter = geometry.tile.tile_um if diameter_um is None else diameter_um
    distance = ready.spacing_um if distance_um is None else distance_um
    key_in(layout, get_args(Layout), "layout")
    if tissue is not None:
        key_in(tissue, get_args(Tissue), "tissue")
    recipe = Recipe(
        ready.fingerprint, float(check_positive(diameter, "diameter_um")),
        float(check_positive(distance, "distance_um")), layout, tissue, half,
    )  # fmt: skip
    options = Options(client, encoder, device, batch_size, overwrite)
    return run_cohort(slides, ready, recipe, Path(out).expanduser().resolve(), options)


HOUR, DAY = 3600, 24


def cohort_cost(
    n_spots: int,
    *,
    tiles_per_second: float,
    workers: int = 1,
    n_genes: int = 5_000,
    dim: int = 1_312,
    subspots: int = 9,
    distance_um: float = 100,
    mpp: float = 0.5,
    megapixels_per_second: float = 25,
    spots_per_second: float = 1_900,
    megabytes_per_second: float = 80,
    bytes_per_value: float = 1.5,
) -> pd.DataFrame:
    """Compute what a cohort of whole slides costs in time and on disk.

    A worker does the four steps one after the other, and slides are independent of each other: hours are work over
    rate, and divide by the number of workers.

    Parameters
    ----------
    n_spots
        Spots of all slides together.
    tiles_per_second
        Tiles that a worker's encoder takes in a second: measure it with ``benchmarks/throughput.py`` on your device.
    workers
        How many run at once: one for each GPU.
    n_genes
        Genes of the model.
    dim
        Length of an embedding.
    subspots
        Sub-spots of a spot; 0 for a model that does not use them.
    distance_um, mpp
        Distance between spots and size of a pixel: how many pixels are read.
    megapixels_per_second
        Pixels that a worker reads and cuts into tiles.
    spots_per_second
        Spots whose genes a worker predicts from embeddings.
    megabytes_per_second
        What a worker packs and writes of expression, before it is packed.
    bytes_per_value
        What one gene of one spot takes on disk: 1.5 as `half`, else 3.2.

    Returns
    -------
    A data frame with the steps `read`, `embed`, `predict` and `write` as index, and `all` at the end. Columns:
    `amount` and `unit` of the work, `hours` of one worker, `share` of the time, `days` with all workers, and
    `gigabytes` on disk: embeddings in float16 in the row `embed`, of which `settings.embeddings_gb` are kept at most,
    expression in the row `write`.

    Raises
    ------
    ValueError
        If a number is not above 0.

    References
    ----------
    DeepSpot, section 2.5 (1,792 slides, 37 million spots). The numbers behind the defaults: the page on what a cohort
    costs.

    Examples
    --------
    >>> import deepspot as ds
    >>> cost = ds.tl.cohort_cost(37_000_000, tiles_per_second=1_000, workers=8)
    >>> int(cost.loc["embed", "amount"] / 1e6)
    370
    """
    import pandas as pd

    numbers = {name: value for name, value in locals().items() if name not in ("pd", "subspots")}
    for name, value in numbers.items():
        check_positive(value, name)
    if subspots < 0:
        raise ValueError(f"`subspots` must not be below 0, got {subspots}.")
    tiles, values = n_spots * (1 + subspots), n_spots * n_genes
    megapixels = n_spots * (distance_um / mpp) ** 2 / 1e6
    steps = pd.DataFrame(
        {
            "read": (megapixels, "megapixels", megapixels_per_second, 0),
            "embed": (tiles, "tiles", tiles_per_second, tiles * dim * 2 / 1e9),
            "predict": (n_spots, "spots", spots_per_second, 0),
            "write": (values * 4 / 1e6, "megabytes", megabytes_per_second, values * bytes_per_value / 1e9),
        },
        index=["amount", "unit", "rate", "gigabytes"],
    ).T.infer_objects()
    hours = steps["amount"] / steps.pop("rate") / HOUR
    steps = steps.assign(hours=hours, share=hours / hours.sum(), days=hours / workers / DAY)
    total = steps[["hours", "share", "days", "gigabytes"]].sum().rename("all")
    return pd.concat([steps, total.to_frame().T.assign(amount=n_spots, unit="spots")])[
        ["amount", "unit", "hours", "share", "days", "gigabytes"]
    ]
