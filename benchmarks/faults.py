"""What a cohort does when it is killed, or disk and memory run out, and what is left of that after the next start.

    DEEPSPOT_DATA=../shared/data python benchmarks/faults.py

As root, which a small disk of its own takes. Two sections as pyramidal TIFFs and an Aperio slide, spots 600 µm apart,
the embedded model. After each fault the cohort is started again in the same way; then all arrays must equal those of a
run that nothing disturbed, and the run table too, but for times. Writes benchmarks/results/faults.md.
"""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from _slides import SVS, write
from anndata import read_h5ad
from dask import config
from distributed import Client, LocalCluster, WorkerPlugin
from spatialdata import read_zarr

import deepspot as ds

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "cohort" / "run"))
import killed

SECTIONS, DISTANCE_UM, KILLS, SEED = ["C2", "C3"], 600, 8, 0
PHASES = {
    "model": "the model is saved",
    "opening": "a slide is opened",
    "spots": "spots are laid",
    "embedding": "embeddings are kept",
    "predicting": "genes are predicted",
    "writing": "the table is written",
    "completing": "the profile is added",
    "placed": "the slide has its place",
    "run_table": "the run table is written",
    "pseudobulk": "the profiles are written",
}
OUT = Path(__file__).parent / "results" / "faults.md"


def main() -> None:
    ds.settings.progress = False
    with tempfile.TemporaryDirectory(prefix="deepspot-") as scratch:
        base = Path(scratch)
        ds.settings.cache_dir = base / "cache"
        manifest = write(SECTIONS, base / "slides")
        manifest.to_csv(base / "manifest.csv", index=False)
        whole = base / "undisturbed"
        cohort(manifest, whole)
        rows = []
        for fault in (phases, random_kills, two_at_once, truncated, full_disk, no_memory, killed_worker, greedy_slide):
            for name, told, out in fault(base, manifest):
                rows.append(f"| {name} | {told} | {same(out, whole)} |")
                print(rows[-1], flush=True)
    lines = ["| fault | what is seen | after the next start, arrays and run table |", "|---|---|---|", *rows]
    OUT.write_text("\n".join(lines) + "\n")


Fault = Iterator[tuple[str, str, Path]]


def cohort(manifest: pd.DataFrame, out: Path, **options) -> pd.DataFrame:
    return ds.cohort.run(manifest, None, out, pitch_um=DISTANCE_UM, **options)


def same(out: Path, whole: Path) -> str:
    """Whether a cohort equals another one, array by array."""
    ours, theirs = (pd.read_csv(folder / "runs.csv").drop(columns=["seconds", "path"]) for folder in (out, whole))
    pd.testing.assert_frame_equal(ours, theirs)
    for name in theirs["slide"]:
        one, other = (read_zarr(folder / "slides" / f"{name}.zarr") for folder in (out, whole))
        a, b = (sdata.tables["deepspot_spots"] for sdata in (one, other))
        np.testing.assert_array_equal(a.X, b.X)
        pd.testing.assert_frame_equal(a.obs, b.obs)
        pd.testing.assert_frame_equal(a.var, b.var)
        need(one.shapes["spots"].equals(other.shapes["spots"]), f"other spots in {name}")
    a, b = (read_h5ad(folder / "pseudobulk.h5ad") for folder in (out, whole))
    np.testing.assert_array_equal(a.X, b.X)
    pd.testing.assert_frame_equal(a.obs.drop(columns="path"), b.obs.drop(columns="path"))
    need(not any((out / ".work").iterdir()), "something is left of an attempt")
    return "equal"


def need(true: bool, otherwise: str) -> None:
    if not true:
        raise RuntimeError(otherwise)


def said(out: Path) -> str:
    """The run table in a few words, as it is on disk."""
    if not (out / "runs.csv").exists():
        return "nothing finished"
    status = pd.read_csv(out / "runs.csv")["status"]
    return ", ".join(
        f"{(status == kind).sum()} {kind}" for kind in ("done", "failed", "waiting") if (status == kind).any()
    )


