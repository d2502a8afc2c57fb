from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from deepspot._core.logging import logger

from .report import CONTENT, draw_figures, summary, write_report
from .slides import ToySetup, load_slides

MARKER = ".deepspot-demo"


def run_demo(out: Path, *, toy: bool = False, seed: int = 0, _setup: ToySetup | None = None) -> dict[str, Any]:
    """Train on some slides, predict another one, compare with the measurement, and write the results to `out`.

    Writes ``slide.zarr``, ``model``, ``figures``, ``metrics.csv`` and ``report.html``. Returns `metrics` (one row per
    gene), `real` (whether the slides are real), `seconds` by step, `report` (path) and `summary`.
    """
    from deepspot import pp, tl
    from deepspot.models import train

    from .compare import compare

    seconds: dict[str, float] = {}
    setup = _setup or ToySetup()
    claim(out)
    with _step("Reading the slides", seconds):
        slides = load_slides(toy=toy, seed=seed, setup=setup)
    # The setup makes synthetic slides fast; real slides use the defaults of the package.
    encoder, network, training = (None, None, None) if slides.real else (setup.encoder, setup.network, setup.training)
    with _step("Embedding the images", seconds):
        for sdata in (*slides.train.values(), slides.test):
            pp.embed(sdata, encoder)
    with _step("Training", seconds):
        model = train(
            slides.train,
            patient_key="patient",
            genes=slides.genes,
            encoder=encoder,
            network=network,
            training=training,
            seed=seed,
            card={
                "name": "demo",
                "tissue": "HER2-positive breast cancer" if slides.real else "synthetic",
                "license": "CC BY 4.0 (training data)" if slides.real else "CC0 (synthetic data)",
            },
        )
        model.save(out / "model")
    with _step("Predicting the test slide", seconds):
        tl.predict(slides.test, model, encoder=encoder)
    with _step("Comparing with ridge and the training mean", seconds):
        scores, paired = compare(slides, model, prediction_key="deepspot_spots")
        scores.to_csv(out / "metrics.csv", float_format="%.4f")
    with _step("Writing the slide", seconds):
        slides.test.write(out / "slide.zarr")
    with _step("Drawing", seconds):
        figures = draw_figures(slides, model, scores, out / "figures")
    command = f"python -m deepspot demo --out {out}{' --toy' if toy else ''} --seed {seed}"
    report = write_report(
        out / "report.html", slides, model, scores, paired, figures=figures, seconds=seconds, command=command
    )
    return {
        "metrics": scores,
        "real": slides.real,
        "seconds": seconds,
        "report": report,
        "summary": summary(slides, scores, paired, seconds, out),
    }


@contextmanager
def _step(name: str, seconds: dict[str, float]) -> Iterator[None]:
    logger.info("── %s", name)
    start = time.perf_counter()
    yield
    seconds[name] = time.perf_counter() - start


def claim(out: Path) -> Path:
    """Make the output folder, or clear the results of an earlier demo; raise if it has other content."""
    if out.exists() and not (out / MARKER).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise FileExistsError(
            f"{str(out)!r} exists and was not made by `deepspot demo`; nothing was written. Choose another folder with "
            "--out."
        )
    out.mkdir(parents=True, exist_ok=True)
    (out / MARKER).write_text("Made by `deepspot demo`, which replaces its own files here when it is run again.\n")
    for name in CONTENT:
        if (out / name).is_dir():
            shutil.rmtree(out / name)
        else:
            (out / name).unlink(missing_ok=True)
    (out / "figures").mkdir()
    return out
