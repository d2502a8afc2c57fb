"""Encoders that only code from their repository can build. They are named, so that the reason can be given."""

from __future__ import annotations

from typing import Any

from deepspot.encoders._card import EncoderCard

HIBOU: dict[str, Any] = {
    "input_px": 224,
    "mean": (0.7068, 0.5755, 0.722),
    "std": (0.195, 0.2316, 0.1816),
    "interpolation": "bicubic",
    "resize_as": "uint8",
    "mpp": 0.5,
    "licence": "Apache-2.0",
    "gated": True,
    "remote_code": "its network, DINOv2 with registers, is defined by Python files in its repository, which "
    "transformers runs only with `trust_remote_code=True`",
}

CONCH_V1_5 = EncoderCard(
    name="conch_v1_5",
    dim=768,
    input_px=448,
    resize_as="uint8",
    mpp=0.5,
    licence="CC-BY-NC-ND-4.0",
    gated=True,
    source="Hugging Face: MahmoodLab/TITAN",
    url="https://huggingface.co/MahmoodLab/TITAN",
    remote_code="its network is defined by Python files in the repository of TITAN, which transformers runs only with "
    "`trust_remote_code=True`",
)
HIBOU_B = EncoderCard(
    name="hibou-b", dim=768, architecture="ViT-B/14", source="Hugging Face: histai/hibou-b",
    url="https://huggingface.co/histai/hibou-b", **HIBOU,
)  # fmt: skip
HIBOU_L = EncoderCard(
    name="hibou-l", dim=1024, architecture="ViT-L/14", source="Hugging Face: histai/hibou-L",
    url="https://huggingface.co/histai/hibou-L", **HIBOU,
)  # fmt: skip

REFUSED = (CONCH_V1_5, HIBOU_B, HIBOU_L)
