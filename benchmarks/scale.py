"""What thousands of slides cost beside their spots: the overhead of a slide, the scheduler, a restart, and files.

    DEEPSPOT_DATA=../shared/data python benchmarks/scale.py [--slides 200] [--workers 1 2] [--copies 200 2000 30000]
        [--before path/to/src]

Slides have 12 spots, and the encoder takes mean colors, so that everything but the encoder is seen; the model has
5,000 genes. They are predicted by `ds.cohort.run` on Dask workers with one thread each, again when all are done, and
again when half of them are. For cohorts of thousands, a finished slide is copied under other names: hard links of its
files, with folders and attributes of its own. Then `ds.cohort.run` starts with all of them done, and results are read.
With `--before`, the same is done in turn with the package in another folder, up to 2,000 slides.

Each part runs in a process of its own. Seconds are CPU time, as the machine may be shared, unless they are called wall
time. Memory is the peak above the process that has loaded everything (VmHWM). What the largest atlas would take is
calculated from these, and from the rates of `benchmarks/throughput.py`. Writes benchmarks/results/scale.md.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import tifffile
from _scale_tables import ATLAS_SLIDES, DISTANCE_UM, RESULTS, TABLE_SLIDES, report
from streaming import MeanColors, make_model, status

import deepspot as ds

ROWS, COLUMNS = 3, 4  # of spots
SCHEDULED, ALONE, LISTED, BEFORE_MOST = 2_000, 20, 500, 2_000
SRC = Path(ds.__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--slides", type=int, default=200)
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--copies", type=int, nargs="+", default=[200, 2_000, ATLAS_SLIDES])
    parser.add_argument("--before", type=Path, help="`src` of an earlier version")
    parser.add_argument("--part", nargs="+", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        name, *values = args.part
        print(json.dumps(PARTS[name](*values)))
        return
    versions = {"now": SRC} if args.before is None else {"before": args.before.resolve(), "now": SRC}
    with tempfile.TemporaryDirectory(dir=os.environ.get("DEEPSPOT_CACHE")) as name:
        scratch = Path(name)
        write_slides(scratch, args.slides)
        make_model(MeanColors(), subspots=False).save(scratch / "model")
        found: dict[str, Any] = {
            "clusters": [part("cluster", SRC, scratch, n, n == args.workers[-1]) for n in args.workers]
        }
        found |= {"scheduler": part("scheduler", SRC, scratch, SCHEDULED), "alone": {}}
        found |= {"copies": {each: [] for each in versions}, "tables": {each: [] for each in versions}}
        for each, src in versions.items():
            found["alone"][each] = part("alone", src, scratch, each)
        for n in args.copies:
            for each, src in versions.items():
                found["tables"][each].append(part("table", src, scratch, n))
                if each == "now" or n <= BEFORE_MOST:
                    copy_slides(scratch, each, n)
                    found["copies"][each].append(part("copies", src, scratch, each, n))
        subprocess.run(["rm", "-rf", *map(str, scratch.iterdir())], check=True)  # millions of files
    text = "\n".join(report(args, found)) + "\n"
    (RESULTS / "scale.md").write_text(text)
    print(text)


def part(name: str, src: Path, *values: object) -> dict[str, Any]:
    """Run a part with the package in `src`, in a process of its own."""
    paths = os.pathsep.join([str(src), str(Path(__file__).parent)])
    command = [sys.executable, __file__, "--part", name, *map(str, values)]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": paths})
    if done.returncode:
        raise RuntimeError(done.stderr)
    print(name, *values[1:], done.stdout.splitlines()[-1], flush=True)
    return json.loads(done.stdout.splitlines()[-1])


def write_slides(scratch: Path, n: int) -> None:
    (scratch / "slides").mkdir()
    rng, rows = np.random.default_rng(0), []
    for i in range(n):
        path = scratch / "slides" / f"s{i:05}.tif"
        image = rng.integers(60, 180, (ROWS * DISTANCE_UM, COLUMNS * DISTANCE_UM, 3), dtype=np.uint8)
        tifffile.imwrite(path, image, tile=(256, 256), photometric="rgb", compression="zlib", metadata=None)
        rows.append({"path": str(path), "patient": f"P{i // 3}", "mpp": 1.0})
    pd.DataFrame(rows).to_csv(scratch / "slides.csv", index=False)


def copy_slides(scratch: Path, each: str, n: int) -> None:
    """Add copies of the first slide that `alone` predicted, until there are `n`."""
    out, files = scratch / f"alone_{each}", scratch / "files"
    files.mkdir(exist_ok=True)
    first = out / "slides" / "s00000.zarr"
    inside = sorted(path.relative_to(first) for path in first.rglob("*"))
    folders = [path for path in inside if (first / path).is_dir()]
    links = [path for path in inside if (first / path).is_file() and path != Path("zarr.json")]
    root = json.loads((first / "zarr.json").read_text())
    rows = []
    for i in range(n):
        name, path = f"c{i:05}", files / f"c{i:05}.tif"
        rows.append({"slide": name, "path": str(path), "patient": f"P{i // 3}", "mpp": 1.0})
        store = out / "slides" / f"{name}.zarr"
        if store.exists():
            continue
        if not path.exists():
            with path.open("wb") as file:
                file.truncate(10**6 + i)  # files of one size are hashed, as they may be copies
        state = [path.stat().st_size, path.stat().st_mtime_ns]
        root["attributes"]["deepspot_cohort"].update(slide=name, file_state=state)
        root["attributes"]["deepspot_slide"].update(name=name, path=str(path))
        store.mkdir()
        for folder in folders:
            (store / folder).mkdir()
        for link in links:
            os.link(first / link, store / link)
        (store / "zarr.json").write_text(json.dumps(root))
    pd.DataFrame(rows).to_csv(scratch / f"copies_{each}.csv", index=False)


def run(scratch: Path, manifest: pd.DataFrame | Path, out: Path, **options: Any) -> pd.DataFrame:
    return ds.cohort.run(manifest, scratch / "model", out, encoder=MeanColors(), pitch_um=DISTANCE_UM, **options)


def quiet() -> None:
    logging.getLogger("deepspot").setLevel(logging.ERROR)
    ds.settings.progress, ds.settings.embeddings_gb = False, 0


def measure(call: Callable[[], object]) -> dict[str, float]:
    """CPU time, wall time and peak memory of a call."""
    Path("/proc/self/clear_refs").write_text("5")
    base, cpu, wall = status("VmRSS"), time.process_time(), time.perf_counter()
    call()
    return {"cpu": time.process_time() - cpu, "wall": time.perf_counter() - wall, "mb": status("VmHWM") - base}


def cluster(scratch: str, workers: str, half: str) -> dict[str, Any]:
    """The whole cohort on workers, again when all slides are done, and with `half` again when half of them are."""
    from distributed import Client, LocalCluster

    quiet()
    folder, n = Path(scratch), int(workers)
    manifest, out = pd.read_csv(folder / "slides.csv"), folder / f"cluster_{workers}"
    with (
        LocalCluster(n_workers=n, threads_per_worker=1, dashboard_address=":0") as started,
        Client(started) as client,
    ):
        run(folder, manifest[: 2 * n], folder / f"warm_{workers}", client=client)  # everything is imported

        def used() -> float:
            return sum(client.run(time.process_time).values())

        before = used()
        first = measure(lambda: run(folder, manifest, out, client=client))
        first["workers"] = used() - before
        again = measure(lambda: run(folder, manifest, out, client=client))
        result = {"n": len(manifest), "workers": n, "first": first, "again": again}
        if half == "True":
            for store in sorted((out / "slides").iterdir())[::2]:
                shutil.rmtree(store)
            result["half"] = measure(lambda: run(folder, manifest, out, client=client))
    return result | {"done": int((pd.read_csv(out / "runs.csv")["status"] == "done").sum())}


def scheduler(scratch: str, n: str) -> dict[str, Any]:
    """Slides whose files are missing, on one worker: they fail at once. Memory is that above the start."""
    from distributed import Client, LocalCluster

    from deepspot.cohort._run.run_table import Progress

    logging.getLogger("deepspot").setLevel(logging.CRITICAL)
    ds.settings.progress = False
    folder, real, memory = Path(scratch), Progress.update, []
    manifest = pd.DataFrame({"path": [f"/nowhere/{i}.tif" for i in range(int(n))], "patient": "P"})

    def update(self: Progress, result: Any) -> None:
        memory.append(status("VmRSS"))
        real(self, result)

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as started,
        Client(started) as client,
    ):
        run(folder, manifest[:20], folder / "few", client=client)
        base = status("VmRSS")
        Progress.update = update
        spent = measure(lambda: run(folder, manifest, folder / "missing", client=client))
    return spent | {"n": int(n), "memory": [memory[len(memory) * part // 4 - 1] - base for part in (1, 2, 3, 4)]}


def alone(scratch: str, each: str) -> dict[str, Any]:
    """CPU time of the steps of slides in this process, and the files of one of them."""
    from deepspot._sdata import zarr_store
    from deepspot.cohort._run.folder import Folder
    from deepspot.cohort._run.run_table import RunTable

    quiet()
    folder = Path(scratch)
    manifest, out = pd.read_csv(folder / "slides.csv"), folder / f"alone_{each}"
    run(folder, manifest[:2], out)
    seconds: Counter[str] = Counter()
    steps = {
        "open": (ds.io, "slide"), "spots": (ds.pp, "spots"), "predict": (ds.tl, "predict"),
        "profile and attributes": (zarr_store, "complete"), "move": (Folder, "place"), "run table": (RunTable, "save"),
    }  # fmt: skip
    for name, (owner, function) in steps.items():
        setattr(owner, function, timed(name, getattr(owner, function), seconds))
    n = len(manifest[2 : 2 + ALONE])
    total = measure(lambda: run(folder, manifest[: 2 + n], out))["cpu"]
    store = out / "slides" / "s00000.zarr"
    X = [path for path in (store / "tables/deepspot_spots/X/c").rglob("*") if path.is_file()]
    rest = {*store.rglob("*"), store} - set(X)
    return {
        "steps": {name: seconds[name] / n for name in steps} | {"else": (total - sum(seconds.values())) / n},
        "files": sum(path.is_file() for path in rest),
        "X": len(X),
        "folders": sum(path.is_dir() for path in rest),
        "bytes": 512 * sum(path.stat().st_blocks for path in rest),
    }


def timed(name: str, call: Callable[..., Any], seconds: Counter[str]) -> Callable[..., Any]:
    def timer(*args: Any, **kwargs: Any) -> Any:
        start = time.process_time()
        try:
            return call(*args, **kwargs)
        finally:
            seconds[name] += time.process_time() - start

    return timer


def table(scratch: str, n: str) -> dict[str, Any]:
    """Enter and save the results of some slides in a run table of so many, as if they ended at once."""
    from deepspot.cohort._run.folder import Folder
    from deepspot.cohort._run.run_table import RunTable
    from deepspot.cohort._run.slide import SlideResult

    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Folder(Path(name))
        folder.work.mkdir()
        names = pd.Index([f"s{i:05}" for i in range(int(n))], name="slide")
        runs = RunTable(folder, pd.DataFrame({"path": "slides/of/a/cohort.svs", "patient": "P"}, index=names), [])
        real, writes = RunTable.write, []
        RunTable.write = lambda self: writes.append(1) or real(self)
        start = time.process_time()
        ended = names[:TABLE_SLIDES]
        for slide in ended:
            runs.put(SlideResult(slide, 1.0, spots=12, ood_share=0.0))
            runs.save()
        spent, n_writes = time.process_time() - start, len(writes)
        one = measure(runs.write)["cpu"]
    return {"n": int(n), "cpu": spent / len(ended), "writes": n_writes, "one": one}


def copies(scratch: str, each: str, n: str) -> dict[str, Any]:
    """Start again with all slides done, and read the results."""
    import matplotlib

    matplotlib.use("agg")
    quiet()
    folder = Path(scratch)
    out, manifest = folder / f"alone_{each}", pd.read_csv(folder / f"copies_{each}.csv")
    run(folder, manifest[:2], out)
    found: dict[str, Any] = {"n": int(n), "again": measure(lambda: run(folder, manifest, out))}
    last = [out / "slides" / f"{name}.zarr" for name in manifest["slide"][-LISTED:]]
    found["list"] = measure(lambda: [list(os.walk(store)) for store in last])
    found["listed"] = len(last)
    report = folder / "report.html"
    found["report"] = measure(lambda: ds.report_cohort(out, report, gene="gene_7", n=10, overwrite=True))
    found["report"]["bytes"] = report.stat().st_size
    found["plot"] = measure(lambda: ds.pl.slides(out, "gene_7", n=24))
    found["profiles"] = (out / "pseudobulk.h5ad").stat().st_size
    return found


PARTS = {"cluster": cluster, "scheduler": scheduler, "alone": alone, "table": table, "copies": copies}

if __name__ == "__main__":
    main()
