import subprocess
import sys

import numpy as np
import pytest
import tifffile
import torch
from torch import nn

import deepspot as ds
from deepspot.encoders import Encoder, EncoderCard
from deepspot.encoders._encode import encode_spots

TILES = np.random.default_rng(0).integers(0, 256, (5, 48, 48, 3), dtype=np.uint8)
MEAN, STD = (0.7, 0.5, 0.6), (0.2, 0.25, 0.2)


def network(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 5), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def to_tensor(tile, side=32, mean=MEAN, std=STD):
    pixels = torch.from_numpy(tile).permute(2, 0, 1).float() / 255
    pixels = nn.functional.interpolate(pixels[None], size=(side, side), mode="bilinear", antialias=True)[0]
    return (pixels - torch.tensor(mean)[:, None, None]) / torch.tensor(std)[:, None, None]


class CustomImageModel:
    """A user's class, which knows nothing of LazySlide."""

    name = "own"

    def __init__(self, seed=0):
        self.model = network(seed)

    def get_transform(self):
        return to_tensor

    def to(self, device):
        self.model.to(device)

    def try_compile(self, **options):
        pass

    def encode_image(self, image):
        return self.model(image)


def changed(**attributes):
    return type("CustomImageModel", (CustomImageModel,), attributes)()


@pytest.fixture(scope="session")
def lazyslide():
    return pytest.importorskip("lazyslide", reason="needs LazySlide, which is in the extra `test`")


@pytest.fixture
def image_model(lazyslide):
    """A class as LazySlide's users write them."""
    from lazyslide_models.base import ImageModel

    class Small(ImageModel):
        def __init__(self, seed=0):
            self.model = network(seed).eval()

        def encode_image(self, image):
            return self.model(image)

    return Small()


@pytest.fixture
def wsi(lazyslide, toy, tmp_path):
    """A toy slide as a file, opened by LazySlide, with tiles of 54 px."""
    image = toy["P1_S1"].images["P1_S1_image"].to_numpy().transpose(1, 2, 0)
    scale = {"resolution": (1e4, 1e4), "resolutionunit": "CENTIMETER"}
    tifffile.imwrite(tmp_path / "toy.tif", image, tile=(256, 256), photometric="rgb", compression="zlib", **scale)
    wsi = lazyslide.open_wsi(tmp_path / "toy.tif")
    lazyslide.pp.tile_tissues(wsi, 54, stride_px=250, tissue_key=None)
    return wsi


@pytest.fixture
def same_tiles(wsi, toy, slide_of):
    """The same slide and tiles as ours."""
    image = toy["P1_S1"].images["P1_S1_image"].to_numpy().transpose(1, 2, 0)
    centers = wsi.shapes["tiles"].bounds[["minx", "miny"]].to_numpy() + 27
    return slide_of(image, centers, mpp=1.0, diameter_um=54)


def extracted(lazyslide, wsi, model):
    return lazyslide.tl.feature_extraction(wsi, model, device="cpu", pbar=False, return_features=True)


def test_custom_object_is_adapted():
    encoder = ds.encoders.get(CustomImageModel())
    assert isinstance(encoder, Encoder)
    card = encoder.card
    assert (card.name, card.dim, card.input_px, card.license, card.gated) == ("own", 4, 32, "unknown", False)
    np.testing.assert_allclose([card.mean, card.std], [MEAN, STD], atol=1e-5)
    embedded = encoder.to("cpu").encode(TILES)
    assert embedded.dtype == np.float32
    with torch.inference_mode():
        expected = network().eval()(torch.stack([to_tensor(tile) for tile in TILES]))
    np.testing.assert_allclose(embedded, expected, rtol=1e-5, atol=1e-6)


def test_image_models_are_accepted_as_encoder_argument(slides):
    small = {"network": {"width": 8, "members": 1}, "training": {"epochs": 1, "max_epochs": 1, "gate": "record"}}
    model = ds.models.train(slides, patient_key="patient", genes=5, encoder=CustomImageModel(), **small)
    assert model.card.encoder.name == "own"
    slide = slides["P1_S1"]
    ds.pp.embed(slide, CustomImageModel())
    ds.tl.predict(slide, model, encoder=CustomImageModel())
    assert slide["own_spots"].shape == (30, 4)
    assert sum(key.startswith("own") for key in slide.tables) == 1
    with pytest.raises(ValueError, match="'own' with other weights or preprocessing"):
        ds.tl.predict(slide, model, encoder=CustomImageModel(seed=1), overwrite=True)


