"""The tables of `benchmarks/scale.py`, and what the largest atlas takes at these rates."""

from __future__ import annotations

import argparse
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

from throughput import stored_bytes, stored_rates

SPOTS, DISTANCE_UM, GENES, TABLE_SLIDES = 12, 100, 5_000, 100
ATLAS_SLIDES, ATLAS_SPOTS, DISK_MPP, CORES = 30_000, 300_000_000, 0.5, 2
RESULTS = Path(__file__).parent / "results"


def report(args: argparse.Namespace, found: dict[str, Any]) -> list[str]:
    libraries = ", ".join(f"{name} {version(name)}" for name in ("zarr", "anndata", "spatialdata", "distributed"))
    command = (
        f"python benchmarks/scale.py --slides {args.slides} --workers {' '.join(map(str, args.workers))} --copies "
    )
    command += " ".join(map(str, args.copies)) + (" --before …" if args.before else "")
    return [
        f"`{command}`, {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, {libraries}. "
        "Seconds are CPU time unless they are called wall time; the machine was shared.",
        "",
        *of_clusters(found["clusters"]),
        "",
        *of_scheduler(found["scheduler"]),
        "",
        *of_steps(found["alone"]),
        "",
        *of_copies(found),
        "",
        *of_atlas(found),
    ]


