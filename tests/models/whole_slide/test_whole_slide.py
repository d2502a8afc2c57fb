"""Common tests of the models on whole slides."""

from dataclasses import replace

import numpy as np
import pytest
from scipy.sparse import csr_matrix

import deepspot as ds
from deepspot._features.bags import Bags
from deepspot._spatial.geometry import NeighborRule
from deepspot._spatial.neighbors import find_neighbors
from deepspot._stats.metrics import pearson
from deepspot.models._inputs import Scaler
from deepspot.models._whole_slide.array import columns_and_rows, split_slide

SIDE, PX = 10, 14
TINY = {
    ds.models.HisToGene: {"dim": 32, "layers": 1, "heads": 2},
    ds.models.Hist2ST: {"dim": 32, "layers": 1, "graph_layers": 2, "heads": 2, "channels": 32, "bake": 2},
    ds.models.THItoGene: {
        "capsules": 2,
        "route": 8,
        "layers": 1,
        "heads": 2,
        "hidden": 32,
        "graph_heads": 2,
        "graph_dim": (16, 32, 32),
    },
    ds.models.TRIPLEX: {"dim": 32, "layers": (1, 2, 1), "heads": (2, 2, 2)},
}
KINDS = list(TINY)
ON_TILES = [(ds.models.HisToGene, PX), (ds.models.Hist2ST, PX), (ds.models.THItoGene, 112)]


def make(kind, **options):
    return kind(**TINY[kind] | {"lr": 3e-3, "epochs": 40} | options)


@pytest.fixture(scope="module")
def slide() -> tuple[Bags, np.ndarray, np.ndarray]:
    """Bags of a slide with a smooth signal in embeddings and colors, its expression, and its depth."""
    rng = np.random.default_rng(0)
    row, column = np.divmod(np.arange(SIDE**2), SIDE)
    # Not exactly on the array, so that no two neighbors have the same distance.
    position = np.column_stack([column, row]) * 200.0 + rng.normal(scale=2, size=(SIDE**2, 2))
    signal = np.column_stack([np.sin(column / 2), np.cos(row / 2)])
    spot = np.hstack([signal, rng.normal(size=(SIDE**2, 4))]).astype(np.float32)
    color = np.hstack([128 + 80 * signal, np.full((SIDE**2, 1), 128)])
    tiles = np.tile(color[:, None, None], (1, PX, PX, 1)).astype(np.uint8)
    depth = rng.integers(2000, 8000, SIDE**2).astype(float)
    rate = np.exp(signal @ rng.normal(size=(2, 5)) + 3)
    expression = np.log1p(rng.poisson(rate * depth[:, None] / 1e4) * 1e4 / depth[:, None])
    neighbors = find_neighbors(position, NeighborRule(reach=300))
    return Bags(spot, None, neighbors, position - position.mean(axis=0), tiles), expression, depth


@pytest.mark.parametrize("kind", KINDS)
def test_a_smooth_signal_is_learned_from_embeddings(kind, slide):
    bags, expression, depth = slide
    rows = np.arange(0, SIDE**2, 2)
    model = make(kind).fit(bags, expression, rows=rows, exposure=depth / 1e4)
    held = np.arange(1, SIDE**2, 2)
    # Ridge reaches 0.78. The vectors of columns and rows are as large as the embeddings in such a small HisToGene.
    least = 0.45 if kind is ds.models.HisToGene else 0.7
    assert pearson(model.predict(bags)[held], expression[held]).mean() > least


