"""The image network under ST-Net's linear head."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LITE0_STATISTICS = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
BackboneChoice = str | Callable[[], nn.Module] | None


class Backbone(nn.Module):
    """Tiles (n, 3, side, side) of colours in 0 to 255 to features (n, d): resized, normalised, through a network.

    Parameters
    ----------
    module
        The network.
    px
        Side of its input.
    mean, std
        Of the colours, in 0 to 1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, module: nn.Module, px: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.module, self.px = module, px
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, tiles: Tensor) -> Tensor:
        """Features of tiles."""
        pixels = tiles / 255
        if pixels.shape[-2:] != (self.px, self.px):
            size = (self.px, self.px)
            pixels = F.interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)
        return self.module((pixels - self.mean) / self.std)

    def dim(self) -> int:
        """Length of a feature vector."""
        training = self.training
        with torch.inference_mode():
            features = self.eval()(torch.zeros(1, 3, self.px, self.px))
        self.train(training)
        if features.ndim != 2:
            raise ValueError(f"`backbone` must give features (n, d), got {tuple(features.shape)}. Pool them.")
        return features.shape[1]


def make_backbone(choice: BackboneChoice, weights: str | Path | None, px: int) -> Backbone:
    """Make the backbone that :class:`STNet` describes."""
    if choice is None:
        from deepspot.encoders._lite0 import backbone

        return Backbone(backbone(), px, *LITE0_STATISTICS)
    if isinstance(choice, str):
        module = _timm(choice, weights)
        return Backbone(module, px, module.pretrained_cfg["mean"], module.pretrained_cfg["std"])  # type: ignore[index,arg-type]
    return Backbone(choice(), px, *LITE0_STATISTICS)


def _timm(name: str, weights: str | Path | None) -> nn.Module:
    import timm

    if not timm.is_model(name.partition(".")[0]):
        alike = timm.list_models(f"*{name}*")[:5] or timm.list_models("densenet*")[:5]
        raise ValueError(f"`backbone={name!r}` is no model of timm. Some that are: {alike}.")
    # All weights must fit, so the model is made with its classifier, and that is taken off again.
    overlay: dict[str, Any] = (
        {} if weights is None else {"pretrained_cfg_overlay": {"state_dict": _read(Path(weights))}}
    )
    try:
        model = timm.create_model(name, pretrained=True, **overlay)
    except OSError as error:
        raise ValueError(
            f"The weights of {name!r} could not be downloaded ({error}). Give a local file with `weights=`, or leave "
            "`backbone` out for the one that comes with the package."
        ) from error
    model.reset_classifier(0)  # type: ignore[operator]
    model.pretrained_cfg.pop("state_dict", None)  # type: ignore[union-attr,operator]
    return model


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)
