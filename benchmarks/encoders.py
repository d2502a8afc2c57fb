"""Every encoder of the zoo against its real architecture and against what others make of it; and what loading costs.

    python benchmarks/encoders.py

No weights are needed: networks of full size have shapes only, and narrow ones with random weights are run. Writes
benchmarks/results/encoders.md and benchmarks/results/encoders_loading.md.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from timm import create_model

import deepspot as ds
from deepspot.encoders._torch import Pooled, TorchEncoder, prepare
from deepspot.encoders._zoo.networks import network
from deepspot.encoders._zoo.specs import REFUSED, SPECS
from deepspot.encoders._zoo.weights import fill, hash_tensors, needed, read

sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "encoders" / "zoo"))
import upstream

SIDES = (37, 145, 224, 256, 512)
OUT = Path(__file__).parent / "results"


def main() -> None:
    lines = [
        "| encoder | network | parameters, in millions: built (published) | output for 2 tiles | pooling | embeddings "
        "against, largest difference ÷ largest value | pixels against, largest difference in gray levels | license | "
        "access |",
        "|---|---|---|---|---|---|---|---|---|",
        *(row(name) for name in SPECS),
        *(
            f"| `{card.name}` | refused: runs code of its repository | | | | | | {card.license} | {access(card)} |"
            for card in REFUSED.values()
        ),
    ]
    (OUT / "encoders.md").write_text("\n".join(lines) + "\n")
    (OUT / "encoders_loading.md").write_text("\n".join(loading()) + "\n")
    print((OUT / "encoders.md").read_text(), (OUT / "encoders_loading.md").read_text(), sep="\n")


@torch.inference_mode()
def row(name: str) -> str:
    spec = SPECS[name]
    card = spec.card
    with torch.device("meta"):
        module = Pooled(network(spec), card.pooling, spec.prefix_tokens).eval()
        output = module(torch.empty(2, 3, card.input_px, card.input_px))
    built = sum(weights.numel() for weights in module.parameters()) / 1e6
    if tuple(output.shape) != (2, card.dim):
        raise SystemExit(f"{name}: {tuple(output.shape)}, the card says {card.dim}")
    size = f"{built:,.1f} ({spec.parameters:,.4g})"
    tokens = f"{card.pooling}, {spec.prefix_tokens - 1} registers left out" if spec.prefix_tokens > 1 else card.pooling
    whose, off = embeddings(name)
    transform, levels = pixels(name)
    return (
        f"| `{name}` | {card.architecture} | {size} | {tuple(output.shape)} | {tokens} | "
        f"{whose}, {off:.0e} | {transform}, {levels:.0e} | {card.license} | {access(card)} |"
    )


def access(card) -> str:
    return "ask" if card.gated else "free"


def embeddings(name: str) -> tuple[str, float]:
    """Largest difference to what the other library's own code gives, for the same random weights."""
    torch.manual_seed(0)
    spec = upstream.reduced(SPECS[name])
    tiles, transform = upstream.tiles(145), upstream.transform(name)[0]
    ready = torch.stack([torch.as_tensor(transform(tile)) for tile in tiles])
    if name in upstream.TORCHVISION:
        module, theirs = like_torchvision(name)
        expected, whose = theirs(ready), "torchvision"
    else:
        module = network(spec)
        for weights in module.parameters():
            weights.copy_(0.2 * torch.randn(weights.shape) + (0.5 if weights.ndim == 1 else 0))
        known = upstream.model(spec.folder, module)
        takes_tiles = known.get_transform() is None
        expected = known.encode_image(list(tiles) if takes_tiles else ready)
        whose = "lazyslide-models"
    found = torch.from_numpy(
        TorchEncoder(spec.card, Pooled(module, spec.card.pooling, spec.prefix_tokens)).encode(tiles)
    )
    return whose, float((found - expected).abs().max() / found.abs().max())


def like_torchvision(name: str) -> tuple[torch.nn.Module, torch.nn.Module]:
    import torchvision

    options = {"init_weights": False} if name == "inception_v3" else {}
    theirs = getattr(torchvision.models, name)(weights=None, **options).eval()
    tensors = {key: value for key, value in theirs.state_dict().items() if not key.endswith("num_batches_tracked")}
    module = fill(SPECS[name], needed(tensors, SPECS[name], Path("torchvision")), Path("torchvision"))
    setattr(theirs, "classifier" if name == "densenet121" else "fc", torch.nn.Identity())
    return module.eval(), theirs


def pixels(name: str) -> tuple[str, float]:
    """Largest difference to the other library's own transform, over tiles of several sides."""
    card = SPECS[name].card
    encoder, (transform, whose) = TorchEncoder(card, torch.nn.Identity()), upstream.transform(name)
    worst = 0.0
    for side in SIDES:
        tiles = upstream.tiles(side)
        expected = torch.stack([torch.as_tensor(transform(tile)) for tile in tiles])
        off = (encoder.transform(prepare(tiles, card, encoder.device)) - expected).abs().amax(dim=(0, 2, 3))
        worst = max(worst, float((off * torch.tensor(card.std) * 255).max()))
    return whose, worst


def loading() -> list[str]:
    """Seconds of each step of loading, for a network of UNI's size with random weights."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "uni.safetensors"
        save_file(create_model(SPECS["uni"].card.architecture, num_classes=0, init_values=1e-5).state_dict(), path)
        size = path.stat().st_size / 1e9
        held, reading = timed(lambda: read(path))
        tensors, checking = timed(lambda: needed(held, SPECS["uni"], path))
        _, hashing = timed(lambda: hash_tensors(tensors))
        _, filling = timed(lambda: fill(SPECS["uni"], tensors, path))
        _, all_of_it = timed(lambda: ds.encoders.get("uni", weights=path))
        start = time.perf_counter()
        ds.encoders.available()
        listing = time.perf_counter() - start
    return [
        f"| ViT-L/16, {SPECS['uni'].parameters:.0f} million parameters, {size:.1f} GB, in the cache of the system | "
        "seconds |",
        "|---|---|",
        f"| read | {reading:.2f} |",
        f"| every weight is a finite number | {checking:.2f} |",
        f"| content hash | {hashing:.2f} |",
        f"| into the network | {filling:.2f} |",
        f"| `ds.encoders.get` as a whole | {all_of_it:.2f} |",
        f"| `ds.encoders.available()` | {listing:.3f} |",
    ]


def timed(call):
    start = time.perf_counter()
    result = call()
    return result, time.perf_counter() - start


if __name__ == "__main__":
    main()
