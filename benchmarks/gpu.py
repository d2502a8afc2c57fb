"""Correctness and speed on a GPU: one command, without network or gated weights.

    DEEPSPOT_DATA=../shared/data python benchmarks/gpu.py [--device cuda] [--quick]

Architectures of pathology encoders at full size, with random weights: ViT-S/16, ViT-B/16, ViT-L/16 (UNI), ViT-g/14
(H-optimus-0), and the embedded encoder. First correctness against the CPU: embeddings in half precision, predictions of
the embedded model, and the losses of a training. Then speed: tiles in a second of the bare backbone on tiles that are
already normalized and on the device, its share of the arithmetic limit of the device (measured as a product of matrices
in the same precision), tiles in a second of `encode` on 8-bit tiles in memory, and of `ds.tl.predict` from a whole
slide, a mosaic of a real section, to a store on disk, on as many spots as the backbone needs 20 s for; and the time of
training epochs. Medians of several rounds in turn, after one to warm up. `--quick` takes the two smallest encoders and
few tiles. Writes benchmarks/results/gpu_<device>.md.
"""

from __future__ import annotations

import argparse
import logging
import platform
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from _timing import in_turn, wait
from streaming import DISTANCE_UM, write_mosaic

import deepspot as ds
from deepspot._core.compute import autocast, start_in_threads
from deepspot.encoders._torch import Pooled, TorchEncoder, prepare

SIDE, SEED, PREDICT_S = 224, 0, 20.0
ARCHITECTURES = {
    "ViT-S/16": ("vit_small_patch16_224", 4.6),
    "ViT-B/16": ("vit_base_patch16_224", 17.6),
    "ViT-L/16 (as UNI)": ("vit_large_patch16_224", 61.6),
    "ViT-g/14 (as H-optimus-0)": ("vit_giant_patch14_reg4_dinov2", 291.0),
}
"""Networks of timm, and multiply-adds for one tile of 224 pixels, in thousand millions."""

EMBEDDED = "embedded (EfficientNet-Lite0)"
# Largest difference to the CPU in float32, relative to the standard deviation of an embedding or a gene.
MOST_EMBEDDING, MOST_PREDICTION, MOST_LOSS = 0.1, 0.05, 0.02


def make_encoder(name: str, seed: int = SEED) -> TorchEncoder:
    """Return an encoder of this architecture with random weights, or the embedded one."""
    if name == EMBEDDED:
        return ds.encoders.get()
    architecture, _ = ARCHITECTURES[name]
    torch.manual_seed(seed)
    options = {"img_size": SIDE} if "dinov2" in architecture else {}
    network = timm.create_model(architecture, pretrained=False, num_classes=0, **options)
    card = ds.encoders.EncoderCard(
        name=architecture, dim=network.num_features, input_px=SIDE, pooling="cls", architecture=architecture
    )
    return TorchEncoder(card, Pooled(network, "cls", network.num_prefix_tokens), identity=f"random {architecture}")


def tiles_of(n: int, side: int = SIDE) -> np.ndarray:
    """Return tiles (n, side, side, 3) of a toy slide, which have the statistics of tissue."""
    sdata = ds.datasets.toy(n_patients=1, n_rows=4, n_cols=5)["P1_S1"]
    pixels = sdata.images["P1_S1_image"].to_numpy().transpose(1, 2, 0)
    rng = np.random.default_rng(SEED)
    rows, columns = (rng.integers(0, size - side, n) for size in pixels.shape[:2])
    return np.stack([pixels[row : row + side, col : col + side] for row, col in zip(rows, columns, strict=True)])


def check_embeddings(names: list[str], device: torch.device) -> list[str]:
    """Compare embeddings of the device, in its precision, with those of the CPU in float32."""
    tiles, lines = tiles_of(8), []
    for name in names:
        expected = make_encoder(name).to("cpu").encode(tiles)
        found = make_encoder(name).to(device).encode(tiles)
        error = float(np.abs(found - expected).max() / expected.std())
        lines.append(f"| embeddings of {name} | {error:.1e} | {MOST_EMBEDDING:g} | {_verdict(error, MOST_EMBEDDING)} |")
    return lines


