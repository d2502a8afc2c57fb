from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from deepspot._core.keys import checked
from deepspot._core.logging import logger
from deepspot._core.validate import check_positive, check_text
from deepspot._spatial.geometry import Geometry, NeighborRule, TileGeometry
from deepspot.errors import InputError

from .checkpoint import Checkpoint, read_checkpoint
from .files import GENES, SETTINGS, find_model, read_genes, read_settings

if TYPE_CHECKING:
    from deepspot.encoders import EncoderCard
    from deepspot.models._cells import DeepCell
    from deepspot.models._deepspot import DeepSpot

CONTEXTS: dict[Any, tuple[str, ...]] = {
    "spot": ("spot",),
    "spot_subspot": ("spot", "subspots"),
    "spot_neighbors": ("spot", "neighbors"),
    "spot_subspot_neighbors": ("spot", "subspots", "neighbors"),
}
CONTEXTS_OF_CELLS: dict[Any, tuple[str, ...]] = {"cell": ("spot",), "cell_neighbors": ("spot", "neighbors")}
LOSSES = {"mse": "mse", "cos": "cosine", "mse_cos": "mse_cosine", "pearson": "pearson", "poisson": "poisson"}
# Names of encoders in the code of the authors, and here.
ENCODERS = {
    "hoptimus0": "h-optimus-0_bilinear",
    "phikonv2": "phikon-v2",
    "inception": "inception_v3",
}
VISIUM_UM = 55.0
# Side of the tile of a cell and radius of its neighbors in pixels, by default in the code of the authors.
CELL_PX, RADIUS_PX = 20, 45
PAGE = "https://zenodo.org/records/15322099"


@checked
def convert_legacy(
    source: str | Path,
    *,
    tile_um: float | None = None,
    encoder: str | None = None,
    name: str | None = None,
    tissue: str = "",
    license: str | None = None,
) -> DeepSpot | DeepCell:
    """Convert a checkpoint of DeepSpot or DeepCell that their authors published (``final_model.pkl``).

    The file is a pickle, which can run any code when it is loaded. It is not loaded here: its instructions are parsed,
    and only tensors, plain values and an allowlist of names are accepted. Anything else raises an error that names it.

    Parameters
    ----------
    source
        Folder with ``final_model.pkl``, ``top_param_overall.yaml`` and ``info_highly_variable_genes.csv``, or the path
        of ``final_model.pkl`` in such a folder.
    tile_um
        Side of the tile in µm. The checkpoint states it in pixels of unknown size. For spots, 55 µm are assumed by
        default, the diameter of Visium spots, with a warning. For cells it is required, and also gives the size of the
        pixels, in which the distance of neighbors is stated.
    encoder
        Name of the encoder; by default the one in the YAML file.
    name
        Name of the model; by default the name of the folder.
    tissue, license
        Tissue and license for the card, which the checkpoint does not contain. By default the license field refers to
        the page of the checkpoints.

    Returns
    -------
    The model, with the preset ``"published"``: median of the φ, sub-spots summed, neighbors in a box of the spot
    array. Save it with `save`. It contains its genes (those with ``isPredicted``, in the order of the file), scale,
    geometry and the name of its encoder. Reliability, out-of-distribution scores and training slides are not
    available. A DeepCell predicts cells as its spots: pass them as `shapes_key` of :func:`deepspot.tl.predict`. It
    pools the real neighbors; as published, a cell without any has an image of zeros as its neighbor.

    Raises
    ------
    FileNotFoundError
        If a file is missing.
    ValueError
        If the pickle names anything that such a checkpoint does not need, contains a DeepSpot2Cell or an earlier and
        deeper version of DeepCell, or is damaged; if the three files are inconsistent, or `tile_um` is missing.

    References
    ----------
    DeepSpot, section 4.2; the weights are on Zenodo, record 15322099.

    Examples
    --------
    >>> import deepspot as ds
    >>> model = ds.models.convert_legacy("DeepSpot_pretrained_model_weights/Colon_HEST1K")  # doctest: +SKIP
    >>> model.save("colon")  # doctest: +SKIP
    """
    for given, argument in ((encoder, "encoder"), (name, "name"), (tissue, "tissue"), (license, "license")):
        if given is not None:
            check_text(given, argument)
    if tile_um is not None:
        check_positive(tile_um, "tile_um")
    path = find_model(Path(source).expanduser())
    settings = read_settings(path.with_name(SETTINGS))
    encoder = encoder or settings.get("image_feature_model")
    if encoder is None:
        raise FileNotFoundError(
            f"{path.with_name(SETTINGS)} is missing or does not name the encoder of the checkpoint. Pass `encoder=`."
        )
    genes = read_genes(path.with_name(GENES))
    checkpoint = read_checkpoint(path)
    context, width, dim = _layers(checkpoint, path)
    _check_agreement(checkpoint, settings, genes, path)
    if tile_um is None and checkpoint.cells:
        raise InputError(
            f"{path} is a DeepCell, which states the side of its tiles in pixels of unknown size "
            f"(cell_diameter={_pixels(settings, 'cell_diameter', CELL_PX, path)}). Pass `tile_um=`, this side in µm."
        )
    if tile_um is None:
        diameter = settings.get("spot_diameter", "?")[:20].encode("unicode_escape").decode()
        logger.warning(
            "The checkpoint states the side of its tiles in pixels of unknown size (spot_diameter=%s). %g µm are "
            "assumed, as for Visium. Otherwise pass `tile_um=`.",
            diameter,
            VISIUM_UM,
        )
    tile = tile_um or VISIUM_UM
    card = _encoder_card(encoder, dim)
    neighbors = _neighbors_of_cells(settings, tile, path) if checkpoint.cells else _neighbor_rule(settings, path)
    make = _make_deepcell if checkpoint.cells else _make_deepspot
    model = make(
        checkpoint,
        context,
        width,
        path,
        name=name or path.resolve().parent.name,
        tissue=tissue,
        license=license or f"that of the checkpoint; see {PAGE}",
        genes=genes,
        dim=dim,
        encoder=card,
        geometry=Geometry(tile=TileGeometry(tile_um=tile, input_px=card.read_px), neighbors=neighbors),
    )
    logger.info("Converted %r.", model)
    return model


