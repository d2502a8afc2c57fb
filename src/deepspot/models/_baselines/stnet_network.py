"""Image network of ST-Net, and training with a linear head. Imports torch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from deepspot.errors import InputError

BATCH = 32
MOMENTUM = 0.9
N_SYMMETRIES = 8
LITE0_STATISTICS = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
BackboneChoice = str | Callable[[], nn.Module] | None


class Backbone(nn.Module):
    """Image network on tiles (n, 3, side, side) with colors from 0 to 255; returns features (n, d).

    Tiles are resized to `px` and normalized with the color `mean` and `std` (in 0 to 1).
    """

    mean: Tensor
    std: Tensor

    def __init__(self, module: nn.Module, px: int, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.module, self.px = module, px
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, 3, 1, 1))

    def forward(self, tiles: Tensor) -> Tensor:
        """Return the features of tiles."""
        pixels = tiles / 255
        if pixels.shape[-2:] != (self.px, self.px):
            size = (self.px, self.px)
            pixels = F.interpolate(pixels, size=size, mode="bilinear", antialias=True, align_corners=False)
        return self.module((pixels - self.mean) / self.std)

    def dim(self) -> int:
        """Return the length of a feature vector."""
        training = self.training
        with torch.inference_mode():
            features = self.eval()(torch.zeros(1, 3, self.px, self.px))
        self.train(training)
        if features.ndim != 2:
            raise InputError(f"`backbone` must give features (n, d), got {tuple(features.shape)}. Pool them.")
        return features.shape[1]


def make_backbone(choice: BackboneChoice, weights: str | Path | None, px: int) -> Backbone:
    """Return the image network for the parameters of :class:`STNet`."""
    if choice is None:
        from deepspot.encoders._lite0 import backbone

        return Backbone(backbone(), px, *LITE0_STATISTICS)
    if isinstance(choice, str):
        module = _timm(choice, weights)
        return Backbone(module, px, module.pretrained_cfg["mean"], module.pretrained_cfg["std"])
    return Backbone(choice(), px, *LITE0_STATISTICS)


def _timm(name: str, weights: str | Path | None) -> Any:
    import timm

    if not timm.is_model(name.partition(".")[0]):
        alike = timm.list_models(f"*{name}*")[:5] or timm.list_models("densenet*")[:5]
        raise InputError(f"`backbone={name!r}` is not a model of timm. Similar ones: {alike}.")
    # With the classifier, so that all weights are checked; it is removed afterwards.
    overlay = None if weights is None else {"state_dict": _read(Path(weights))}
    try:
        model: Any = timm.create_model(name, pretrained=True, pretrained_cfg_overlay=overlay)
    except OSError as error:
        raise InputError(
            f"The weights of {name!r} could not be downloaded ({error}). Give a local file with `weights=`, or leave "
            "`backbone` out for the one that comes with the package."
        ) from error
    model.reset_classifier(0)
    model.pretrained_cfg.pop("state_dict", None)
    return model


def _read(path: Path) -> dict[str, Tensor]:
    if path.suffix == ".safetensors":
        from safetensors.torch import load_file

        return load_file(path)
    return torch.load(path, map_location="cpu", weights_only=True)


def train_head(
    network: nn.Module,
    inputs: Tensor,
    targets: np.ndarray,
    rows: np.ndarray,
    *,
    lr: float,
    epochs: int,
    device: torch.device,
    turned: bool,
) -> nn.Module:
    """Train a network by SGD on the squared error, summed over the spots of a batch, mean over measured genes.

    `inputs` are embeddings (n, …) or uint8 tiles (n, 3, px, px), `targets` (n, genes) may contain NaN, `rows` are the
    training spots. If `turned`, tiles are flipped and turned at random. The network is returned on the CPU, for
    evaluation.
    """
    known = torch.from_numpy(np.isfinite(targets)).float()
    expression = torch.from_numpy(np.nan_to_num(targets).astype(np.float32))
    network = network.to(device).train()
    optimizer = torch.optim.SGD(network.parameters(), lr=lr, momentum=MOMENTUM)
    for _ in range(epochs):
        for batch in _batches(torch.from_numpy(rows)):
            values, mask = inputs[batch].to(device), known[batch].to(device)
            if turned:
                values = turn_each(values, torch.randint(N_SYMMETRIES, (len(batch),)))
            error = (network(values.float()) - expression[batch].to(device)).square() * mask
            optimizer.zero_grad()
            (error.sum(dim=1) / mask.sum(dim=1).clamp(min=1)).sum().backward()
            optimizer.step()
    return network.cpu().eval()


def apply_head(network: nn.Module, inputs: Tensor, *, device: torch.device, turned: bool) -> np.ndarray:
    """Predict expression (n, genes) in float32; if `turned`, the mean over the eight symmetries of the tiles."""
    network.to(device)
    numbers = range(N_SYMMETRIES if turned else 1)
    with torch.inference_mode():
        parts = [
            torch.stack([network(turn(batch, i) if turned else batch) for i in numbers]).mean(dim=0).cpu()
            for batch in (part.to(device).float() for part in inputs.split(BATCH))
        ]
    network.cpu()
    return torch.cat(parts).numpy()


def _batches(rows: Tensor) -> list[Tensor]:
    batches = list(rows[torch.randperm(len(rows))].split(BATCH))
    # Batch normalization needs more than one spot.
    return batches if len(batches) == 1 or len(batches[-1]) > 1 else batches[:-1]


def turn(images: Tensor, number: int) -> Tensor:
    """Return images (..., side, side) in one of their eight symmetries; number 0 is the identity."""
    turned = torch.rot90(images, number % 4, (-2, -1))
    return turned.flip(-1) if number >= 4 else turned


def turn_each(images: Tensor, numbers: Tensor) -> Tensor:
    """Return every image (n, channels, side, side) in its own symmetry."""
    return torch.stack([turn(image, int(number)) for image, number in zip(images, numbers, strict=True)])