def phases(base: Path, manifest: pd.DataFrame) -> Fault:
    """Kill -9 in each phase of the second slide; the model is saved before the first."""
    cohort(manifest[:1], base / "first")
    for phase in PHASES:
        if phase != "model":
            shutil.copytree(base / "first", base / phase)
    with killed_in(base, *PHASES) as deaths:
        for phase, text in PHASES.items():
            out = base / phase
            told = f"{deaths[phase]}; {said(out)}"
            cohort(manifest, out)
            yield f"kill -9 when {text}", told, out


@contextmanager
def killed_in(base: Path, *names: str) -> Iterator[dict[str, str]]:
    command = [sys.executable, __file__, str(base), *names]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    yield dict(line.split(maxsplit=1) for line in done.stdout.splitlines())


def children(base: Path, *names: str) -> None:
    """Processes that die, one for each name. They share what this one has imported."""
    for name in names:
        child = os.fork()
        if child == 0:
            ds.settings.progress = False
            ds.settings.cache_dir = base / f"cache_{name}"
            (little_memory if name == "memory" else killed.arm)(name)
            cohort(pd.read_csv(base / "manifest.csv"), base / name)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        how = (
            f"killed by signal {os.WTERMSIG(status)}"
            if os.WIFSIGNALED(status)
            else f"exit code {os.WEXITSTATUS(status)}"
        )
        sys.stdout.write(f"{name} {how}\n")


def random_kills(base: Path, manifest: pd.DataFrame) -> Fault:
    """Kill -9 the command, again and again, at moments that nobody chose."""
    out, rng, moments = base / "random", random.Random(SEED), []
    for _ in range(KILLS):
        process = command(base, out)
        moment = rng.uniform(8, 50)
        try:
            process.wait(moment)
            break
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
            moments.append(moment)
    told = f"killed {len(moments)} times, after {min(moments):.0f} to {max(moments):.0f} s; {said(out)}"
    need(command(base, out).wait() == 0, "the last start failed")
    yield "kill -9 of `deepspot cohort` at random moments, until a start ends before its moment", told, out