def _make_deepspot(checkpoint: Checkpoint, context: tuple[str, ...], width: int, path: Path, **card: Any) -> DeepSpot:
    """Build the model. `card` contains the fields of its card that are not in the checkpoint."""
    import torch

    from deepspot.models._bundle.card import ModelCard, versions
    from deepspot.models._deepspot import DeepSpot
    from deepspot.models._network.config import NetworkConfig, changed, look_up
    from deepspot.models._network.network import Network

    loss = checkpoint.settings.get("loss_func")
    unlike = "" if loss in LOSSES else ", which deepspot does not have; the loss in this card is a default"
    inferred = {"context": context, "width": width, "n_phi": len(checkpoint.phi), "n_rho": len(checkpoint.rho)}
    network = NetworkConfig(**look_up("published").network.model_dump() | inferred)
    member = Network(network, card["dim"], len(card["genes"]))
    member.load_state_dict(
        {
            f"{part}.{number}.{kind}": torch.from_numpy(value)
            for part in ("phi", "rho")
            for number, layer in enumerate(getattr(checkpoint, part))
            for kind, value in zip(("weight", "bias"), layer, strict=True)
        }
    )
    tensors = {f"members.0.{name}": value for name, value in member.collapse().state_dict().items()}
    for name, values in zip(("mean", "std"), _scale(checkpoint, len(card["genes"]), path), strict=True):
        tensors[f"scaler.{name}"] = torch.from_numpy(values)
    with _as_input_error(path):
        whole = ModelCard(
            note=f"Converted from {path.name} of the paper's authors, who trained it with the loss {loss}{unlike}.",
            network=network,
            training=changed(
                look_up("published").training, {"loss": LOSSES[loss]} if loss in LOSSES else {}, "training"
            ),
            preset="published",
            seed=_seed(checkpoint),
            versions=versions(),
            **card,
        )
    return DeepSpot.from_tensors(whole, tensors)


def _make_deepcell(checkpoint: Checkpoint, context: tuple[str, ...], width: int, path: Path, **card: Any) -> DeepCell:
    """Build the model. `card` contains the fields of its card that are not in the checkpoint."""
    import torch

    from deepspot.models._bundle.card import CellModelCard, versions
    from deepspot.models._cells import DeepCell
    from deepspot.models._cells.config import CellNetworkConfig

    # ρ is linear on its input, which is never negative, so the mean of all ρ is one layer.
    layers = {f"phi.{number}": layer for number, layer in enumerate(checkpoint.phi)}
    layers["rho.0"] = tuple(np.mean(values, axis=0) for values in zip(*checkpoint.rho, strict=True))
    tensors = {
        f"network.{name}.{kind}": torch.from_numpy(value)
        for name, layer in layers.items()
        for kind, value in zip(("weight", "bias"), layer, strict=True)
    }
    for name, values in zip(("mean", "std"), _scale(checkpoint, len(card["genes"]), path), strict=True):
        tensors[f"network.{name}"] = torch.from_numpy(values)
    with _as_input_error(path):
        whole = CellModelCard(
            note=f"Converted from {path.name} of the paper's authors.",
            network=CellNetworkConfig(
                system="deepcell",
                width=width,
                n_ensemble=len(checkpoint.phi),
                dropout=0.0,
                neighbors="neighbors" in context,
                aggregation=checkpoint.settings.get("agg_neighbors", "max"),
                standardized=False,
            ),
            preset="deepcell",
            seed=_seed(checkpoint),
            versions=versions(),
            **card,
        )
    return DeepCell.from_tensors(whole, tensors)


@contextmanager
def _as_input_error(path: Path) -> Iterator[None]:
    """Report a card that cannot be made."""
    from pydantic import ValidationError

    try:
        yield
    except ValidationError as error:
        wrong = error.errors(include_input=False)[0]
        raise InputError(
            f"{path} and the files in its folder do not form a valid model: {wrong['msg']}. Get a new copy."
        ) from error


