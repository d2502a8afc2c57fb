"""Wall time of a cohort with one and with two workers on this machine.

    DEEPSPOT_DATA=../shared/data python benchmarks/cohort.py

Five sections as pyramidal TIFFs and an Aperio slide, spots 400 µm apart (so that it takes minutes), embedded model, one
thread for each worker, no embeddings kept from one run to the next. Workers have imported everything before the clock
starts. Writes benchmarks/results/cohort.md.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from _slides import write
from anndata import read_h5ad
from distributed import Client, LocalCluster

import deepspot as ds

SECTIONS, DISTANCE_UM = ["B4", "C2", "C3", "C4", "C5"], 400
OUT = Path(__file__).parent / "results" / "cohort.md"


def main() -> None:
    ds.settings.progress = False
    ds.settings.embeddings_gb = 0
    with tempfile.TemporaryDirectory(prefix="deepspot-") as scratch:
        manifest = write(SECTIONS, Path(scratch) / "slides")
        seconds, started, runs = {}, {}, {}
        for workers in (1, 2):
            out = Path(scratch) / f"out_{workers}"
            seconds[workers], started[workers], runs[workers] = measure(manifest, out, workers)
        profiles = [read_h5ad(Path(scratch) / f"out_{workers}" / "pseudobulk.h5ad").X for workers in (1, 2)]
        largest = float(np.abs(profiles[0] - profiles[1]).max())
    OUT.write_text("\n".join(report(seconds, started, runs, largest)) + "\n")
    print(OUT.read_text())


def measure(manifest: pd.DataFrame, out: Path, workers: int) -> tuple[float, float, pd.DataFrame]:
    start = time.perf_counter()
    with (
        LocalCluster(n_workers=workers, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        client.run(get_ready)
        ready = time.perf_counter()
        runs = ds.cohort.run(manifest, None, out, client=client, pitch_um=DISTANCE_UM)
        return time.perf_counter() - ready, ready - start, runs


def get_ready() -> None:
    import torch

    from deepspot import encoders

    torch.set_num_threads(1)
    encoders.get().encode(np.zeros((8, 64, 64, 3), dtype=np.uint8))


def report(
    seconds: dict[int, float], started: dict[int, float], runs: dict[int, pd.DataFrame], largest: float
) -> list[str]:
    spots = int(runs[1]["spots"].sum())
    each = runs[1]["seconds"].sort_values(ascending=False).tolist()
    loads = [0.0, 0.0]
    for one in each:  # the largest first, as the cohort does
        loads[loads.index(min(loads))] += one
    return [
        f"{len(runs[1])} slides, {spots} spots × 10 tiles, {int((runs[1]['status'] == 'done').sum())} done.",
        "",
        "| workers | seconds | spots per second | faster than one worker | start of the workers, seconds |",
        "|---|---|---|---|---|",
        *[
            f"| {workers} | {seconds[workers]:.0f} | {spots / seconds[workers]:.2f} | "
            f"{seconds[1] / seconds[workers]:.2f} × | {started[workers]:.0f} |"
            for workers in (1, 2)
        ],
        "",
        f"Dealt to two workers, these slides could be {sum(each) / max(loads):.2f} × faster at best. The largest "
        f"difference between the profiles of both runs is {largest:g}.",
        "",
        "| slide | spots | seconds with 1 worker | with 2 workers | share out of distribution |",
        "|---|---|---|---|---|",
        *[
            f"| {name} | {row.spots} | {row.seconds:.1f} | {runs[2].loc[name, 'seconds']:.1f} | {row.ood_share:.2f} |"
            for name, row in runs[1].iterrows()
        ],
    ]


if __name__ == "__main__":
    main()
