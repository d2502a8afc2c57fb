"""Encoders that learnt from histology, as their authors' pages say; where others disagree, the note says so."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

from deepspot.encoders._card import EncoderCard


@dataclass(frozen=True)
class Spec:
    """How an encoder of the zoo is built, and where its weights are.

    Attributes
    ----------
    card
        Describes it. `card.architecture` is the name of the network in its library.
    library
        Who builds the network.
    options
        What the library is told. Names only, so that it can be written into a fingerprint.
    repositories
        Hugging Face ids of the official weights; the first is downloaded from, the others are spellings in use.
    parameters
        Published number of parameters, in millions, without what `unused` leaves out.
    prefix_tokens
        Class token and registers, which come before the patch tokens.
    unused
        How tensors of a file begin that the embedding does not need, such as classifiers.
    stripped
        What the names of tensors may begin with in some files.
    weights_of
        Name of another encoder whose weights it takes, if not its own.
    """

    card: EncoderCard
    library: Literal["timm", "transformers"]
    options: dict[str, Any]
    repositories: tuple[str, ...]
    parameters: float
    prefix_tokens: int = 1
    unused: tuple[str, ...] = ()
    stripped: str = ""
    weights_of: str = ""

    @property
    def folder(self) -> str:
        """Name under which the weights lie in the folder of weights."""
        return self.weights_of or self.card.name


NON_COMMERCIAL = "CC-BY-NC-ND-4.0"
OWKIN = "Owkin non-commercial licence"
SWIGLU: dict[str, Any] = {"mlp_layer": "SwiGLUPacked", "act_layer": "silu"}
H_OPTIMUS: dict[str, Any] = {
    "mean": (0.707223, 0.578729, 0.703617),
    "std": (0.211883, 0.230117, 0.177517),
    "interpolation": "bicubic",
    "resize_as": "uint8",
    "mpp": 0.5,
}
ROUNDING = (
    "Resized as fractions, as the published DeepSpot models were fed; the page's 8-bit images differ by rounding."
)
NO_RESIZING = "Its page takes tiles of 224 px and says nothing of resizing; this is how lazyslide-models does it."


def _page(repository: str) -> dict[str, Any]:
    return {"source": f"Hugging Face: {repository}", "url": f"https://huggingface.co/{repository}"}


UNI = Spec(
    EncoderCard(
        name="uni", dim=1024, pooling="cls", architecture="vit_large_patch16_224", mpp=0.5, licence=NON_COMMERCIAL,
        gated=True, note=ROUNDING, **_page("MahmoodLab/UNI"),
    ),
    library="timm",
    options={"img_size": 224, "patch_size": 16, "init_values": 1e-5, "dynamic_img_size": True},
    repositories=("MahmoodLab/UNI", "MahmoodLab/uni"),
    parameters=303.4,
)  # fmt: skip
UNI2 = Spec(
    EncoderCard(
        name="uni2-h", dim=1536, pooling="cls", architecture="vit_giant_patch14_224", mpp=0.5, licence=NON_COMMERCIAL,
        gated=True, note="Resized as fractions, as UNI is; the page's 8-bit images differ by rounding.",
        **_page("MahmoodLab/UNI2-h"),
    ),
    library="timm",
    options={
        "img_size": 224, "patch_size": 14, "depth": 24, "num_heads": 24, "init_values": 1e-5, "embed_dim": 1536,
        "mlp_ratio": 2.66667 * 2, "no_embed_class": True, "reg_tokens": 8, "dynamic_img_size": True, **SWIGLU,
    },
    repositories=("MahmoodLab/UNI2-h",),
    parameters=681.4,
    prefix_tokens=9,
)  # fmt: skip
H_OPTIMUS_0 = Spec(
    EncoderCard(
        name="h-optimus-0", dim=1536, pooling="cls", architecture="vit_giant_patch14_reg4_dinov2",
        licence="Apache-2.0", gated=True,
        note=NO_RESIZING + " The published DeepSpot models resized otherwise: see h-optimus-0_bilinear. Access is given"
        " at once.",
        **H_OPTIMUS, **_page("bioptimus/H-optimus-0"),
    ),
    library="timm",
    options={"img_size": 224, "init_values": 1e-5},
    repositories=("bioptimus/H-optimus-0",),
    parameters=1130,
    prefix_tokens=5,
)  # fmt: skip
H_OPTIMUS_0_BILINEAR = replace(
    H_OPTIMUS_0,
    card=H_OPTIMUS_0.card.model_copy(
        update={
            "name": "h-optimus-0_bilinear",
            "interpolation": "bilinear",
            "resize_as": "float",
            "note": "H-optimus-0 with tiles resized as the published DeepSpot models were fed. Only for these.",
        }
    ),
    weights_of="h-optimus-0",
)
H_OPTIMUS_1 = replace(
    H_OPTIMUS_0,
    card=EncoderCard(
        name="h-optimus-1", dim=1536, pooling="cls", architecture="vit_giant_patch14_reg4_dinov2",
        licence=NON_COMMERCIAL, gated=True, note=NO_RESIZING, **H_OPTIMUS, **_page("bioptimus/H-optimus-1"),
    ),
    repositories=("bioptimus/H-optimus-1",),
)  # fmt: skip
H0_MINI = Spec(
    EncoderCard(
        name="h0-mini", dim=1536, pooling="cls+mean", architecture="vit_base_patch14_reg4_dinov2",
        licence=NON_COMMERCIAL, gated=True,
        note="Class token and mean of the patch tokens, as on its page; the first 768 numbers are the class token.",
        **H_OPTIMUS, **_page("bioptimus/H0-mini"),
    ),
    library="timm",
    options={"img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.33334, **SWIGLU},
    repositories=("bioptimus/H0-mini",),
    parameters=85.7,
    prefix_tokens=5,
)  # fmt: skip
VIRCHOW2 = Spec(
    EncoderCard(
        name="virchow2", dim=2560, pooling="cls+mean", architecture="vit_huge_patch14_224", interpolation="bicubic",
        resize_as="pillow", mpp=0.5, licence=NON_COMMERCIAL, gated=True,
        note="Trained at 2, 1, 0.5 and 0.25 µm per pixel. Resized as 8-bit images, as on its page; lazyslide-models "
        "lets bicubic interpolation overshoot.",
        **_page("paige-ai/Virchow2"),
    ),
    library="timm",
    options={
        "img_size": 224, "init_values": 1e-5, "mlp_ratio": 5.3375, "reg_tokens": 4, "dynamic_img_size": True, **SWIGLU,
    },
    repositories=("paige-ai/Virchow2",),
    parameters=631.2,
    prefix_tokens=5,
)  # fmt: skip
GIGAPATH = Spec(
    EncoderCard(
        name="prov-gigapath", dim=1536, pooling="cls", architecture="vit_giant_patch14_dinov2", resize_px=256,
        interpolation="bicubic", resize_as="pillow", mpp=0.5, licence="Apache-2.0 with conditions", gated=True,
        note="The tile encoder. A tile is resized to 256 px and loses 6 % on each side, as on its page; "
        "lazyslide-models lets bicubic interpolation overshoot.",
        **_page("prov-gigapath/prov-gigapath"),
    ),
    library="timm",
    options={
        "img_size": 224, "patch_size": 16, "embed_dim": 1536, "depth": 40, "num_heads": 24, "init_values": 1e-5,
        "mlp_ratio": 5.33334,
    },
    repositories=("prov-gigapath/prov-gigapath",),
    parameters=1130,
)  # fmt: skip
PHIKON = Spec(
    EncoderCard(
        name="phikon", dim=768, pooling="cls", architecture="ViTModel", resize_as="uint8", mpp=0.5, licence=OWKIN,
        **_page("owkin/phikon"),
    ),
    library="transformers",
    options={"config": "ViTConfig", "image_size": 224, "patch_size": 16},
    repositories=("owkin/phikon",),
    parameters=85.8,
    unused=("pooler.", "classifier."),
    stripped="vit.",
)  # fmt: skip
PHIKON_V2 = Spec(
    EncoderCard(
        name="phikon-v2", dim=1024, pooling="cls", architecture="Dinov2Model", interpolation="bicubic",
        resize_as="uint8", mpp=0.5, licence=OWKIN, **_page("owkin/phikon-v2"),
    ),
    library="transformers",
    options={
        "config": "Dinov2Config", "image_size": 224, "patch_size": 16, "hidden_size": 1024, "num_hidden_layers": 24,
        "num_attention_heads": 16,
    },
    repositories=("owkin/phikon-v2",),
    parameters=303.4,
    unused=("classifier.",),
    stripped="dinov2.",
)  # fmt: skip
MIDNIGHT = Spec(
    EncoderCard(
        name="midnight", dim=3072, pooling="cls+mean", architecture="Dinov2Model", mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5), resize_as="uint8", mpp=0.5, licence="MIT",
        note="Trained at 2, 1, 0.5 and 0.25 µm per pixel, on public slides.", **_page("kaiko-ai/midnight"),
    ),
    library="transformers",
    options={
        "config": "Dinov2Config", "image_size": 518, "patch_size": 14, "hidden_size": 1536, "num_hidden_layers": 40,
        "num_attention_heads": 24, "use_swiglu_ffn": True,
    },
    repositories=("kaiko-ai/midnight",),
    parameters=1140,
    unused=("classifier.",),
    stripped="dinov2.",
)  # fmt: skip

PATHOLOGY = (
    UNI, UNI2, H_OPTIMUS_0, H_OPTIMUS_0_BILINEAR, H_OPTIMUS_1, H0_MINI, VIRCHOW2, GIGAPATH, PHIKON, PHIKON_V2, MIDNIGHT
)  # fmt: skip


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

IMAGENET = (RESNET50, DENSENET121, INCEPTION_V3)


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
