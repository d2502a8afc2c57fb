"""What else could compute an encoder on a CPU: torch.compile, ONNX Runtime and OpenVINO against plain torch.

    pip install ".[onnx]" openvino
    python benchmarks/runtimes.py            # some minutes; torch.compile needs a C++ compiler

Networks of the embedded encoder (real weights) and of a ViT-S/16 (random weights) on tiles that are in memory, in the
batches that the package makes for a CPU, each on one core, all in turn. "First" is what the first batch takes:
translating, compiling. OpenVINO would report its use to its makers when it is imported; here that is prevented. Last,
the encoder as `ds.pp.embed` calls it (`encode` and `encode_parts`), with the setting of the package. Writes
benchmarks/results/runtimes.md.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import files, version
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from _timing import in_turn
from speed import processor
from torch import Tensor, nn

import deepspot as ds
from deepspot._core.compute import start_in_threads
from deepspot.encoders._onnx import OnnxNetwork
from deepspot.encoders._torch import PIXELS_PER_THREAD

RESULTS = Path(__file__).parent / "results" / "runtimes.md"
TILES, SIDE, ROUNDS, SEED = 64, 111, 5, 0
AT_ONCE = PIXELS_PER_THREAD // 224**2
CPU = torch.device("cpu")
# What each is, with what it drags in that torch does not need.
PACKAGES = {
    "torch.compile": (),
    "ONNX Runtime": ("onnxruntime", "onnxscript", "onnx", "onnx_ir", "ml_dtypes", "protobuf"),
    "OpenVINO": ("openvino", "openvino-telemetry"),
}
Run = Callable[[Tensor], Any]


def compiled(network: nn.Module, few: Tensor) -> Run:
    import torch._inductor.config as inductor

    inductor.freezing = True
    torch._dynamo.reset()
    run = torch.compile(network)
    run(few)
    return run


def onnx(network: nn.Module, few: Tensor) -> Run:
    return OnnxNetwork(network, "forward", few, "benchmark")


def openvino(network: nn.Module, few: Tensor) -> Run:
    sys.modules.setdefault("openvino_telemetry", None)  # type: ignore[arg-type]
    import openvino as ov

    graph = ov.convert_model(network, example_input=few, input=[-1, *few.shape[1:]])
    options = {"INFERENCE_NUM_THREADS": torch.get_num_threads(), "INFERENCE_PRECISION_HINT": "f32"}
    run = ov.Core().compile_model(graph, "CPU", options)
    return lambda pixels: torch.from_numpy(run(pixels.numpy())[0])


MAKERS = {"torch.compile": compiled, "ONNX Runtime": onnx, "OpenVINO": openvino}


@torch.no_grad()
def main() -> None:
    torch.manual_seed(SEED)
    transformer = timm.create_model("vit_small_patch16_224", num_classes=0).eval().requires_grad_(False)
    lite0 = ds.encoders.get("lite0").to("cpu")
    lines = [
        "| network | runtime | times as fast as torch, median (range) | first, s | largest difference | MB on disk |",
        "|---|---|---|---|---|---|",
    ]
    for name, network in (("EfficientNet-Lite0", lite0.module), ("ViT-S/16, random weights", transformer)):
        lines += networks(name, network)
    lines += [
        "",
        "| `lite0_stats`, with its statistics and resizing | ONNX Runtime, times as fast as torch |",
        "|---|---|",
    ]
    lines += settings()
    packages = ("torch", "onnxruntime", "openvino", "timm")
    versions = ", ".join(f"{package} {version(package)}" for package in packages)
    threads = torch.get_num_threads()
    lines += ["", f"CPU ({processor()}, {threads} threads), {TILES} tiles, {versions}. `python benchmarks/runtimes.py`"]
    RESULTS.write_text("\n".join(lines) + "\n")
    print(RESULTS.read_text())


def networks(name: str, network: nn.Module) -> list[str]:
    """A network in each runtime."""
    threads = torch.get_num_threads()
    pixels = torch.rand(TILES, 3, 224, 224) * 2 - 1
    runs: dict[str, tuple[Run, Tensor]] = {"torch": (network, pixels.contiguous(memory_format=torch.channels_last))}
    first = {}
    torch.set_num_threads(1)  # for each of the threads that compute batches
    for runtime, make in MAKERS.items():
        start = time.perf_counter()
        few = (runs["torch"][1] if runtime == "torch.compile" else pixels)[:AT_ONCE]
        runs[runtime] = make(network, few), runs["torch"][1] if runtime == "torch.compile" else pixels
        first[runtime] = time.perf_counter() - start
    torch.set_num_threads(threads)
    made: dict[str, Tensor] = {}

    def call(runtime: str) -> None:
        run, tiles = runs[runtime]
        made[runtime] = start_in_threads(torch.no_grad()(run), tiles.split(AT_ONCE), threads, torch.cat).result()

    seconds = in_turn({runtime: partial(call, runtime) for runtime in runs}, ROUNDS, CPU)
    lines = []
    for runtime in MAKERS:
        off = float((made[runtime] - made["torch"]).abs().max() / made["torch"].std())
        lines.append(
            f"| {name} | {runtime} | {ratio(seconds['torch'] / seconds[runtime])} | {first[runtime]:.0f} | "
            f"{off:.0e} sd | "
            f"{size(PACKAGES[runtime]):.0f} |"
        )
        print(lines[-1], flush=True)
    return lines


def settings() -> list[str]:
    """The default encoder as it is called, by setting."""
    tiles = np.random.default_rng(SEED).integers(0, 256, (TILES, SIDE, SIDE, 3), dtype=np.uint8)
    encoder = ds.encoders.get().to("cpu")

    def call(method: str, runtime: str) -> None:
        ds.settings.runtime = runtime
        encoder.encode(tiles) if method == "encode" else encoder.encode_parts(tiles, 3)

    lines = []
    for method in ("encode", "encode_parts"):
        calls = {runtime: partial(call, method, runtime) for runtime in ("torch", "onnx")}
        seconds = in_turn(calls, ROUNDS, CPU)
        lines.append(f"| `{method}` | {ratio(seconds['torch'] / seconds['onnx'])} |")
        print(lines[-1], flush=True)
    ds.settings.runtime = "torch"
    return lines


def ratio(values: np.ndarray) -> str:
    return f"{np.median(values):.2f} ({values.min():.2f} to {values.max():.2f})"


def size(packages: tuple[str, ...]) -> float:
    """MB of packages as they are installed."""
    return sum(Path(file.locate()).stat().st_size for package in packages for file in files(package) or ()) / 1e6


if __name__ == "__main__":
    main()
