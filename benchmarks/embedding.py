"""Throughput and memory of embedding, against the forward time of the backbone on tiles that are in memory already.

    DEEPSPOT_DATA=../shared/data python benchmarks/embedding.py

Both are measured in this one run, in turn, on the first spots of section C5. Writes benchmarks/results/embedding.md.
"""

from __future__ import annotations

import resource
import time
from pathlib import Path

import numpy as np
import torch

import deepspot as ds

SPOTS, REPEATS = 64, 3
OUT = Path(__file__).parent / "results" / "embedding.md"


def main() -> None:
    ds.settings.progress = False
    slide = ds.datasets.her2st("C5")
    slide.shapes["spots"] = slide.shapes["spots"].iloc[:SPOTS]
    encoder = ds.encoders.get().to(None)
    tiles = torch.rand(ds.settings.batch_size, 3, 224, 224, device=encoder.device)
    tiles = tiles.contiguous(memory_format=torch.channels_last)
    forward(encoder, tiles)
    loaded = peak_mb()
    ratios, seconds = [], []
    for repeat in range(REPEATS):
        backbone = forward(encoder, tiles) * SPOTS * 10 / len(tiles)
        start = time.perf_counter()
        ds.pp.embed(slide, encoder, key_added=f"run_{repeat}")
        seconds.append(time.perf_counter() - start)
        ratios.append(seconds[-1] / backbone)
        del slide.tables[f"run_{repeat}"]
    lines = [
        f"| measured on {SPOTS} spots × 10 tiles, {REPEATS} runs | |",
        "|---|---|",
        f"| spots per second, median | {SPOTS / np.median(seconds):.2f} |",
        f"| wall time of `ds.pp.embed` ÷ forward time of the backbone, median (range) | {np.median(ratios):.2f} "
        f"({min(ratios):.2f} to {max(ratios):.2f}) |",
        f"| peak memory above the process with image and encoder loaded | {peak_mb() - loaded:.0f} MB |",
        f"| device, threads | {encoder.device}, {torch.get_num_threads()} |",
    ]
    OUT.write_text("\n".join(lines) + "\n")
    print(OUT.read_text())


@torch.inference_mode()
def forward(encoder, tiles: torch.Tensor) -> float:
    start = time.perf_counter()
    encoder.module(encoder.transform(tiles)).cpu()
    return time.perf_counter() - start


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


if __name__ == "__main__":
    main()
