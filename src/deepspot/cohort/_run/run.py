from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from deepspot._core.keys import key_in
from deepspot._core.logging import logger
from deepspot.errors import InputTypeError

from .dask_runner import DaskRunner, check_portable, connected
from .folder import Folder
from .manifest import read_manifest
from .run_table import DONE, FAILED, Progress, RunTable, save_profiles
from .slide import Job, Layout, Recipe, SlideResult, Tissue, find_result, one_line, run_slide, split

if TYPE_CHECKING:
    import pandas as pd
    from distributed import Client

    from deepspot.encoders import Encoder
    from deepspot.models import DeepSpot


def run(
    manifest: str | Path | pd.DataFrame,
    model: DeepSpot | str | Path | None = None,
    out: str | Path | None = None,
    *,
    client: Client | str | None = None,
    diameter_um: float | None = None,
    pitch_um: float | None = None,
    layout: Layout = "square",
    tissue: Tissue | None = "brightness",
    half: bool = True,
    encoder: str | Encoder | None = None,
    device: str | None = None,
    batch_size: int | None = None,
    overwrite: bool = False,
) -> pd.DataFrame:
    """Predict the spots of all slides of a cohort, here or on a Dask cluster, and say what became of each.

    For each slide: read its file (:func:`deepspot.io.slide`), place spots over the tissue (:func:`deepspot.pp.spots`),
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
        `tumor_type`. Other columns are carried along.
    model
        From :func:`deepspot.models.train`, or the path of a bundle; None takes the embedded model.
    out
        Folder for results. It may hold an earlier run of the cohort, or of a part of it.
    client
        Where to run: None is this process; else a ``distributed.Client``, or the address of a scheduler. Workers do one
        slide at a time. They need this package, and see `out` and the slides under the same paths. They take over
        :data:`deepspot.settings`.
    diameter_um, pitch_um
        Of spots; by default the side of the tile that the model was trained on, and the distance between the spots that
        it was trained on.
    layout, tissue
        How spots are arranged, and what counts as tissue; see :func:`deepspot.pp.spots`. The paper has a square grid,
        and takes what is not brighter than 200.
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
    >>> runs = ds.cohort.run("manifest.csv", model, "results")  # doctest: +SKIP
    >>> runs["status"].value_counts()  # doctest: +SKIP
    """
    from deepspot.models._registry import as_model

    if out is None:
        raise InputTypeError("`out` is missing: the folder for results.")
    slides = read_manifest(manifest)
    ready = as_model(model)
    if client is None:
        ready.get_encoder(encoder)
    diameter, distance = ready.spot_size(diameter_um, pitch_um)
    key_in(layout, get_args(Layout), "layout")
    if tissue is not None:
        key_in(tissue, get_args(Tissue), "tissue")
    folder = Folder(Path(out).expanduser().resolve())
    mpp = slides["mpp"].astype(object).where(slides["mpp"].notna(), None) if "mpp" in slides else [None] * len(slides)
    recipe = Recipe(ready.fingerprint, diameter, distance, layout, tissue, half)
    jobs = [
        Job(name, path, scale, folder, recipe, encoder, device, batch_size)
        for name, path, scale in zip(slides.index, slides["path"], mpp, strict=True)
    ]
    with folder.claim(), _runner(ready, client, encoder) as runner:
        finished, to_do = split(jobs, folder, overwrite=overwrite)
        for result in finished:  # a process may have died just after it had put a slide in its place
            folder.forget(result.slide)
        _keep_model(folder, ready)
        if to_do:
            runner.check(to_do[0])
        table = RunTable(folder, slides, finished)
        logger.info("%d slides in %s: %d are finished, %d to do.", len(jobs), folder.path, len(finished), len(to_do))
        table.save()
        _run(to_do, runner, table, ready)
    done, failed = table.count(DONE), table.count(FAILED)
    words = f", {failed} failed" * bool(failed)
    logger.info("%d of %d slides are done%s. Run table: %s", done, len(jobs), words, folder.runs)
    return table.frame


class SerialRunner:
    """Run jobs in this process, one after the other."""

    def __init__(self, model: DeepSpot) -> None:
        self.model = model

    def workers(self) -> int:
        """How many slides are worked on at once."""
        return 1

    def check(self, job: Job) -> None:
        """All that a job needs was checked before."""

    def run(self, jobs: Sequence[Job]) -> Iterator[SlideResult]:
        """Do the jobs, and tell of each when it has come to its end."""
        for job in jobs:
            yield run_slide(job, self.model)


@contextmanager
def _runner(
    model: DeepSpot, client: Client | str | None, encoder: str | Encoder | None
) -> Iterator[SerialRunner | DaskRunner]:
    if client is None:
        yield SerialRunner(model)
        return
    check_portable(encoder)
    with connected(client) as ready:
        yield DaskRunner(ready)


def _run(jobs: Sequence[Job], runner: SerialRunner | DaskRunner, table: RunTable, model: DeepSpot) -> None:
    """First the slides of which nothing bad is known, then those during which a process died."""
    folder, by_name = table.folder, {job.slide: job for job in jobs}
    deaths = folder.deaths()
    suspects = [job for job in jobs if job.slide in deaths]
    sizes = {job.slide: job.size() for job in jobs}
    with Progress(sizes, len(table.frame), table.count(DONE), runner.workers) as progress:
        for part in ([job for job in jobs if job.slide not in deaths], suspects):
            for result in runner.run(part):
                folder.forget(result.slide)
                if not result.done:  # another worker may have done it all the same
                    result = find_result(by_name[result.slide]) or result
                table.put(result)
                table.save()
                if not result.done:
                    logger.warning("Slide %r failed. %s", result.slide, result.error)
                progress.update(result)
            if part is not suspects and suspects:
                # These may kill this process once more: what is known by now shall be there then.
                for job in suspects:
                    often = "" if deaths[job.slide] == 1 else f" {deaths[job.slide]} times"
                    error = f"Killed: the process was killed{often} while it worked on this slide, so that it is tried "
                    table.put(SlideResult(job.slide, None, error=error + "again last"))
                try:
                    _save(table, model)
                except OSError as error:  # it is tried again at last
                    logger.warning("%s", error)
    _save(table, model)


def _save(table: RunTable, model: DeepSpot) -> None:
    """Write the run table and the profiles; if one of them could not be, the other one is written all the same."""
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
            f"Could not write {what} in {str(folder.path)!r}. Finished slides are kept: start again when there is room."
        ) from next(iter(errors.values()))


def _keep_model(folder: Folder, model: DeepSpot) -> None:
    """Save the model, from which workers load it, and by which results describe themselves."""
    from deepspot.models._registry import read_model

    try:
        if read_model(folder.model).fingerprint == model.fingerprint:
            return
    except (FileNotFoundError, ValueError):  # there is none, or it is damaged
        pass
    folder.pseudobulk.unlink(missing_ok=True)  # profiles of another model must not stay next to this one
    model.save(folder.model, overwrite=True)
