"""What others make of the encoders of the zoo: their transforms and models. The benchmark of encoders takes it too."""

import numpy as np
import torch

from deepspot.encoders._zoo.specs import SPECS

# Names in the registry of lazyslide-models that are not ours.
REGISTERED = {"uni2-h": "uni2", "prov-gigapath": "gigapath", "phikon-v2": "phikonv2"}
TORCHVISION = {"resnet50": "ResNet50", "densenet121": "DenseNet121", "inception_v3": "Inception_V3"}
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
SCALED = {"do_resize": True, "do_rescale": True, "rescale_factor": 1 / 255}
PROCESSOR = SCALED | {"do_normalize": True, "image_mean": list(IMAGENET[0]), "image_std": list(IMAGENET[1])}


def model(name, network=None):
    """A model of lazyslide-models around a network, without its constructor, which downloads."""
    from lazyslide_models import MODEL_REGISTRY

    cls = MODEL_REGISTRY[REGISTERED.get(name, name)]
    made = cls.__new__(cls)
    made.model, made.img_size, made.num_prefix_tokens = network, (224, 224), SPECS[name].prefix_tokens
    if name in ("phikon", "phikon-v2"):
        made.img_processor = processor(name)
    return made


def processor(name, backend=""):
    """Image processor of transformers, with the values published in preprocessor_config.json."""
    import transformers

    if name == "phikon":
        cls = getattr(transformers, f"ViTImageProcessor{backend}")
        return cls(size={"height": 224, "width": 224}, resample=2, **PROCESSOR)
    cls, crop = getattr(transformers, f"BitImageProcessor{backend}"), {"height": 224, "width": 224}
    return cls(size={"shortest_edge": 224}, resample=3, do_center_crop=True, crop_size=crop, **PROCESSOR)


def transform(name):
    """The transform that a card has to equal, from a tile in uint8 to pixels (3, px, px), and whose it is."""
    from torchvision import models
    from torchvision.transforms import v2

    if name in TORCHVISION:
        published = getattr(models, f"{TORCHVISION[name]}_Weights").DEFAULT.transforms()
        if name == "inception_v3":  # torchvision's network has a second half of it
            net = models.Inception3(transform_input=True, init_weights=False, num_classes=1)
            return (lambda tile: net._transform_input(published(fractions(tile))[None])[0]), "torchvision"
        return (lambda tile: published(fractions(tile))), "torchvision"
    if name in ("phikon", "phikon-v2"):
        prepare = processor(name)
        return (lambda tile: prepare(images=tile, return_tensors="pt")["pixel_values"][0]), "transformers"
    if name in ("virchow2", "prov-gigapath"):
        return on_pillow(name), "the authors' page"
    if name == "h-optimus-0_bilinear":
        normalize = v2.Normalize((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
        published = v2.Compose([v2.Resize(224, antialias=True), normalize])
        return (lambda tile: published(fractions(tile))), "the published DeepSpot code"
    return model(name).get_transform(), "lazyslide-models"


# What the pages of the weights say, written down here a second time: interpolation, side before the cut, mean, std.
PAGES = {
    "uni": ("bilinear", 224, *IMAGENET),
    "uni2-h": ("bilinear", 224, *IMAGENET),
    "virchow2": ("bicubic", 224, *IMAGENET),
    "prov-gigapath": ("bicubic", 256, *IMAGENET),
    "midnight": ("bilinear", 224, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "h0-mini": ("bicubic", 224, (0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517)),
}


def on_pillow(name):
    """How pages of timm's models begin: an image of Pillow, and `timm.data.create_transform` or the like."""
    from PIL import Image
    from timm.data import create_transform

    interpolation, side, mean, std = PAGES[name]
    made = create_transform((3, 224, 224), interpolation=interpolation, mean=mean, std=std, crop_pct=224 / side)
    return lambda tile: made(Image.fromarray(tile))


def fractions(tile):
    return torch.from_numpy(tile).permute(2, 0, 1).float() / 255


def tiles(px):
    """Noise, and tissue-like blobs with a white corner."""
    noise = np.random.default_rng(px).integers(0, 256, (px, px, 3), dtype=np.uint8)
    y, x = np.mgrid[:px, :px] / px
    waves = [127 + 60 * np.sin(9 * x + 5 * y * (c + 1)) + 50 * np.cos(20 * x * y + c) for c in range(3)]
    smooth = np.stack(waves, axis=-1).round().astype(np.uint8)
    smooth[: px // 4, : px // 4] = 255
    return np.stack([noise, smooth])


def reduced(spec):
    """An encoder of the same make with two narrow layers, so that a test can give it weights."""
    if spec.library == "transformers":
        small = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3}
        small |= {"intermediate_size": 96} if spec.options["config"] == "ViTConfig" else {}
    else:
        small = {"embed_dim": 48, "depth": 2, "num_heads": 3} if spec.prefix_tokens else {}
    dim = spec.card.dim if not small else 96 if spec.card.pooling == "cls+mean" else 48
    card = spec.card.model_copy(update={"dim": dim})
    return spec.model_copy(update={"options": spec.options | small, "card": card})