def command(base: Path, out: Path) -> subprocess.Popen:
    arguments = ["cohort", str(base / "manifest.csv"), "--out", str(out), "--pitch-um", str(DISTANCE_UM)]
    environment = os.environ | {"DEEPSPOT_CACHE": str(base / "cache_random")}
    return subprocess.Popen(
        [sys.executable, "-m", "deepspot", *arguments],
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def two_at_once(base: Path, manifest: pd.DataFrame) -> Fault:
    out = base / "two"
    first = command(base, out)
    while not (out / "runs.csv").exists():
        time.sleep(0.1)
    try:
        cohort(manifest, out)
    except ValueError as error:
        told = str(error).split(" in ")[0]
    need(first.wait() == 0, "the first process failed")
    yield "two processes in one folder", f"the second one is told: {told} …", out


def truncated(base: Path, manifest: pd.DataFrame) -> Fault:
    path, out = base / "slides" / f"{SVS}.svs", base / "truncated"
    content = path.read_bytes()
    for share in (0.9, 0.5, 0.001):
        shutil.rmtree(out, ignore_errors=True)
        path.write_bytes(content[: int(share * len(content))])
        runs = cohort(manifest, out)
        path.write_bytes(content)
        told = f"{said(out)}; {runs.loc[SVS, 'error'].split(':')[0]}"
        cohort(manifest, out)
        yield f"SVS of which {share:.1%} is there", told, out


def full_disk(base: Path, manifest: pd.DataFrame) -> Fault:
    disk = base / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", disk], check=True)
    try:
        for left_kb in (0, 200, 1000):
            out, ballast = disk / f"out_{left_kb}", disk / "ballast"
            cohort(manifest[:1], out)
            free = shutil.disk_usage(disk).free
            ballast.write_bytes(b"\1" * max(0, free - left_kb * 1000))
            ds.settings.cache_dir = disk / "cache"
            try:
                cohort(manifest, out)
                told = said(out)
                errors = pd.read_csv(out / "runs.csv")["error"].dropna()
            except OSError as error:  # run table or profiles could not be written
                told, errors = f"OSError; {said(out)}", pd.Series([str(error)])
            ds.settings.cache_dir = base / "cache"
            kinds = errors.str.extract(r"(No space left on device)")[0].fillna("another error")
            told += f"; {', '.join(kinds.unique())}" if len(kinds) else ""
            ballast.unlink()
            shutil.rmtree(disk / "cache", ignore_errors=True)
            cohort(manifest, out)
            yield f"disk with {left_kb} kB left after the first slide", told, out
            shutil.rmtree(out)
    finally:
        subprocess.run(["umount", disk], check=True)


def no_memory(base: Path, manifest: pd.DataFrame) -> Fault:
    with killed_in(base, "memory") as ends:
        out = base / "memory"
        told = f"{ends['memory']}; {said(out)}"
        errors = pd.read_csv(out / "runs.csv")["error"].dropna()
        told += f": {errors.iloc[0].split(':')[0]}" if len(errors) else ""
        cohort(manifest, out)
        yield "no more memory while the second slide is embedded (RLIMIT_AS)", told, out


def little_memory(_: str) -> None:
    """From the spots of the second slide on the process gets no more memory, until the third one starts."""
    spots, slide, calls = ds.pp.spots, ds.io.slide, []

    def limited(*args, **kwargs):
        spots(*args, **kwargs)
        calls.append(1)
        if len(calls) == 2:
            pages = int(Path("/proc/self/statm").read_text().split()[0])
            resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + 2**20, resource.RLIM_INFINITY))

    def free(*args, **kwargs):
        resource.setrlimit(resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        return slide(*args, **kwargs)

    ds.pp.spots, ds.io.slide = limited, free


def killed_worker(base: Path, manifest: pd.DataFrame) -> Fault:
    out = base / "worker"
    with workers() as client, config.set({"distributed.scheduler.allowed-failures": 3}):
        client.register_plugin(DiesOnce(base / "died"))
        runs = cohort(manifest, out, client=client)
    told = f"{(runs['status'] == 'done').sum()} done: its slide went to another worker"
    yield "kill -9 of one of two Dask workers", told, out


def greedy_slide(base: Path, manifest: pd.DataFrame) -> Fault:
    out = base / "greedy"
    with config.set({"distributed.scheduler.allowed-failures": 1}), workers(memory_limit="3GiB") as client:
        client.register_plugin(Greedy())
        runs = cohort(manifest, out, client=client)
    told = f"{said(out)}; {runs['error'].dropna().iloc[0].split(':')[0]}"
    with workers() as client:
        cohort(manifest, out, client=client)
    yield "a slide that takes more memory than a Dask worker has", told, out


@contextmanager
def workers(**options) -> Iterator[Client]:
    with (
        LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", **options) as cluster,
        Client(cluster) as client,
    ):
        yield client


class DiesOnce(WorkerPlugin):
    """The first worker that has laid the spots of C3 is killed."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def setup(self, worker) -> None:
        real = ds.pp.spots

        def spots(sdata, **kwargs):
            real(sdata, **kwargs)
            if "C3_image" in sdata.images and not self.mark.exists():
                self.mark.touch()
                os.kill(os.getpid(), signal.SIGKILL)

        ds.pp.spots = spots


class Greedy(WorkerPlugin):
    """On every worker C3 takes as much memory as it gets."""

    def setup(self, worker) -> None:
        real = ds.pp.spots

        def spots(sdata, **kwargs):
            real(sdata, **kwargs)
            taken = []
            while "C3_image" in sdata.images:
                taken.append(np.ones(2**23))
                time.sleep(0.05)  # the nanny looks ten times a second

        ds.pp.spots = spots


if __name__ == "__main__":
    if len(sys.argv) > 1:
        children(Path(sys.argv[1]), *sys.argv[2:])
    else:
        main()