def of_clusters(clusters: list[dict[str, Any]]) -> list[str]:
    one = clusters[0]
    lines = [
        f"{one['n']} slides of {SPOTS} spots, {GENES:,} genes, mean colors as encoder, {one['done']} done:",
        "",
        "| workers | wall s | efficiency | cores received | s a slide: workers | this process and the scheduler | "
        "peak MB of these | again, all done: s a slide | again, half done: s a slide to do |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for each in clusters:
        first, n = each["first"], each["n"]
        ratio = one["first"]["wall"] * one["workers"] / (first["wall"] * each["workers"])
        received = (first["workers"] + first["cpu"]) / first["wall"]
        lines.append(
            f"| {each['workers']} | {first['wall']:.0f} | {ratio:.2f} | {received:.2f} | {first['workers'] / n:.2f} | "
            f"{first['cpu'] / n:.3f} | {first['mb']:.0f} | {each['again']['cpu'] / n:.4f} | "
            + (f"{each['half']['cpu'] / (n // 2):.3f} |" if "half" in each else " |")
        )
    return lines


def of_scheduler(of: dict[str, Any]) -> list[str]:
    memory = ", ".join(f"{mb:.0f}" for mb in of["memory"])
    return [
        f"{of['n']:,} slides whose files are missing, on one worker: this process and the scheduler take "
        f"{1e3 * of['cpu'] / of['n']:.1f} ms a slide, so they can serve {of['n'] / of['cpu']:.0f} slides a second. "
        f"After each quarter of the slides, their memory has grown by {memory} MB.",
    ]


def of_steps(alone: dict[str, Any]) -> list[str]:
    lines = [
        f"One slide of {SPOTS} spots in this process, ms:",
        "",
        "| | " + " | ".join(alone["now"]["steps"]) + " | all but predict |",
        "|---" * (len(alone["now"]["steps"]) + 2) + "|",
    ]
    for each, result in alone.items():
        steps = result["steps"]
        rest = sum(steps.values()) - steps["predict"]
        lines.append(f"| {each} | " + " | ".join(f"{1e3 * ms:.1f}" for ms in (*steps.values(), rest)) + " |")
    lines += [
        "",
        f"| | files of a slide without `X` | folders | kB of both on disk | files of `X`, {SPOTS} spots | "
        f"files of {ATLAS_SPOTS // ATLAS_SLIDES:,} spots |",
        "|---|---|---|---|---|---|",
    ]
    for each, of in alone.items():
        row = f"| {each} | {of['files']} | {of['folders']} | {of['bytes'] / 1e3:.0f} | {of['X']} | {files_of(of):,} |"
        lines.append(row)
    return lines


def files_of(of: dict[str, Any]) -> int:
    """Files of a slide of the atlas."""
    from deepspot.tl._predict.stream import ROWS as BLOCK

    return of["files"] + of["X"] * -(-ATLAS_SPOTS // ATLAS_SLIDES // BLOCK)


def of_copies(found: dict[str, Any]) -> list[str]:
    lines = [
        "Copies of a finished slide; the start finds all done, and writes the profiles again:",
        "",
        "| slides | | run again: s | ms a slide | wall s | peak MB | `report_cohort`: s | "
        "peak MB | MB of HTML | `pl.slides`, 24 of them: s | profiles, MB |",
        "|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    rows = [(of["n"], each, of) for each, results in found["copies"].items() for of in results]
    for n, each, of in sorted(rows, key=lambda row: row[0]):
        again, html, plot = of["again"], of["report"], of["plot"]
        lines.append(
            f"| {n:,} | {each} | {again['cpu']:.1f} | {1e3 * again['cpu'] / n:.1f} | {again['wall']:.0f} | "
            f"{again['mb']:.0f} | {html['cpu']:.1f} | {html['mb']:.0f} | {html['bytes'] / 1e6:.1f} | "
            f"{plot['cpu']:.1f} | {of['profiles'] / 1e6:.0f} |"
        )
    most = found["copies"]["now"][-1]
    listing = 1e3 * most["list"]["wall"] / most["listed"]
    lines += [
        "",
        f"Listing the files of the last {most['listed']:,} of these stores takes {listing:.1f} ms each, wall time.",
        "",
        f"The run table while {TABLE_SLIDES} slides end at once:",
        "",
        "| slides in the table | | times written | ms a slide | ms to write it |",
        "|---|---|---|---|---|",
    ]
    rows = [(of["n"], each, of) for each, results in found["tables"].items() for of in results]
    for n, each, of in sorted(rows, key=lambda row: row[0]):
        lines.append(f"| {n:,} | {each} | {of['writes']} | {1e3 * of['cpu']:.2f} | {1e3 * of['one']:.0f} |")
    return lines


def of_atlas(found: dict[str, Any]) -> list[str]:
    """What the largest atlas takes, at the rates of `throughput.py` and of this script."""
    read, embed, predict, write = stored_rates()
    each, now, many = found["scheduler"], found["alone"]["now"], found["copies"]["now"][-1]
    overhead = sum(now["steps"].values()) - now["steps"]["predict"]
    again = many["again"]["cpu"] / many["n"]
    tiles, megabytes = 10 * ATLAS_SPOTS, ATLAS_SPOTS * GENES * 4 / 1e6
    steps = {
        "embed, embedded encoder": (f"{tiles:,} tiles", tiles / embed * CORES),
        "read": (
            f"{ATLAS_SPOTS * (DISTANCE_UM / DISK_MPP) ** 2 / 1e6:,.0f} megapixels",
            ATLAS_SPOTS * (DISTANCE_UM / DISK_MPP) ** 2 / 1e6 / read * CORES,
        ),
        "predict": (f"{ATLAS_SPOTS:,} spots", ATLAS_SPOTS / predict * CORES),
        "write": (f"{megabytes:,.0f} MB", megabytes / write * CORES),
        "open, spots, profile, move": (f"{ATLAS_SLIDES:,} slides", ATLAS_SLIDES * overhead),
        "calling process and scheduler": (f"{ATLAS_SLIDES:,} slides", ATLAS_SLIDES * each["cpu"] / each["n"]),
        "start again, all done": (f"{ATLAS_SLIDES:,} slides", ATLAS_SLIDES * again),
    }
    total = sum(seconds for _, seconds in steps.values())
    lines = [
        f"{ATLAS_SLIDES:,} slides, {ATLAS_SPOTS / 1e6:.0f} million spots every {DISTANCE_UM} µm at {DISK_MPP} µm per "
        f"pixel, {GENES:,} genes, calculated:",
        "",
        "| step | work | core hours | share |",
        "|---|---|---|---|",
    ]
    for step, (work, seconds) in steps.items():
        lines.append(f"| {step} | {work} | {seconds / 3600:,.1f} | {seconds / total:.2%} |")
    exact, rounded = stored_bytes()
    values = ATLAS_SPOTS * GENES / 1e9
    lines += [
        "",
        "| on disk | before | now |" if "before" in found["alone"] else "| on disk | now |",
        "|---" * (1 + len(found["alone"])) + "|",
        *[
            f"| {what} | " + " | ".join(count(of) for of in found["alone"].values()) + " |"
            for what, count in {
                "files": lambda of: f"{ATLAS_SLIDES * files_of(of):,}",
                "folders, without those of `X`": lambda of: f"{ATLAS_SLIDES * of['folders']:,}",
                "GB of `X`; with `rounded=True`": lambda _: f"{values * exact:,.0f}; {values * rounded:,.0f}",
                "GB of the rest": lambda of: f"{ATLAS_SLIDES * of['bytes'] / 1e9:,.1f}",
            }.items()
        ],
    ]
    return lines
