"""Counts of work (tiles, blocks, products, memory) that determine the speed of a prediction."""

import tracemalloc
from collections import Counter
from contextlib import contextmanager
from itertools import chain
from types import SimpleNamespace

import dask.array as da
import numpy as np
import pytest
import torch

import deepspot as ds
from deepspot._features import feature_table
from deepspot._image import tiles as _tiles
from deepspot._spatial.geometry import Boxes, NeighborRule
from deepspot._spatial.neighbors import find_neighbors
from deepspot.models._network.config import NetworkConfig
from deepspot.models._network.network import BagDataset, Network, infer
from deepspot.tl._predict import stream

SPOTS = 30
TILES = 10 * SPOTS


@pytest.fixture(scope="module")
def model(toy, mean_color):
    from spatialdata import deepcopy

    slides = {name: deepcopy(sdata) for name, sdata in toy.items()}
    return ds.models.train(
        slides,
        patient_key="patient",
        genes=5,
        encoder=mean_color(),
        network={"width": 8, "members": 1},
        training={"epochs": 1, "max_epochs": 1, "gate": "off"},
    )


@pytest.fixture
def decoded(slide):
    """Counter of how often each block of the slide's image is decoded."""
    count = Counter()

    def decode(block, block_info=None):
        count[block_info[None]["chunk-location"][1:]] += 1
        return block

    image = next(iter(slide.images))
    pixels = _tiles.pyramid_levels(slide, image)[0]
    raw = da.from_array(np.asarray(pixels.data), chunks=(3, 128, 128))
    counted = raw.map_blocks(decode, dtype=np.uint8, meta=np.empty((0, 0, 0), np.uint8))
    slide.images[image] = slide.images[image].copy(data=counted)
    count.clear()  # blocks that were read by checks of the image
    return count