def _seed(checkpoint: Checkpoint) -> int:
    seed = checkpoint.settings.get("random_seed")
    return seed if type(seed) is int and 0 <= seed < 2**32 else 0


def _layers(checkpoint: Checkpoint, path: Path) -> tuple[tuple[str, ...], int, int]:
    """Return context, output dimension of φ and length of an embedding, and check the shapes of all layers."""
    settings, phi, rho = checkpoint.settings, checkpoint.phi, checkpoint.rho
    known, name = (CONTEXTS_OF_CELLS, "cell_context") if checkpoint.cells else (CONTEXTS, "spot_context")
    context = known.get(settings.get(name), ())
    if not phi or not rho or not context:
        raise InputError(f"{path} has no network, or one with an unknown context: {settings.get(name)!r}.")
    width, dim, n_genes = len(phi[0][0]), phi[0][0].shape[-1], len(rho[0][0])
    for layers, shape in ((phi, (width, dim)), (rho, (n_genes, width * len(context)))):
        if any(weight.shape != shape or bias.shape != shape[:1] for weight, bias in layers):
            raise InputError(f"{path} contains layers of inconsistent sizes. Get a new copy.")
        if not all(np.isfinite(values).all() for layer in layers for values in layer):
            raise InputError(f"{path} contains weights that are not finite. Get a new copy.")
    if (settings.get("input_size"), settings.get("output_size")) != (dim, n_genes):
        raise InputError(f"{path} is inconsistent about the number of inputs or genes. Get a new copy.")
    return context, width, dim


def _check_agreement(checkpoint: Checkpoint, settings: dict[str, str], genes: list[str], path: Path) -> None:
    """Raise if the three files do not belong together."""
    n_genes = len(checkpoint.rho[0][1])
    if len(genes) != n_genes:
        raise InputError(f"{path} predicts {n_genes} genes, but {GENES} names {len(genes)}. Get a new copy.")
    for key in ("input_size", "output_size", "phi2rho_size", "spot_context", "cell_context"):
        if key in settings and settings[key] != str(checkpoint.settings.get(key)):
            raise InputError(
                f"{path} has {key}={checkpoint.settings.get(key)!r}, but {SETTINGS} has {settings[key]!r}: "
                "the files do not belong together. Copy both from the same folder."
            )


def _scale(checkpoint: Checkpoint, n_genes: int, path: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard deviation of the genes in float32."""
    mean = np.zeros(n_genes) if checkpoint.mean is None else checkpoint.mean
    scale = np.ones(n_genes) if checkpoint.scale is None else checkpoint.scale
    with np.errstate(over="ignore"):  # overflow becomes infinite, which is refused
        mean, scale = mean.astype(np.float32), scale.astype(np.float32)
    if not (mean.shape == scale.shape == (n_genes,) and np.isfinite([mean, scale]).all() and (scale > 0).all()):
        raise InputError(f"{path} contains a scaler that does not match its {n_genes} genes. Get a new copy.")
    return mean, scale


def _neighbor_rule(settings: dict[str, str], path: Path) -> NeighborRule:
    """Return the box of neighbors in the spot array, by default that of the preset."""
    from deepspot.models._network.config import look_up

    text = settings.get("neighbors", str(look_up("published").array_box))
    if len(text) > 2 or not text.isdecimal() or not 0 < int(text) <= 10:
        raise InputError(f"{path.with_name(SETTINGS)} has neighbors={text[:20]!r}; it must be an integer from 1 to 10.")
    return NeighborRule(kind="box", reach=int(text), cap=(2 * int(text) + 1) ** 2 - 1)


def _neighbors_of_cells(settings: dict[str, str], tile_um: float, path: Path) -> NeighborRule:
    """Return the radius of neighbors in µm: as published, `n_neighbors` is a number of cells and a number of pixels."""
    number = _pixels(settings, "n_neighbors", RADIUS_PX, path)
    um_per_pixel = tile_um / _pixels(settings, "cell_diameter", CELL_PX, path)
    return NeighborRule(reach=number * um_per_pixel, cap=max(1, number - 1))


def _pixels(settings: dict[str, str], name: str, default: int, path: Path) -> int:
    text = settings.get(name, str(default))
    if len(text) > 3 or not text.isdecimal() or int(text) == 0:
        raise InputError(f"{path.with_name(SETTINGS)} has {name}={text[:20]!r}; it must be an integer from 1 to 999.")
    return int(text)


def _encoder_card(published: str, dim: int) -> EncoderCard:
    """Return the registered card of the encoder if its dimension matches, otherwise a new card."""
    from deepspot.encoders import EncoderCard
    from deepspot.encoders._registry import card_named

    name = ENCODERS.get(published, published)
    card = card_named(name)
    if card is not None and card.dim == dim:
        return card
    reason = "which is not registered" if card is None else f"which has dimension {card.dim} in deepspot"
    logger.warning("The checkpoint needs embeddings of dimension %d from encoder %r, %s.", dim, name, reason)
    return EncoderCard(name=name, dim=dim, note="Named by the checkpoint; not registered in deepspot.")