def test_adapt_without_lazyslide():
    code = (
        "import sys, types, torch, numpy as np, deepspot as ds; "
        "own = types.SimpleNamespace(model=torch.nn.Flatten(), name='own', get_transform=lambda: None, "
        "to=lambda device: None, try_compile=lambda: None, encode_image=lambda image: image[:, 0, 0].float()); "
        "print(ds.encoders.adapt(own).encode(np.full((1, 8, 8, 3), 7, np.uint8)).tolist(), "
        "[name for name in sys.modules if name.startswith('lazyslide')])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[[7.0, 7.0, 7.0]] []\n"


def test_features_are_those_of_lazyslide(lazyslide, wsi, same_tiles, image_model):
    from lazyslide_models.base import ImageModelProtocol

    assert isinstance(image_model, ImageModelProtocol)
    ds.pp.embed(same_tiles, image_model, subspots=False)
    features = extracted(lazyslide, wsi, image_model)
    assert features.std(axis=0).min() > 0
    np.testing.assert_allclose(same_tiles["Small_spots"].X, features, atol=1e-5)


def test_timm_models(lazyslide, wsi, same_tiles):
    from lazyslide_models.base import TimmModel

    model = TimmModel("resnet18", pretrained=False)
    encoder = ds.encoders.adapt(model, name="resnet18")
    assert (encoder.card.dim, encoder.card.input_px) == (512, 224)
    assert (encoder.card.mean, encoder.card.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    assert ds.encoders.get(model).card.name == "TimmModel"
    ds.pp.embed(same_tiles, encoder, subspots=False)
    np.testing.assert_allclose(same_tiles["resnet18_spots"].X, extracted(lazyslide, wsi, model), atol=1e-4)


def test_models_without_transform(lazyslide, wsi, same_tiles):
    """As Phikon in LazySlide, whose transform is None."""
    from lazyslide_models.vision.phikon import Phikon
    from transformers import ViTConfig, ViTImageProcessor, ViTModel

    def phikon(side=32):
        torch.manual_seed(0)
        sizes = {"hidden_size": 768, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        model = Phikon.__new__(Phikon)
        model.model = ViTModel(ViTConfig(**sizes, image_size=32, patch_size=8), add_pooling_layer=False)
        model.img_processor = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.5, 0.5, side / 100])
        return model

    encoder = ds.encoders.get(phikon())
    assert (encoder.card.dim, encoder.card.mean, encoder.card.std) == (768, (0, 0, 0), (1, 1, 1))
    assert encoder.card.license == "Owkin non-commercial license"
    assert encoder.card.url == "https://huggingface.co/owkin/phikon"
    ds.pp.embed(same_tiles, encoder, subspots=False)
    np.testing.assert_allclose(same_tiles["Phikon_spots"].X, extracted(lazyslide, wsi, phikon()), atol=1e-4)
    assert ds.encoders.get(phikon()).fingerprint == encoder.fingerprint
    assert ds.encoders.get(phikon(side=40)).fingerprint != encoder.fingerprint


def test_card_has_license_and_gating_of_the_registry(lazyslide):
    from lazyslide_models import MODEL_REGISTRY

    uni = MODEL_REGISTRY["uni"]
    own = changed(license=["MIT", "CC0"], **{key: getattr(uni, key) for key in ("is_gated", "hf_url", "encode_dim")})
    card = ds.encoders.adapt(own).card
    assert (card.dim, card.license, card.gated) == (1024, "MIT, CC0", True)
    assert card.source == card.url == "https://huggingface.co/MahmoodLab/UNI"


@pytest.mark.parametrize(
    ("transform", "expected"),
    [
        (lambda tile: torch.from_numpy(tile).permute(2, 0, 1) / 255, {"std": (1, 1, 1)}),
        (lambda tile: to_tensor(tile, mean=(0, 0, 0), std=(1, 1, 1)), {"input_px": 32, "std": (1, 1, 1)}),
        (lambda tile: tile[:7, :7].transpose(2, 0, 1).astype(np.float32), {"input_px": 7, "std": (0.003922,) * 3}),
        (lambda tile: torch.from_numpy(tile), {}),
        (lambda tile: 0 * to_tensor(tile), {"input_px": 32}),
    ],
)
def test_card_is_inferred_from_transform(transform, expected):
    own = changed(get_transform=lambda self: transform, encode_image=lambda self, image: image.flatten(1)[:, :2])
    card = ds.encoders.adapt(own).card
    expected = {"dim": 2, "input_px": 224, "mean": (0, 0, 0), "std": (1, 1, 1)} | expected
    assert {key: getattr(card, key) for key in expected} == expected


def test_module_is_in_evaluation_mode():
    own = CustomImageModel()
    encoder = ds.encoders.adapt(own)
    np.testing.assert_array_equal(encoder.encode(TILES), encoder.encode(TILES))
    assert own.model[1].num_batches_tracked == 0


def test_numpy_and_half_precision_output():
    own = changed(encode_image=lambda self, image: self.model(image).numpy().astype(np.float64))
    expected = ds.encoders.adapt(CustomImageModel()).encode(TILES)
    np.testing.assert_allclose(ds.encoders.adapt(own).encode(TILES), expected, rtol=1e-5, atol=1e-6)
    half = changed(encode_image=lambda self, image: self.model(image).bfloat16())
    embedded = ds.encoders.adapt(half).encode(TILES)
    assert embedded.dtype == np.float32
    np.testing.assert_allclose(embedded, expected, atol=0.02)


def test_fingerprint_depends_on_weights_transform_and_code():
    same = ds.encoders.adapt(CustomImageModel()).fingerprint
    assert ds.encoders.adapt(CustomImageModel(), name="other").fingerprint == same
    compiled = changed(encode_dim=4)
    compiled.model = torch.compile(compiled.model)
    assert ds.encoders.adapt(compiled).fingerprint == same
    others = [
        CustomImageModel(seed=1),
        changed(get_transform=lambda self: lambda tile: to_tensor(tile, side=16)),
        changed(encode_image=lambda self, image: 2 * self.model(image)),
        changed(encode_image=lambda self, image: 3 * self.model(image)),
        changed(fingerprint="1"),
        changed(fingerprint="2"),
    ]
    other_class = type("Other", (CustomImageModel,), {})()
    assert len({same, *(ds.encoders.adapt(other).fingerprint for other in [*others, other_class])}) == 8


def doubled(factor):
    def encode_image(self, image):
        return factor * self.model(image)

    return encode_image


def test_fingerprint_includes_closures():
    prints = [ds.encoders.adapt(changed(encode_image=doubled(factor))).fingerprint for factor in (2, 3, 2)]
    assert prints[0] == prints[2] != prints[1]
    own = CustomImageModel()
    own.encode_image = own.model
    assert ds.encoders.adapt(own).fingerprint == ds.encoders.adapt(own).fingerprint


def test_fingerprint_of_code_without_a_source_file():
    prints = []
    for factor in (2, 3, 2):
        made = {}
        exec(f"def encode_image(self, image):\n    return {factor} * self.model(image)", made)
        prints.append(ds.encoders.adapt(changed(encode_image=made["encode_image"])).fingerprint)
    assert prints[0] == prints[2] != prints[1]


def test_fingerprint_is_the_same_in_another_process(lazyslide):
    from lazyslide_models.base import TimmModel

    code = (
        "import torch, deepspot as ds; from lazyslide_models.base import TimmModel; torch.manual_seed(0); "
        "print(ds.encoders.adapt(TimmModel('resnet18', pretrained=False)).fingerprint)"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    torch.manual_seed(0)
    assert run.stdout.strip() == ds.encoders.adapt(TimmModel("resnet18", pretrained=False)).fingerprint


def test_missing_attributes_are_named():
    half = type("Half", (), {"encode_image": lambda self, image: image, "to": lambda self, device: self})()
    message = r"Half is not an image model of LazySlide: it lacks \['model', 'name', 'get_transform', 'try_compile'\]"
    with pytest.raises(TypeError, match=message):
        ds.encoders.get(half)
    with pytest.raises(TypeError, match=r"it lacks \['model'\]"):
        ds.encoders.get(CustomImageModel)


def test_weights_that_cannot_be_hashed():
    own = CustomImageModel()
    own.model = "a session of another library"
    with pytest.raises(ValueError, match=r"CustomImageModel cannot be hashed.* Set an attribute `fingerprint`"):
        ds.encoders.get(own)
    own.fingerprint = "version 1"
    own.to = lambda device: None
    own.encode_image = lambda image: image.mean(dim=(2, 3))
    assert ds.encoders.get(own).to("cpu").encode(TILES).shape == (5, 3)


@pytest.mark.parametrize(
    ("encode", "error", "message"),
    [
        (
            lambda self, image: (image, image),
            TypeError,
            "`encode_image` of 'own' returned a tuple; it must return an array",
        ),
        (lambda self, image: image, ValueError, r"returned an array of shape \(1, 3, 32, 32\) for one tile.* Pool the"),
        (lambda self, image: image.flatten(), ValueError, r"of shape \(3072,\) for one tile"),
    ],
)
def test_one_vector_for_each_tile(encode, error, message):
    with pytest.raises(error, match=message):
        ds.encoders.get(changed(encode_image=encode))


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"encode_dim": 7}, r"'own' returned embeddings of shape \(5, 4\) .* but its card implies \(5, 7\)"),
        ({"encode_image": lambda self, image: self.model(image) / 0}, "'own' returned values that are not finite"),
    ],
)
def test_output_is_checked(attributes, message):
    encoder = ds.encoders.get(changed(**attributes))
    with pytest.raises(ValueError, match=message):
        encode_spots([(np.arange(5), TILES)], 5, encoder, grid=3, subspots=False, batch_size=8)


def test_only_rgb_in_uint8():
    with pytest.raises(ValueError, match=r"`tiles` must be uint8 .*, got float64 \(5, 48, 48, 3\)"):
        ds.encoders.get(CustomImageModel()).encode(TILES / 255)


@pytest.mark.parametrize("name", [3, None])
def test_name_must_be_text(name):
    with pytest.raises(TypeError, match="`name` must be text"):
        ds.encoders.adapt(changed(name=name))


def test_device_is_that_of_the_weights():
    own = CustomImageModel()
    own.model.to("meta")
    own.encode_dim = 4
    encoder = ds.encoders.adapt(own)
    assert encoder.device == torch.device("meta")
    assert isinstance(encoder.card, EncoderCard)
