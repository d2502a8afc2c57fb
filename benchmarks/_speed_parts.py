"""The parts of benchmarks/speed.py."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import _per_spot
import numpy as np
import torch
import zarr
from _limits import decode, flops_of_tile, flops_per_second
from _sections import load
from _timing import Table, in_turn, of
from _training_epoch import predict, train
from scipy.sparse import csr_matrix
from spatialdata import SpatialData, read_zarr
from spatialdata.models import Image2DModel

import deepspot as ds
from deepspot._core.compute import autocast, start_in_threads
from deepspot._features.feature_table import SlideFeatures, bags_of
from deepspot._image.tiles import pyramid_levels, read_tiles
from deepspot._sdata.view import SlideView
from deepspot._spatial.geometry import Boxes, TileGeometry
from deepspot._spatial.neighbors import find_neighbors, padded
from deepspot._stats.metrics import pearson
from deepspot.models._inputs import Scaler
from deepspot.models._training.slides import measure
from deepspot.models._training.targets import choose_genes, targets, training_set

TILE, DISTANCE = 224, 200
GENES = 5_000


@dataclass(frozen=True, eq=False)
class Run:
    """How much to measure, and where."""

    device: torch.device
    quick: bool
    spots: int | None = None

    @property
    def rounds(self) -> int:
        return 3

    @cached_property
    def encoder(self) -> ds.encoders.Encoder:
        return ds.encoders.get().to(self.device)

    @cached_property
    def slide(self) -> SpatialData:
        """A part of a real section: spots that are neighbors of each other."""
        sdata = ds.datasets.her2st("C5")
        n = self.spots or (24 if self.quick else 64)
        xy = np.column_stack([sdata.shapes["spots"].geometry.x, sdata.shapes["spots"].geometry.y])
        near = np.argsort(np.linalg.norm(xy - np.median(xy, axis=0), axis=1))[:n]
        sdata.shapes["spots"] = sdata.shapes["spots"].iloc[np.sort(near)]
        return sdata

    @cached_property
    def site(self) -> SlideFeatures:
        geometry = TileGeometry(tile_um=100, input_px=self.encoder.card.input_px)
        return SlideFeatures(SlideView.select(self.slide), self.encoder, geometry)

    @property
    def alone(self) -> np.ndarray:
        """Spots that the field's pipeline is timed on."""
        n = len(self.site.boxes.corners)
        return np.arange(n // 2, n)[: 4 if self.quick else 8]

    def per_spot(self, network: _per_spot.Published | None = None) -> Callable[[], None]:
        """The field's pipeline with eight neighbors on these spots: embeddings and, with a network, genes."""
        image, boxes = np.asarray(self.site.level.data), self.site.boxes
        near = np.argsort(np.linalg.norm(boxes.corners[:, None] - boxes.corners, axis=2), axis=1)[:, 1:9]

        def call() -> None:
            for spot in self.alone:
                tiles = _per_spot.tiles_of(image, boxes.corners, boxes.side, near[spot], spot)
                embedded = _per_spot.embed(self.encoder, tiles)
                if network is not None:
                    _per_spot.predict(network, embedded)

        return call

    def forward(self, n: int, at_once: int, threads: int = 1) -> Callable[[], None]:
        """The backbone alone on so many tiles, which are on the device already, as many as caches do not hold.

        Several threads compute a batch each on one core; a single one uses all cores for its batch.
        """
        side, held = self.encoder.card.input_px, max(64, at_once) // at_once * at_once
        pixels = torch.rand(held, 3, side, side, device=self.device).contiguous(memory_format=torch.channels_last)
        pixels = self.encoder.transform(pixels)

        @torch.inference_mode()
        def batch(at: int) -> None:
            first = at % held
            with autocast(self.device):
                self.encoder.module(pixels[first : first + min(at_once, n - at)]).float().cpu()

        return lambda: start_in_threads(batch, range(0, n, at_once), threads, list).result()


def tiles(run: Run, table: Table) -> None:
    """Tiles of 224 px every 200 px, from zarr."""
    size = 3_000 if run.quick else 6_000
    section = ds.datasets.her2st("C5")
    pixels = np.asarray(pyramid_levels(section, next(iter(section.images)))[0].data)[:, 1500:4000, 1500:4000]
    pixels = np.tile(pixels, (1, 3, 3))[:, :size, :size]
    at = np.arange(0, size - TILE, DISTANCE)
    corners = np.array([(y, x) for y in at for x in at])
    for chunk in (1024, 256):
        with tempfile.TemporaryDirectory() as name:
            path = Path(name) / "image.zarr"
            image = Image2DModel.parse(pixels, dims=("c", "y", "x"), chunks=(3, chunk, chunk))
            SpatialData(images={"image": image}).write(path)
            level = pyramid_levels(read_zarr(path), "image")[0]
            array = zarr.open_array(next(path.glob("images/image/*/zarr.json")).parent, mode="r")
            near, far = corners // chunk, (corners + TILE - 1) // chunk
            blocks = sorted(
                {(y, x) for a, b in zip(near, far, strict=True) for y in (a[0], b[0]) for x in (a[1], b[1])}
            )
            seconds = in_turn(
                {
                    "ours": lambda level=level: list(map(len, read_tiles(level, Boxes(corners, TILE, 0), 64))),
                    "decode": lambda array=array, blocks=blocks, chunk=chunk: decode(array, blocks, chunk),
                    "alone": lambda array=array: [_per_spot.cut(array, corner, TILE) for corner in corners],
                },
                run.rounds,
                run.device,
            )
        each = seconds["ours"] / len(corners) * 1e3
        of_blocks = f"blocks of {chunk} px"
        table.add(f"ms for a tile of {TILE} px, {of_blocks}", each, "≤ 0.5" if chunk == 1024 else "")
        table.add(f"time ÷ decoding every block once, {of_blocks}", seconds["ours"] / seconds["decode"], "→ 1")
        table.add(f"one tile at a time ÷ time, {of_blocks}", seconds["alone"] / seconds["ours"], "> 1")


def embedding(run: Run, table: Table) -> None:
    """All tiles of neighboring spots, against 1 + 9 + 8 tiles of one spot after the other."""
    site, encoder = run.site, run.encoder
    rows, batch = np.arange(len(site.boxes.corners)), ds.settings.batch_size
    n = 10 * len(rows)
    seconds = in_turn(
        {
            "ours": lambda: site.embed(rows, device=str(run.device)),
            "forward": run.forward(n, batch),
            "few": run.forward(n, encoder.at_once(batch), encoder.concurrent),
            "alone": run.per_spot(),
        },
        run.rounds,
        run.device,
    )
    per_tile = flops_of_tile(encoder)
    limit = per_tile * n / flops_per_second(run.device)
    rate = f"{len(rows) / np.median(seconds['ours']):.3g} spots a second"
    table.add(
        f"time ÷ forward of the backbone, batches of {batch}", seconds["ours"] / seconds["forward"], "≤ 1.10", rate
    )
    table.add(
        "time ÷ forward of the backbone in batches as the encoder makes them", seconds["ours"] / seconds["few"], "→ 1"
    )
    table.add(
        "per-spot pipeline, 8 neighbors ÷ time",
        seconds["alone"] / len(run.alone) * len(rows) / seconds["ours"],
        "≥ 1.8",
    )
    table.add(
        f"time ÷ {per_tile / 1e9:.3g} GFLOP a tile at the rate of a matrix product",
        seconds["ours"] / limit,
        "→ 1",
        f"{per_tile * n / np.median(seconds['ours']) / 1e9:.3g} GFLOP/s",
    )


def head(run: Run, table: Table) -> None:
    """From embeddings to 5,000 genes: the published ensemble of 10 × 10, and the default."""
    n = 512 if run.quick else 2_048
    rng, dim = np.random.default_rng(0), run.encoder.card.dim
    grid = np.column_stack(np.divmod(np.arange(n), int(n**0.5))) * 1.0
    from deepspot._spatial.geometry import NeighborRule

    bags = ds.models.Bags(
        rng.normal(size=(n, dim)).astype(np.float32),
        rng.normal(size=(n, 9, dim)).astype(np.float16),
        find_neighbors(grid, NeighborRule(reach=1.5)),
    )
    few = ds.models.Bags(bags.spot[:64], bags.subspots[:64], csr_matrix((64, 64), dtype=bool))
    values = np.abs(rng.normal(size=(64, GENES))).astype(np.float32)
    short = {"epochs": 1, "gate": "off"}
    published = ds.models.DeepSpot(preset="published", training=short, device=str(run.device)).fit(few, values)
    default = ds.models.DeepSpot(training=short, device=str(run.device)).fit(few, values)
    whole = _per_spot.Published(dim, GENES).to(run.device).eval()
    near, one = padded(bags.neighbors), np.arange(8, 16 if run.quick else 24)

    def per_spot() -> None:
        for spot in one:
            tiles = np.concatenate([bags.spot[[spot]], bags.subspots[spot], bags.spot[near[spot]]], dtype=np.float32)
            _per_spot.predict(whole, torch.from_numpy(tiles).to(run.device))

    some = bags.around(np.arange(n // 4)) if n > 512 else bags
    seconds = in_turn(
        {
            "published": lambda: published.predict(bags),
            "default": lambda: default.predict(bags),
            "alone": per_spot,
            "batched": lambda: predict(whole, some, run.device),
        },
        run.rounds,
        run.device,
    )
    alone, batched = seconds["alone"] / len(one) * n, seconds["batched"] / len(some) * n
    phi, rho = _per_spot.operations(dim, GENES)
    ours = 10 * phi + rho  # φ of ten tiles, and one ρ
    limit = n * ours / flops_per_second(run.device)
    rate = f"{n / np.median(seconds['published']):,.0f} spots a second"
    table.add("uncollapsed, one spot at a time ÷ published model here", alone / seconds["published"], "≥ 5", rate)
    table.add("uncollapsed, batches of 256 ÷ published model here", batched / seconds["published"], "≥ 5")
    table.write("floating-point operations of the two", f"{(18 * phi + 10 * rho) / ours:.2f}")
    rate = f"{n / np.median(seconds['default']):,.0f} spots a second"
    table.add("uncollapsed, batches of 256 ÷ default model (3 members)", batched / seconds["default"], "≥ 5", rate)
    table.add(
        "published model here ÷ its operations at the rate of a matrix product", seconds["published"] / limit, "→ 1"
    )


def training(run: Run, table: Table) -> None:
    """An epoch on real sections, and r on a section that was left out, with as many epochs and another seed a round.

    Batches are of 128: the published 1,024 are more spots than there are, and an epoch would be one step.
    """
    names, test = (["C2"] if run.quick else ["C2", "C3", "C4"]), "C5"
    genes, epochs = (1_000, 4) if run.quick else (GENES, 12)
    slides = load([*names, test])
    known = [measure(name, slides[name], "spots", "table", patient=name[0], layer=None) for name in [*names, test]]
    chosen, frequent = choose_genes(known[:-1], genes), choose_genes(known[:-1], 200, min_detected=0.3)
    rule = ds.models.load().card.geometry.neighbors
    bags = {name: bags_of(sdata, "lite0_stats_spots", "spots", rule) for name, sdata in slides.items()}
    data = training_set(known[:-1], {name: bags[name] for name in names}, targets(known, chosen)[0][:-1])
    truth, scaler = targets(known, chosen)[0][-1], Scaler.fit(data.targets[data.rows])
    standard = np.nan_to_num(scaler.standardize(data.targets))
    columns = [chosen.index(gene) for gene in frequent if gene in chosen]
    r: dict[str, list[float]] = {"published": [], "same": [], "default": []}

    def judge(name: str, predicted: np.ndarray) -> None:
        here = predicted[known[-1].rows][:, columns]
        r[name].append(float(np.nanmean(pearson(here, truth[:, columns]))))

    def ours(name: str, **options: object) -> Callable[[], None]:
        settings = {"epochs": epochs, "gate": "off", "batch_size": 128} | dict(options.pop("training", {}))

        def call() -> None:
            model = ds.models.DeepSpot(training=settings, device=str(run.device), seed=len(r[name]), **options)
            judge(name, data.fit(model).predict(bags[test]))

        return call

    def published() -> None:
        network = train(data.bags, standard, epochs, 128, run.device, seed=len(r["published"]))
        judge("published", scaler.restore(predict(network, bags[test], run.device)))

    train(data.bags, standard, 0, 128, run.device)  # loads what is loaded once
    quick = {"network": {"members": 1}, "training": {"epochs": 1, "gate": "off"}}
    replace(data, targets=data.targets[:, :10]).fit(ds.models.DeepSpot(device=str(run.device), **quick))
    calls = {"published": published, "same": ours("same", preset="published"), "default": ours("default")}
    seconds = in_turn(calls, 1 if run.quick else 2, run.device, warm=False)
    table.add(
        f"published way ÷ default model (3 members, 512 components), {epochs} epochs, {genes:,} genes, batches of 128",
        seconds["published"] / seconds["default"],
        "≥ 3",
        of(seconds["default"], epochs, "an epoch"),
    )
    table.add("published way ÷ the published network here", seconds["published"] / seconds["same"], "≥ 3")
    phi, rho = _per_spot.operations(data.bags.dim, genes)
    # Forth and back; φ has nothing before it that learns. Ten ρ each see a dropout of their own.
    operations = [2 * tiles * phi + 3 * 10 * rho for tiles in (18, 10)]
    table.write("floating-point operations of the two, no tile in two batches", f"{operations[0] / operations[1]:.2f}")
    texts = {"published": "published way", "same": "the published network here", "default": "default model"}
    for name, text in texts.items():
        found = f"{np.mean(r[name]):.3f}" + (f" ({min(r[name]):.3f} to {max(r[name]):.3f})" if len(r[name]) > 1 else "")
        table.write(
            f"r on section {test}, {len(columns)} genes: {text}", found, "no less" if name != "published" else ""
        )


def end_to_end(run: Run, table: Table) -> None:
    """`ds.tl.predict` with the embedded model, image in zarr, against the backbone on tiles that are in memory.

    And against the field's pipeline with the published network, image in memory.
    """
    genes = len(ds.models.load().card.genes)
    network = _per_spot.Published(run.encoder.card.dim, genes).to(run.device).eval()
    n, batch = 10 * len(run.slide.shapes["spots"]), ds.settings.batch_size
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "slide.zarr"
        run.slide.write(path)
        ds.settings.embeddings_gb = 0

        def memory() -> None:
            ds.tl.predict(read_zarr(path), device=str(run.device))

        def with_onnx() -> None:
            ds.settings.runtime = "onnx"
            memory()
            ds.settings.runtime = "torch"

        def disk() -> None:
            ds.tl.predict(read_zarr(path), device=str(run.device), out=Path(name) / "out.zarr", overwrite=True)

        seconds = in_turn(
            {
                "memory": memory,
                "disk": disk,
                "forward": run.forward(n, batch),
                "few": run.forward(n, run.encoder.at_once(batch), run.encoder.concurrent),
                "alone": run.per_spot(network),
            }
            | ({"onnx": with_onnx} if run.device.type == "cpu" else {}),
            2 if run.quick else 3,
            run.device,
        )
    rate = f"{n / 10 / np.median(seconds['memory']):.3g} spots a second"
    table.add(
        f"predict ÷ forward of the backbone, batches of {batch}", seconds["memory"] / seconds["forward"], "≤ 1.10", rate
    )
    table.add(
        "predict ÷ forward of the backbone in batches as the encoder makes them",
        seconds["memory"] / seconds["few"],
        "≤ 1.15",
    )
    table.add(
        f"predict to disk ÷ forward of the backbone, batches of {batch}",
        seconds["disk"] / seconds["forward"],
        "≤ 1.10",
    )
    table.add(
        f"per-spot pipeline, 8 neighbors, {genes:,} genes ÷ predict",
        seconds["alone"] / len(run.alone) * n / 10 / seconds["memory"],
        "≥ 1.8",
    )
    if "onnx" in seconds:
        faster = seconds["memory"] / seconds["onnx"]
        table.add('predict ÷ predict with `ds.settings.runtime = "onnx"`', faster)


def memory(run: Run, table: Table) -> None:
    """Peak of memory of a prediction to disk, cheap encoder, against the number of spots."""
    from streaming import measure as predict_to_disk

    few, many = (1_000, 5_000) if run.quick else (2_000, 20_000)
    with tempfile.TemporaryDirectory() as name:
        peaks = [predict_to_disk("mean colors", n, Path(name))["peak"] for n in (few, many)]
    table.add(f"peak of {many:,} spots ÷ {few:,} spots", np.array([peaks[1] / peaks[0]]), "→ 1", f"{peaks[1]:.0f} MB")


PARTS = {
    "tiles": tiles,
    "embedding": embedding,
    "head": head,
    "training": training,
    "predict": end_to_end,
    "memory": memory,
}