@pytest.mark.parametrize("batch_size", [7, 64])
def test_tiles_are_embedded_once_in_full_batches(slide, cheap_encoder, batch_size, monkeypatch):
    monkeypatch.setattr(feature_table, "SPOTS", 4)  # spots per read
    ds.pp.embed(slide, cheap_encoder, batch_size=batch_size)
    assert cheap_encoder.n_tiles == TILES
    assert len(cheap_encoder.seen) == -(-SPOTS // batch_size) + -(-9 * SPOTS // batch_size)


@pytest.mark.parametrize("subspots", ["tiles", False])
def test_the_progress_bar_counts_tiles_in_batches(slide, cheap_encoder, subspots, monkeypatch):
    steps, bars = [], []

    @contextmanager
    def record(name, *, total, unit):
        bars.append((name, total, unit))
        yield SimpleNamespace(update=steps.append)

    monkeypatch.setattr(feature_table, "bar", record)
    ds.pp.embed(slide, cheap_encoder, subspots=subspots, batch_size=16)
    assert bars == [("Embedding spots", TILES if subspots else SPOTS, "tile")]
    assert sum(steps) == bars[0][1]
    assert max(steps) == 16


@pytest.mark.parametrize("out", [None, "out.zarr"])
def test_blocks_are_decoded_once_for_the_hash_and_once_for_the_tiles(
    slide, model, cheap_encoder, decoded, tmp_path, monkeypatch, out
):
    monkeypatch.setattr(stream, "ROWS", 7)
    monkeypatch.setattr(ds.settings, "embeddings_gb", 0)
    options = {} if out is None else {"out": tmp_path / out}
    ds.tl.predict(slide, model, encoder=cheap_encoder, **options)
    assert len(decoded) > 10
    assert max(decoded.values()) == 2
    assert cheap_encoder.n_tiles == TILES
    assert len(cheap_encoder.seen) == 1 + 5  # batches of 64 continue across blocks


def test_blocks_are_decoded_again_only_if_they_do_not_fit(monkeypatch):
    image = np.random.default_rng(0).integers(0, 255, (3, 160, 160), dtype=np.uint8)
    level = _in_blocks(image)
    at = np.array([(y, x) for y in range(0, 140, 10) for x in range(0, 140, 10)])
    asked = []
    monkeypatch.setattr(_tiles, "_decode", _noting(_tiles._decode, asked))
    for rows, tiles in _tiles.read_tiles(level, Boxes(at, 20, 0), 16, in_order=True):
        np.testing.assert_array_equal(
            tiles[0], image[:, at[rows[0], 0] :, at[rows[0], 1] :][:, :20, :20].transpose(1, 2, 0)
        )
    assert max(Counter(chain.from_iterable(asked)).values()) == 1
    assert len(asked) <= 2 * -(-len(at) // 16)  # several blocks per call
    asked.clear()
    monkeypatch.setattr(_tiles, "CACHE_BYTES", 3 * 40 * 40)
    monkeypatch.setattr(_tiles, "BATCH_BYTES", 3 * 40 * 40)
    for rows, tiles in _tiles.read_tiles(level, Boxes(at, 20, 0), 16, in_order=True):
        np.testing.assert_array_equal(
            tiles[-1], image[:, at[rows[-1], 0] :, at[rows[-1], 1] :][:, :20, :20].transpose(1, 2, 0)
        )
    assert max(Counter(chain.from_iterable(asked)).values()) > 1
    assert max(map(len, asked)) <= 4  # blocks of one tile


def _in_blocks(image):
    from xarray import DataArray

    return DataArray(da.from_array(image, chunks=(3, 40, 40)), dims=("c", "y", "x"))


def _noting(decode, asked):
    def noted(data, blocks):
        asked.append(blocks)
        return decode(data, blocks)

    return noted


@pytest.fixture
def grid():
    """20 × 20 spots with 8 neighbors each inside."""
    at = np.column_stack(np.divmod(np.arange(400), 20)) * 100.0
    rng = np.random.default_rng(0)
    spot, parts = rng.normal(size=(400, 8)), rng.normal(size=(400, 9, 8))
    return ds.models.Bags(
        spot.astype(np.float32), parts.astype(np.float16), find_neighbors(at, NeighborRule(reach=150))
    )


@pytest.fixture
def network():
    """Network that counts the rows processed by φ."""
    made = Network(NetworkConfig(width=4), 8, 3)
    made.rows = 0

    def count(_, args):
        made.rows += args[0].shape[:-1].numel()

    made.phi[0].register_forward_pre_hook(count)
    return made


def test_phi_processes_every_tile_of_a_batch_once(grid, network):
    inner = [row * 20 + column for row in range(5, 15) for column in range(5, 15)]
    network(BagDataset(grid, network.config.context).__getitems__(inner))
    assert network.rows == 12 * 12 + 9 * 100  # and not (1 + 9 + 8) · 100
    network.rows = 0
    network(BagDataset(grid, ("spot", "subspots", "neighbors")).__getitems__([21, 21]))
    assert network.rows == 9 + 2 * 9


def test_inference_processes_every_tile_once(grid, network):
    infer([network], grid, "cpu")
    assert network.rows == 10 * 400
    network.rows = 0
    infer([network], grid, "cpu", rows=np.arange(100))
    assert network.rows == 400 + 9 * 100  # the others are neighbors only


def test_number_of_matrix_products_of_an_ensemble(grid, monkeypatch):
    network = Network(NetworkConfig(width=4, n_phi=10, n_rho=10, phi_average="median"), 8, 3)
    products = []
    linear = torch.nn.functional.linear
    monkeypatch.setattr(torch.nn.functional, "linear", lambda *args: products.append(1) or linear(*args))
    network(BagDataset(grid, network.config.context).__getitems__(list(range(50))))
    assert len(products) == 2 + 10  # φ of tiles, φ of sub-spots, and each ρ
    products.clear()
    network.collapse()(BagDataset(grid, network.config.context).__getitems__(list(range(50))))
    assert len(products) == 3


@pytest.mark.parametrize("reach", [150, 3_000])
def test_memory_of_neighbors_is_proportional_to_spots(reach):
    n = 10_000
    at = np.column_stack(np.divmod(np.arange(n), 100)) * 100.0
    find_neighbors(at[:100], NeighborRule(reach=150))
    tracemalloc.start()
    found = find_neighbors(at, NeighborRule(reach=reach))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert np.diff(found.indptr)[5050] == 8
    assert peak < 3_000 * n  # bytes, for any number of spots within the radius
