"""torchvision's networks of photographs, which the paper compares with."""

from __future__ import annotations

from typing import Any

from deepspot.encoders._card import EncoderCard

from ._spec import Spec

TERMS: dict[str, Any] = {
    "licence": "BSD-3-Clause",
    "note": "Learnt from ImageNet photographs. It has never learnt from histology.",
}


def _spec(name: str, repository: str, parameters: float, **card: Any) -> Spec:
    page: dict[str, Any] = {"source": f"Hugging Face: {repository}", "url": f"https://huggingface.co/{repository}"}
    return Spec(
        EncoderCard(name=name, architecture=name, **(TERMS | page | card)),
        library="timm",
        options={},
        repositories=(repository,),
        parameters=parameters,
        prefix_tokens=0,
        unused=("fc.", "classifier.", "AuxLogits."),
    )


RESNET50 = _spec("resnet50", "timm/resnet50.tv2_in1k", 23.5, dim=2048, resize_px=232)
DENSENET121 = _spec("densenet121", "timm/densenet121.tv_in1k", 6.95, dim=1024, resize_px=256)
INCEPTION_V3 = _spec(
    "inception_v3",
    "timm/inception_v3.tv_in1k",
    21.8,
    dim=2048,
    input_px=299,
    resize_px=342,
    # torchvision's transform takes ImageNet's mean and std, which its network undoes (`transform_input`).
    mean=(0.5, 0.5, 0.5),
    std=(0.5, 0.5, 0.5),
)

SPECS = (RESNET50, DENSENET121, INCEPTION_V3)
