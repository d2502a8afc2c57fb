import threading
import time

import numpy as np
import pytest

from deepspot._core.compute import start_in_threads
from deepspot._spatial.geometry import split
from deepspot.encoders._encode import Tiling, encode_spots, stream_spots

TILES = np.random.default_rng(0).integers(0, 256, (7, 18, 18, 3), dtype=np.uint8)


def shuffled():
    yield np.array([4, 0, 6]), TILES[[4, 0, 6]]
    yield np.array([1, 5, 2, 3]), TILES[[1, 5, 2, 3]]


def test_embeddings_are_in_order_of_spots(cheap_encoder):
    spot, parts = encode_spots(shuffled(), 7, cheap_encoder, grid=3, subspots=True, batch_size=5)
    np.testing.assert_array_equal(spot, cheap_encoder.encode(TILES))
    np.testing.assert_array_equal(parts.reshape(63, 27), cheap_encoder.encode(split(TILES, 3)).astype(np.float16))
    assert spot.dtype == np.float32
    assert parts.dtype == np.float16
    assert parts.shape == (7, 9, 27)


def test_encoder_may_reuse_its_output_array(cheap_encoder):
    known = encode_spots(shuffled(), 7, cheap_encoder, grid=3, subspots=True, batch_size=5)
    memory, encode = np.empty((5, 27), dtype=np.float32), cheap_encoder.encode

    def again(tiles):
        memory[: len(tiles)] = encode(tiles)
        return memory[: len(tiles)]

    cheap_encoder.encode, cheap_encoder.resize = again, 224
    for found, wanted in zip(
        encode_spots(shuffled(), 7, cheap_encoder, grid=3, subspots=True, batch_size=5), known, strict=True
    ):
        np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("batch_size", [1, 4, 1000])
def test_batch_size_is_not_exceeded(cheap_encoder, batch_size):
    encode_spots(shuffled(), 7, cheap_encoder, grid=3, subspots=True, batch_size=batch_size)
    assert max(map(len, cheap_encoder.seen)) <= batch_size
    assert cheap_encoder.n_tiles == 70


class Overlapping:
    """Encoder whose batches end in another order than they begin."""

    concurrent = 2

    def __init__(self, encoder):
        self.card, self.fingerprint, self.to, self.encode = encoder.card, "overlapping", encoder.to, encoder.encode
        self.started, self.lost = 0, -1

    def start(self, tiles, grid=None):
        self.started += 1
        slow = self.started % 2

        def call(part):
            time.sleep(0.02 * slow)
            if (part == self.lost).all(axis=(1, 2, 3)).any():
                raise OSError("lost")
            return self.encode(part)

        return start_in_threads(call, np.array_split(tiles, 2), 2, np.concatenate)


@pytest.mark.parametrize("batch_size", [2, 5, 1000])
def test_overlapping_batches_keep_their_order(cheap_encoder, batch_size):
    known = encode_spots(shuffled(), 7, cheap_encoder, grid=3, subspots=True, batch_size=batch_size)
    overlapping = Overlapping(cheap_encoder)
    found = encode_spots(shuffled(), 7, overlapping, grid=3, subspots=True, batch_size=batch_size)
    for ours, theirs in zip(found, known, strict=True):
        np.testing.assert_array_equal(ours, theirs)
    assert overlapping.started > 1


@pytest.mark.parametrize("ended", ["by an error", "by the caller"])
def test_no_batch_begins_after_the_end(cheap_encoder, ended):
    overlapping = Overlapping(cheap_encoder)
    tiles = np.random.default_rng(0).integers(1, 256, (100, 18, 18, 3), dtype=np.uint8)
    if ended == "by an error":
        overlapping.lost, tiles[40] = 0, 0
    batches = ((np.arange(at, at + 10), tiles[at : at + 10]) for at in range(0, 100, 10))
    embedded = stream_spots(batches, overlapping, Tiling(3, subspots=False, batch_size=4))
    if ended == "by the caller":
        next(embedded)
        embedded.close()
    else:
        with pytest.raises(OSError, match="lost"):
            list(embedded)
    # The lost tile is in the eleventh batch, the first block in the first three; one batch is ahead.
    assert overlapping.started == (12 if ended == "by an error" else 4)
    assert not [thread.name for thread in threading.enumerate() if "prefetch" in thread.name]


def test_without_subspots(cheap_encoder):
    _, parts = encode_spots(shuffled(), 7, cheap_encoder, grid=3, subspots=False, batch_size=5)
    assert parts is None
    assert cheap_encoder.n_tiles == 7


def test_only_the_central_subspot(cheap_encoder):
    spot, parts = encode_spots(shuffled(), 7, cheap_encoder, grid=3, subspots=True, batch_size=5, only_central=True)
    assert cheap_encoder.n_tiles == 14
    assert parts.shape == (7, 1, 27)
    _, whole = encode_spots(shuffled(), 7, cheap_encoder, grid=3, subspots=True, batch_size=5)
    np.testing.assert_array_equal(parts, whole[:, [4]])
    np.testing.assert_array_equal(spot, cheap_encoder.encode(TILES))


@pytest.mark.parametrize("shape", [(4,), (28,), (7, 7, 27)])
def test_wrong_dim_in_card_is_refused(cheap_encoder, shape):
    cheap_encoder.encode = lambda tiles: np.zeros((len(tiles), *shape), np.float32)
    with pytest.raises(
        ValueError, match=r"'mean_color' returned embeddings of shape \(5, .* but its card implies \(5, 27\)"
    ):
        encode_spots(shuffled(), 7, cheap_encoder, grid=3, subspots=True, batch_size=5)


def test_one_embedding_per_tile(cheap_encoder):
    cheap_encoder.encode = lambda tiles: np.zeros((1, 27), np.float32)
    with pytest.raises(ValueError, match=r"returned embeddings of shape \(1, 27\) for 5 tiles"):
        encode_spots(shuffled(), 7, cheap_encoder, grid=3, subspots=True, batch_size=5)


@pytest.mark.parametrize("value", [np.nan, np.inf, 7e4, -7e4])
def test_float16_overflow_is_refused(cheap_encoder, value):
    cheap_encoder.encode = lambda tiles: np.full((len(tiles), 27), value, np.float32)
    with pytest.raises(ValueError, match="'mean_color' returned values that are not finite or exceed 65,504"):
        encode_spots(shuffled(), 7, cheap_encoder, grid=3, subspots=True, batch_size=5)
