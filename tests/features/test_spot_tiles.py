import numpy as np
import pytest

import deepspot as ds
from deepspot._features.feature_table import SlideFeatures
from deepspot._sdata.view import SlideView
from deepspot._spatial.geometry import TileGeometry


@pytest.fixture
def features(slide, cheap_encoder):
    return SlideFeatures(SlideView.select(slide), cheap_encoder, TileGeometry(tile_um=55, input_px=32))


def test_spot_tiles_agree_with_the_encoder(features, slide, cheap_encoder):
    tiles = features.read_spot_tiles(27)
    assert tiles.shape == (30, 27, 27, 3)
    assert tiles.dtype == np.uint8
    embedded = slide.tables[features.plan().add()].X
    np.testing.assert_allclose(cheap_encoder.encode(tiles), embedded, atol=2)
    assert np.corrcoef(tiles.mean(axis=(1, 2, 3)), embedded.mean(axis=1))[0, 1] > 0.999


def test_too_large_tiles_are_refused(features, monkeypatch):
    monkeypatch.setattr(ds.settings, "max_table_gb", 1e-6)
    with pytest.raises(ValueError, match="tiles_px"):
        features.read_spot_tiles(27)