def check_model(device: torch.device) -> list[str]:
    """Compare predictions of the embedded model, and losses of a training, with those of the CPU."""
    predicted, losses = [], []
    for where in ("cpu", str(device)):
        sdata = ds.datasets.toy(n_patients=1, n_rows=4, n_cols=5)["P1_S1"]
        ds.tl.predict(sdata, device=where)
        predicted.append(np.asarray(sdata.tables["deepspot_spots"].X))
        slides = ds.datasets.toy(n_patients=3, n_rows=4, n_cols=5)
        options: dict[str, Any] = {"network": {"members": 1, "dropout": 0.0}, "training": {"gate": "off"}}
        model = ds.models.train(slides, patient_key="patient", genes=30, seed=SEED, device=where, **options)
        table = slides["P1_S1"].tables["table"]
        ds.tl.predict(slides["P1_S1"], model, key_added="trained", device=where)
        measured = np.log1p(1e4 * table.X.toarray() / table.X.sum(axis=1))[:, table.var_names.isin(model.card.genes)]
        losses.append(float(np.mean((np.asarray(slides["P1_S1"].tables["trained"].X) - np.asarray(measured)) ** 2)))
    error = float(np.abs(predicted[1] - predicted[0]).max() / predicted[0].std())
    loss = abs(losses[1] - losses[0]) / losses[0]
    same = _verdict(error, MOST_PREDICTION)
    return [
        f"| predictions of the embedded model | {error:.1e} | {MOST_PREDICTION:g} | {same} |",
        f"| squared error of a trained model | {loss:.1e} | {MOST_LOSS:g} | {_verdict(loss, MOST_LOSS)} |",
    ]


def _verdict(error: float, most: float) -> str:
    return "equal" if error <= most else "**different**"


def arithmetic_limit(device: torch.device, n: int) -> float:
    """Return multiply-adds in a second of a product of matrices, in the precision that the encoders get."""
    with torch.inference_mode(), autocast(device):
        a, b = torch.randn(n, n, device=device), torch.randn(n, n, device=device)
        seconds = in_turn({"product": lambda: a @ b}, 5, device)["product"]
    return n**3 / float(np.median(seconds))


def speed(names: list[str], device: torch.device, n: int, batch: int, limit: float, folder: Path) -> list[str]:
    """Return a row of the table of speed for each encoder."""
    lines = []
    for name in names:
        encoder, tiles = make_encoder(name).to(device), tiles_of(n)
        ready = encoder.transform(prepare(tiles, encoder.card, device))
        size = encoder.at_once(batch)

        @torch.inference_mode()
        def forward(part: torch.Tensor, encoder: TorchEncoder = encoder) -> None:
            with autocast(device):
                encoder.module(part)

        def bare(ready: torch.Tensor = ready, encoder: TorchEncoder = encoder, size: int = size) -> None:
            start_in_threads(forward, ready.split(size), encoder.concurrent, list).result()

        def encode(tiles: np.ndarray = tiles, encoder: TorchEncoder = encoder) -> None:
            for start in range(0, len(tiles), batch):
                encoder.encode(tiles[start : start + batch])

        seconds = in_turn({"bare": bare, "encode": encode}, 3, device)
        rate = n / float(np.median(seconds["bare"]))
        work = ARCHITECTURES[name][1] * 1e9 if name in ARCHITECTURES else None
        share = "" if work is None else f"{rate * work / limit:.0%}"
        ratio = float(np.median(seconds["encode"] / seconds["bare"]))
        whole, spots = predict_slide(encoder, device, batch, folder, int(np.clip(PREDICT_S * rate / 10, 24, 4000)))
        memory = f"{torch.cuda.max_memory_allocated(device) / 1e9:.1f}" if device.type == "cuda" else ""
        lines.append(
            f"| {name} | {rate:,.1f} | {share} | {ratio:.2f} | {whole * rate / (10 * spots):.2f} | "
            f"{spots / whole:,.2f} | {memory} |"
        )
        print(lines[-1], flush=True)
    return lines


