"""How close every step comes to what the hardware allows, and how far it is from predicting one spot at a time.

    DEEPSPOT_DATA=../shared/data python benchmarks/speed.py [--quick] [--device cuda] [--only tiles head] [--fresh]
    DEEPSPOT_DATA=../shared/data python benchmarks/speed.py --only embedding predict --spots 1000 --name section

Two limits: the floating-point operations of the encoder over the rate of a large matrix product in the same precision,
and the pixels to decode over the rate at which their codec decodes them. Two pipelines: this package, and the field's
(benchmarks/_per_spot.py): 1 + 9 + k tiles of a spot, one spot at a time, with the same encoder and preprocessing on the
same device. All that is compared is measured in turn in this run; a ratio is given as its median over the rounds, with
its range. Parts that are done are kept in the cache, so that a run that was stopped goes on (`--fresh` forgets them).
Both pipelines and the limits have the same threads: all that torch takes by itself, unless OMP_NUM_THREADS says
otherwise. `--spots 1000` takes all spots of the section, on which what a prediction costs whatever the slide weighs
less. Writes benchmarks/results/speed.md, or speed_<name>.md.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import platform
import sys
import warnings
from importlib.metadata import version
from pathlib import Path

import streaming
import torch
from _speed_parts import PARTS, Run
from _timing import Table

import deepspot as ds
from deepspot._core.compute import choose_device
from deepspot._core.hashing import digest

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="about three minutes on two cores")
    parser.add_argument("--device")
    parser.add_argument("--spots", type=int, help="of the slide that is embedded and predicted (default: 64)")
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--name", help="of the file to write (default: none, or quick)")
    parser.add_argument("--fresh", action="store_true", help="forget the parts that are done")
    asked = parser.parse_args()
    logging.getLogger("deepspot").setLevel(logging.ERROR)
    ds.settings.progress = False
    warnings.filterwarnings("ignore", module="spatialdata|contextlib|zarr")
    run = Run(choose_device(asked.device), quick=asked.quick, spots=asked.spots)
    machine = about(run)
    rows = []
    for part in PARTS:
        kept = ds.settings.cache("benchmarks", f"speed_{part}_{digest(machine, run.quick, run.spots, sources())}.json")
        if part in asked.only and (asked.fresh or not kept.exists()):
            table = Table(part)
            PARTS[part](run, table)
            kept.parent.mkdir(parents=True, exist_ok=True)
            kept.write_text(json.dumps(table.rows))
        rows += json.loads(kept.read_text()) if kept.exists() else []
    lines = ["| | compared | ratio, median (range) | goal | ours |", "|---|---|---|---|---|"]
    lines += [f"| {row['part']} | {row['what']} | {row['ratio']} | {row['goal']} | {row['absolute']} |" for row in rows]
    name = asked.name or ("quick" if asked.quick else "")
    out = RESULTS / (f"speed_{name}.md" if name else "speed.md")
    command = " ".join(["python benchmarks/speed.py", *(word for word in sys.argv[1:] if word != "--fresh")])
    out.write_text("\n".join([*lines, "", f"{machine} `{command}`", ""]))
    print(out.read_text())


def about(run: Run) -> str:
    """Machine and versions."""
    cuda = run.device.type == "cuda"
    cores = f"{torch.get_num_threads()} threads of torch on {usable_cores()} cores"
    chip = torch.cuda.get_device_name(run.device) if cuda else f"{processor()}, {cores}"
    packages = ("deepspot", "torch", "timm", "zarr", "dask", "spatialdata", "numpy")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    system = f"{platform.system()}, Python {platform.python_version()}"
    return f"Device {run.device} ({chip}); {system}, {versions}."


def usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def processor() -> str:
    info = Path("/proc/cpuinfo")
    names = (
        [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
        if (info.exists())
        else []
    )
    return names[0] if names else platform.processor() or platform.machine()


def sources() -> list[str]:
    """What was measured: results of other code are not taken for those of this."""
    root = Path(ds.__file__).parent
    files = [*sorted(root.rglob("*.py")), *sorted(Path(__file__).parent.glob("_*.py")), Path(streaming.__file__)]
    return [path.read_text() for path in files]


if __name__ == "__main__":
    main()