@pytest.mark.parametrize(("kind", "px"), ON_TILES)
def test_tiles(kind, px, slide):
    bags, expression, depth = slide
    rows = np.arange(24)
    first = bags.around(rows)
    first = replace(first, tiles=first.tiles.repeat(px // PX, axis=1).repeat(px // PX, axis=2))
    n = len(first)
    taken = np.concatenate([rows, np.setdiff1d(bags.neighbors[rows].indices, rows)])
    model = make(kind, inputs="tiles", epochs=3).fit(first, expression[taken], exposure=depth[taken] / 1e4)
    assert model.uses_tiles
    predicted = model.predict(first)
    assert predicted.shape == (n, 5)
    white = replace(first, tiles=np.full_like(first.tiles, 255))
    assert np.abs(model.predict(white) - predicted).max() > 1e-4  # pixels are used
    other = replace(first, spot=first.spot + 1)
    np.testing.assert_array_equal(model.predict(other), predicted)  # embeddings are not
    with pytest.raises(ValueError, match="the bags have no tiles"):
        model.predict(replace(first, tiles=None))


def some(bags: Bags, spots: np.ndarray) -> Bags:
    neighbors = bags.neighbors[spots][:, spots]
    return Bags(bags.spot[spots], None, neighbors, bags.position[spots], bags.tiles[spots])


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_the_spots_does_not_matter(kind, slide):
    bags, expression, depth = slide
    model = make(kind, epochs=2).fit(bags, expression, exposure=depth / 1e4)
    order = np.random.default_rng(1).permutation(len(bags))
    np.testing.assert_allclose(model.predict(some(bags, order)), model.predict(bags)[order], atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_a_large_slide_are_predicted_alone(kind, slide):
    bags, expression, depth = slide
    model = make(kind, epochs=2).fit(bags, expression, exposure=depth / 1e4)
    model.max_spots = 30
    predicted = model.predict(bags)
    parts = split_slide(columns_and_rows(bags.position), 30, model.n_pos)
    assert len(parts) == 4
    for part in parts:
        np.testing.assert_allclose(model.predict(some(bags, part)), predicted[part], atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_large_slides_are_trained_in_parts(kind, slide, monkeypatch):
    bags, expression, depth = slide
    sizes = []
    model = make(kind, epochs=1, max_spots=40)
    made = type(model)._part
    monkeypatch.setattr(
        kind, "_part", lambda self, b, spots, c, s: sizes.append(len(spots)) or made(self, b, spots, c, s)
    )
    model.fit(bags, expression, exposure=depth / 1e4)
    assert sum(sizes) == len(bags)
    assert max(sizes) <= 40


@pytest.mark.parametrize("kind", KINDS)
def test_bags_without_positions(kind, slide):
    bags, expression, depth = slide
    with pytest.raises(ValueError, match=f"{kind.__name__} needs the positions of spots"):
        make(kind).fit(replace(bags, position=None), expression, exposure=depth / 1e4)


def test_counts_need_the_exposure(slide):
    bags, expression, depth = slide
    model = make(ds.models.Hist2ST)
    with pytest.raises(ValueError, match=r"learns from counts, which need `exposure`\. Pass it, or set `zinb=0`"):
        model.fit(bags, expression)
    n = len(bags)
    part = model._part(bags, *model._split(bags, np.arange(n))[0], Scaler.fit(bags.spot))
    part = model._with_targets(part, expression, np.ones(n), depth / 1e4)
    counts = np.rint(np.expm1(expression) * depth[:, None] / 1e4)
    np.testing.assert_array_equal(part.counts, counts)
    total = counts.sum(axis=1)
    np.testing.assert_allclose(part.size, total / np.median(total), rtol=1e-5)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        (ds.models.HisToGene, {"inputs": "pixels"}, "`inputs` must be 'embeddings' or 'tiles', got 'pixels'"),
        (ds.models.HisToGene, {"max_spots": 0}, "`max_spots` must be"),
        (ds.models.HisToGene, {"max_spots": 1}, "No slide has two spots or more"),
        (ds.models.HisToGene, {"lr": -1.0}, "`lr` must be"),
        (ds.models.TRIPLEX, {"inputs": "tiles"}, "TRIPLEX learns from embeddings"),
        (ds.models.TRIPLEX, {"heads": (2, 2)}, "`heads` must have three values"),
        (ds.models.TRIPLEX, {"heads": (2, 5, 2)}, r"`dim=32` must be a multiple of the number of `heads`, got \[5\]"),
        (ds.models.Hist2ST, {"likelihood": "poisson"}, "`likelihood` must be 'zinb' or 'nb', got 'poisson'"),
    ],
)
def test_wrong_parameters(kind, options, message, slide):
    bags, expression, depth = slide
    with pytest.raises(ValueError, match=message):
        make(kind, **options).fit(bags, expression, exposure=depth / 1e4)


@pytest.mark.parametrize(("kind", "px"), [(ds.models.Hist2ST, 16), (ds.models.THItoGene, 56)])
def test_tiles_of_a_wrong_size(kind, px, slide):
    bags, expression, depth = slide
    wrong = replace(bags, tiles=np.zeros((len(bags), px, px, 3), np.uint8))
    with pytest.raises(ValueError, match=rf"{kind.__name__} needs tiles .*got {px}. Set `tiles=\{{'tiles_px': 112\}}`"):
        make(kind, inputs="tiles").fit(wrong, expression, exposure=depth / 1e4)


def test_a_spot_that_is_repeated_counts_twice(slide):
    """The loss is a weighted mean: all spots twice is the same as once."""
    bags, expression, _ = slide
    once = make(ds.models.HisToGene, epochs=2, dropout=0.0).fit(bags, expression)
    twice = make(ds.models.HisToGene, epochs=2, dropout=0.0).fit(bags, expression, rows=np.tile(np.arange(100), 2))
    np.testing.assert_allclose(once.predict(bags), twice.predict(bags), atol=1e-3)
    half = make(ds.models.HisToGene, epochs=2, dropout=0.0).fit(
        bags, expression, rows=np.concatenate([np.arange(100), np.arange(50)])
    )
    assert np.abs(half.predict(bags) - once.predict(bags)).max() > 1e-2


def test_the_prediction_starts_at_the_mean_expression(slide):
    bags, expression, depth = slide
    for kind in KINDS:
        model = make(kind, epochs=1, lr=1e-9).fit(bags, expression, exposure=depth / 1e4)
        assert np.abs(model.predict(bags).mean(axis=0) - expression.mean(axis=0)).max() < 1.5, kind


@pytest.mark.parametrize("kind", KINDS)
def test_a_slide_without_the_genes_changes_nothing(kind, slide):
    bags, expression, depth = slide
    both, exposure = Bags.concat([bags, bags]), np.tile(depth, 2) / 1e4
    targets = np.concatenate([expression, np.full_like(expression, np.nan)])
    slides = np.repeat(["a", "b"], len(bags))
    model = make(kind, epochs=2).fit(both, targets, slides=slides, exposure=exposure)
    assert np.isfinite(model.predict(bags)).all()
    with pytest.raises(ValueError, match="No slide has two spots or more, or a measured gene"):
        make(kind).fit(bags, np.full_like(expression, np.nan), exposure=depth / 1e4)


def test_spots_that_are_on_no_array():
    rng = np.random.default_rng(0)
    n = 3000
    spot = rng.normal(size=(n, 4)).astype(np.float32)
    bags = Bags(spot, None, csr_matrix((n, n), dtype=bool), rng.uniform(0, 5000, (n, 2)))
    model = make(ds.models.HisToGene, epochs=1, n_pos=16, max_spots=100).fit(bags, spot[:, :2])
    assert np.isfinite(model.predict(bags)).all()