def predict_slide(encoder: TorchEncoder, device: torch.device, batch: int, folder: Path, n: int) -> tuple[float, int]:
    """Return seconds and spots of a prediction with sub-spots (ten tiles for a spot) from a whole slide to disk."""
    from streaming import make_model

    path = folder / f"{encoder.card.name}.tif"
    write_mosaic(path, n)
    sdata = ds.io.slide(path)
    ds.pp.spots(sdata, diameter_um=55, pitch_um=DISTANCE_UM, layout="square", tissue=None)
    model = make_model(encoder, subspots=True)
    options: dict[str, Any] = {"encoder": encoder, "device": str(device), "batch_size": batch}
    out = folder / f"{encoder.card.name}.zarr"
    ds.clear_cache()
    wait(device)
    start = time.perf_counter()
    ds.tl.predict(sdata, model, out=out, **options)
    wait(device)
    return time.perf_counter() - start, sdata.tables["deepspot_spots"].n_obs


def training(device: torch.device, spots: int) -> str:
    """Return the time of an epoch of the default network on random embeddings."""
    from throughput import of_block

    from deepspot.models import Bags

    bags = Bags.concat([of_block(1024) for _ in range(max(spots // 512, 1))])
    targets = np.random.default_rng(SEED).normal(size=(len(bags), 2000)).astype(np.float32)

    def fit(epochs: int) -> None:
        recipe = {"gate": "off", "epochs": epochs, "pca": None}
        ds.models.DeepSpot(network={"members": 1}, training=recipe, device=str(device)).fit(bags, targets)

    seconds = in_turn({"one": lambda: fit(1), "three": lambda: fit(3)}, 2, device)
    epoch = float(np.median(seconds["three"] - seconds["one"])) / 2
    return f"An epoch of the default network on {len(bags):,} spots and 2,000 genes takes {epoch:.2f} s."


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--quick", action="store_true")
    given = parser.parse_args()
    logging.getLogger("deepspot").setLevel(logging.ERROR)
    ds.settings.progress = False
    device = torch.device(given.device)
    names = [EMBEDDED, *ARCHITECTURES][: 2 if given.quick else None]
    n, batch, side = (40, 16, 1024) if given.quick else (2_000, 256, 8192)
    chip = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    start = time.perf_counter()
    checks = [*check_embeddings(names, device), *check_model(device)]
    print("\n".join(checks), flush=True)
    limit = arithmetic_limit(device, side)
    with tempfile.TemporaryDirectory() as name:
        ds.settings.cache_dir = Path(name) / "cache"
        rows = speed(names, device, n, batch, limit, Path(name))
    lines = [
        f"{chip}, {torch.get_num_threads()} threads, batches of {batch} tiles; a product of matrices reaches "
        f"{limit / 1e12:.2f} tera multiply-adds in a second.",
        "",
        "| compared with the CPU in float32 | largest difference | limit | |",
        "|---|---|---|---|",
        *checks,
        "",
        "| encoder | tiles in a second, bare | of the limit | time of `encode` to bare | time of `predict` to bare | "
        "spots in a second of `predict` | GPU memory (GB) |",
        "|---|---|---|---|---|---|---|",
        *rows,
        "",
        training(device, 512 if given.quick else 20_000),
        "",
        f"Took {time.perf_counter() - start:.0f} s. torch {torch.__version__}, timm {timm.__version__}, deepspot "
        f"{version('deepspot')}.",
    ]
    out = Path(__file__).parent / "results" / f"gpu_{device.type}{'_quick' if given.quick else ''}.md"
    out.write_text("\n".join(lines) + "\n")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
