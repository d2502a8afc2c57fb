from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from deepspot._core.keys import checked, key_in
from deepspot._core.logging import count_of, logger
from deepspot.errors import InputError, InputTypeError

from .dask_runner import DaskRunner, check_portable, connected
from .folder import Folder
from .manifest import read_manifest
from .run_table import DONE, FAILED, Progress, RunTable, save_profiles
from .sections import Sections, choose_sections
from .slide import Artifacts, Job, Layout, SlideOptions, SlideResult, Tissue, find_result, one_line, run_slide, split

if TYPE_CHECKING:
    import pandas as pd
    from distributed import Client

    from deepspot.encoders import Encoder
    from deepspot.models import Model


@checked
def run(
    manifest: str | Path | pd.DataFrame,
    model: Model | str | Path | None = None,
    out: str | Path | None = None,
    *,
    client: Client | str | None = None,
    sections: Sections | None = None,
    diameter_um: float | None = None,
    pitch_um: float | None = None,
    layout: Layout = "square",
    tissue: Tissue | None = "brightness",
    artifacts: Artifacts | None = None,
    rounded: bool = False,
    encoder: str | Encoder | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Predict the spots of all slides of a cohort, in this process or on a Dask cluster.

    For each slide, the file is read (:func:`deepspot.io.slide`), spots are placed on the tissue
    (:func:`deepspot.pp.spots`) and predicted to disk (:func:`deepspot.tl.predict`), and their mean is the profile.

    Call the function again to resume an interrupted run: finished slides are skipped, and incomplete results are never
    used. Failed slides are repeated. Slides during which a process was killed come last. A slide that fails is a row of
    the run table and does not stop the others.

    Parameters
    ----------
    manifest
        Slides: path of a CSV, or a data frame. Required columns are `path` (relative to the folder of the CSV) and
        `patient`. Optional columns are `slide` (name, by default that of the file), `mpp` (µm per pixel, if the file
        does not state it or is wrong), `preservation` (``"FF"`` or ``"FFPE"``), `tissue_area` (mm²) and `tumor_type`.
        Other columns are kept.
    model
        Model from :func:`deepspot.models.train`, or the path of a bundle; None is the embedded model.
    out
        Output folder. It may contain an earlier run of the cohort, or of a part of it.
    client
        ``distributed.Client``, or the address of a scheduler; None is this process. Each worker predicts one slide at a
        time. Workers need this package, and `out` and the slides under the same paths. They use the
        :data:`deepspot.settings` of this process.
    sections
        Keep one frozen section of each tissue sample: ``"top"``, as in the paper, by the barcode of TCGA
        (``TCGA-AB-1234-01A-01-TS1`` before ``MS`` and ``BS``), or ``"largest"``, by `tissue_area`, else by the size of
        the file. Samples are those of the column `sample`, else of the barcode. FFPE slides are always kept. None
        keeps all.
    diameter_um, pitch_um
        Diameter of spots and distance between them, by default those that the model was trained with.
    layout, tissue
        Layout of spots, and rule that detects tissue, see :func:`deepspot.pp.spots`. The paper uses a square grid and
        a brightness of at most 200.
    artifacts
        Spots that are out of focus, folded or marked with a pen, see :func:`deepspot.pp.quality`: ``"exclude"`` them,
        or ``"flag"`` them in the columns of the spots of each slide. None, as in the paper, does not look for them:
        that reads each slide once more.
    rounded
        Round expression to the 11 significant bits of float16, see :func:`deepspot.tl.predict`: less than half the size
        on disk.
    encoder
        Encoder of the model, if it is not registered under the name in the model card. On a cluster, a name that is
        registered on the workers, or an object of less than 50 MB that can be pickled.
    device
        Device; None uses the settings, then CUDA, MPS, CPU. Start one worker for each GPU.
    batch_size
        Tiles per batch of the encoder; None uses the settings.
    overwrite
        Replace slides that were made with another model, other options, or from another file.

    Returns
    -------
    Run table, indexed by the names of the slides: `path`, `patient`, `status` (``"done"`` or ``"failed"``), `seconds`
    (float64), `spots` (Int64), `ood_share` (float64, share of out-of-distribution spots), `artifact_share` (float64,
    share of the spots on tissue that have artifacts, excluded or not; missing with `artifacts=None`), `error` (kind and
    text). Writes to `out`:

    ``slides/<name>.zarr``
        SpatialData of a slide: the spots, and the table ``deepspot_spots`` of :func:`deepspot.tl.predict`, with the
        profile in ``var["pseudobulk"]`` (float32). The image is not copied; ``attrs["deepspot_slide"]`` has its path,
        and ``attrs["deepspot_cohort"]`` the provenance.
    ``pseudobulk.h5ad``
        AnnData (slides, genes), float32: the mean over spots of each finished slide. `obs` has the columns of the
        manifest, `spots` and `ood_share`.
    ``runs.csv``
        Run table, written after each slide, but for at most a twentieth of the time; slides that are not yet done have
        the status ``"waiting"``.
    ``model``
        Bundle of the model, if it can be saved.

    Raises
    ------
    FileNotFoundError
        If the manifest or the model does not exist. A missing slide is a row of the run table instead.
    ValueError
        Before any slide: if the manifest has mistakes, the distance between spots is unknown, the sub-spots of the
        model are nuclei, slides in `out` were made with other options, `out` is another folder or in use by another
        process, or the workers cannot run this.
    OSError
        At the end, if the run table or the profiles could not be written. Finished slides are kept.
    TypeError
        If `out` is missing, or the encoder cannot be sent to workers.

    References
    ----------
    DeepSpot, sections 2.5, 4.3.1 and 4.5.4: whole slides of TCGA, and the mean over their spots.

    Examples
    --------
    >>> import deepspot as ds
    >>> runs = ds.cohort.run("manifest.csv", model, "results")  # doctest: +SKIP
    >>> runs["status"].value_counts()  # doctest: +SKIP
    """
    from deepspot.models._registry import as_model

    if out is None:
        raise InputTypeError("`out` is missing: the output folder.")
    slides = read_manifest(manifest)
    if sections is not None:
        slides = choose_sections(slides, sections)
    ready = as_model(model)
    if "subspots" in ready.context and ready.geometry.tile.subspots == "nuclei":
        raise InputError(
            f"The sub-spots of model {ready.card.name!r} are nuclei, which a cohort does not segment. Call "
            "`ds.pp.nuclei` and `ds.tl.predict` for each slide, or use a model whose sub-spots are parts of the tile."
        )
    if client is None:
        ready.get_encoder(encoder)
    diameter, pitch = ready.spot_size(diameter_um, pitch_um)
    key_in(layout, get_args(Layout), "layout")
    if tissue is not None:
        key_in(tissue, get_args(Tissue), "tissue")
    if artifacts is not None:
        key_in(artifacts, get_args(Artifacts), "artifacts")
    folder = Folder(Path(out).expanduser().resolve())
    scales = (
        slides["mpp"].astype(object).where(slides["mpp"].notna(), None) if "mpp" in slides else [None] * len(slides)
    )
    fingerprint = ready.fingerprint  # hashes all weights
    jobs = []
    for name, path, mpp in zip(slides.index, slides["path"], scales, strict=True):
        options = SlideOptions(fingerprint, diameter, pitch, layout, tissue, rounded, mpp, artifacts)
        jobs.append(Job(name, path, folder, options, encoder, device, batch_size))
    if client is not None and ready.not_saved:
        raise InputError(
            f"Model {ready.card.name!r} cannot be sent to workers: {ready.not_saved}. Run without `client`."
        )
    with folder.claim(), _connection(client, encoder) as runner:
        finished, to_do = split(jobs, folder, overwrite=overwrite)
        # A process may have been killed directly after it had moved the result.
        for name in folder.n_kills().keys() & {result.slide for result in finished}:
            folder.forget(name)
        _keep_model(folder, ready)
        if to_do and runner is not None:
            runner.check(to_do[0])
        table = RunTable(folder, slides, finished)
        counts = count_of(len(jobs), "slide"), folder.path, len(finished), len(to_do)
        logger.info("%s in %s: %d are finished, %d to do.", *counts)
        table.save()
        try:
            _run(to_do, runner, table, ready)
        except BaseException:  # also an interrupt
            table.save(now=True)
            raise
    done, failed = table.count(DONE), table.count(FAILED)
    failures = f", {failed} failed" * bool(failed)
    of, are = count_of(len(jobs), "slide"), "is" if len(jobs) == 1 else "are"
    logger.info("%d of %s %s done%s. Run table: %s", done, of, are, failures, folder.runs)
    return table.frame


@contextmanager
def _connection(client: Client | str | None, encoder: str | Encoder | None) -> Iterator[DaskRunner | None]:
    """Return the runner of a Dask cluster, or None to run in this process."""
    if client is None:
        yield None
        return
    check_portable(encoder)
    with connected(client) as ready:
        yield DaskRunner(ready)


def _run(jobs: Sequence[Job], runner: DaskRunner | None, table: RunTable, model: Model) -> None:
    """Run the jobs; slides during which a process was killed come last."""
    folder, by_name = table.folder, {job.slide: job for job in jobs}
    kills = folder.n_kills()
    suspects = [job for job in jobs if job.slide in kills]
    sizes = {job.slide: job.size() for job in jobs}
    workers = (lambda: 1) if runner is None else runner.workers
    with Progress(sizes, len(table.frame), table.count(DONE), workers) as progress:
        for part in ([job for job in jobs if job.slide not in kills], suspects):
            for result in (run_slide(job, model) for job in part) if runner is None else runner.run(part):
                folder.forget(result.slide)
                if not result.done:  # another worker may have finished the slide
                    result = find_result(by_name[result.slide]) or result
                table.put(result)
                table.save()
                if not result.done:
                    logger.warning("Slide %r failed. %s", result.slide, result.error)
                progress.update(result)
            if part is not suspects and suspects:
                # Write everything now: the remaining slides may kill this process again.
                for job in suspects:
                    times = "" if kills[job.slide] == 1 else f" {kills[job.slide]} times"
                    error = f"Killed: the process was killed{times} during this slide. It is repeated last."
                    table.put(SlideResult(job.slide, None, error=error))
                try:
                    _save(table, model)
                except OSError as error:  # repeated at the end
                    logger.warning("%s", error)
    _save(table, model)


def _save(table: RunTable, model: Model) -> None:
    """Write the run table and the profiles; if one of them fails, the other is still written."""
    errors: dict[Path, OSError] = {}
    folder = table.folder
    for path, write in ((folder.runs, table.write), (folder.pseudobulk, lambda: save_profiles(table, model))):
        try:
            write()
        except OSError as error:
            errors[path] = error
    if errors:
        what = " and ".join(f"{path.name!r} ({one_line(error)})" for path, error in errors.items())
        raise OSError(
            f"Could not write {what} in {str(folder.path)!r}. Finished slides are kept: free space and start again."
        ) from next(iter(errors.values()))


def _keep_model(folder: Folder, model: Model) -> None:
    """Save the model for workers and for later use of the results, if it can be saved."""
    from deepspot.models._registry import read_model

    before = None
    if folder.model.exists():
        try:
            before = read_model(folder.model).fingerprint
        except (OSError, ValueError) as error:
            logger.warning("The model in %s is damaged and is written again (%s).", folder.model, one_line(error))
    if before == model.fingerprint:
        return
    if model.not_saved:
        logger.warning("The folder gets no bundle of model %r: %s.", model.card.name, model.not_saved)
        folder.drop_model()
    else:
        folder.save_model(model)
    if before is not None:
        folder.pseudobulk.unlink(missing_ok=True)  # profiles of another model
