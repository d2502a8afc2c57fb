from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deepspot._core.keys import checked
from deepspot._core.logging import logger
from deepspot.encoders._lazyslide import PREFIX
from deepspot.errors import InputError, InputTypeError

from ._adapted.lazyslide import from_lazyslide
from ._bundle.local import FOLDER, local_models
from ._cells import CELL_MODELS
from ._deepspot import DeepSpot
from ._model import Model

if TYPE_CHECKING:
    import pandas as pd

    from ._cells.base import CellModel


EMBEDDED = "her2st"
WARNING = (
    "The embedded model %r was trained on HER2-positive breast cancer of two patients, measured with 100 µm spots. Do "
    "not trust its predictions on other tissue, stains or resolutions. Train your own with `ds.models.train`."
)
# Hashes of the models whose license was logged in this process.
_logged: set[str] = set()


def available() -> pd.DataFrame:
    """List the models on this machine, without downloading anything.

    These are the models in the package, in `settings.models_dir` (by default the folder `models` of the cache), and in
    the cache of Hugging Face. Models that cannot be read are left out with a warning.

    Returns
    -------
    Data frame with one row per model, indexed by the argument of :func:`load`. Columns: `source` (``"package"``,
    ``"folder"`` or ``"hub"``), `tissue`, `license`, `genes` (their number), `encoder`, `encoder_license`, `tile_um`
    (side of a tile in µm), `path`.

    Examples
    --------
    >>> import deepspot as ds
    >>> ds.models.available().loc["her2st", "license"]
    'CC BY 4.0'
    """
    import pandas as pd

    from ._bundle.bundle import read_card
    from ._bundle.local import downloaded_models

    rows = {}
    for name, local in (local_models() | downloaded_models()).items():
        try:
            card = read_card(local.path)
        except (ValueError, OSError) as error:
            logger.warning("Left out %s: %s", name, error)
            continue
        rows[name] = {
            "source": local.source,
            "tissue": card.tissue,
            "license": card.license,
            "genes": len(card.genes),
            "encoder": card.encoder.name if card.encoder else None,
            "encoder_license": card.encoder.license if card.encoder else None,
            "tile_um": card.geometry.tile.tile_um if card.geometry else None,
            "path": str(local.path),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def as_model(model: Model | str | Path | None, *, log: bool = True) -> Model:
    """Return a model unchanged, or load it by name or path; None loads the embedded model."""
    if isinstance(model, Model):
        return model
    named = isinstance(model, str) and model.startswith(PREFIX)
    return load(model) if log or named else read_model(_find(model, None))


@checked
def load(
    model: str | Path | None = None,
    *,
    device: str | None = None,
    sha256: str | None = None,
    token: str | None = None,
) -> Model:
    """Load a model. No code from a bundle is executed.

    The license is logged the first time that a process loads the model.

    Parameters
    ----------
    model
        Folder of a bundle, name in :func:`deepspot.models.available`, or repository on Hugging Face,
        ``"hf://organization/name"`` or ``"hf://organization/name@revision"``, which is read from the cache without a
        network. ``"lazyslide:stpath"`` constructs a predictor of lazyslide-models, which loads its own weights; those
        that run code from their weights are refused, see :func:`deepspot.models.adapt`. None loads the embedded model.
    device
        Device for prediction; None takes `settings.device`, or else CUDA, MPS or the CPU.
    sha256
        Expected hash of the weights (``model.card.sha256``). The weights contain the hash of the card, so this pins
        the whole model.
    token
        Access token for private or gated repositories; None takes the environment variable ``HF_TOKEN``, or the token
        stored on this machine.

    Returns
    -------
    The fitted model.

    Raises
    ------
    FileNotFoundError
        If the bundle does not exist.
    ValueError
        If the bundle is truncated or altered, has another hash than `sha256`, or was written by a newer version; if a
        predictor of lazyslide-models runs code from its weights.
    PermissionError
        If the repository is gated and access was not granted.
    ConnectionError
        If the repository is not in the cache and cannot be reached.

    Examples
    --------
    >>> import deepspot as ds
    >>> len(ds.models.load().card.genes)
    1000
    """
    if isinstance(model, str) and model.startswith(PREFIX):
        if sha256 is not None or token is not None:
            raise InputError(
                f"Model {model!r} loads its own weights: omit `sha256` and `token`. A token can be set in the "
                "environment variable HF_TOKEN."
            )
        adapted = from_lazyslide(model)
        adapted.device = device
        logger.info("Loaded %r.", adapted)
        return adapted
    path = _find(model, token)
    loaded = read_model(path, device=device, sha256=sha256)
    if loaded.card.sha256 in _logged:
        logger.info("Loaded %r again.", loaded.card.name)
    else:
        _logged.add(loaded.card.sha256)
        logger.info("Loaded %r.", loaded)
    if path == FOLDER / EMBEDDED:
        logger.warning(WARNING, EMBEDDED)
    return loaded


def read_model(path: Path, *, device: str | None = None, sha256: str | None = None) -> DeepSpot | CellModel:
    """Read a model from the folder of a bundle, without logging."""
    from ._bundle.bundle import read_bundle
    from ._bundle.card import CellModelCard

    card, tensors = read_bundle(path, sha256)
    if isinstance(card, CellModelCard):
        return CELL_MODELS[card.network.system].from_tensors(card, tensors, device=device)
    return DeepSpot.from_tensors(card, tensors, device=device)


def _find(model: str | Path | None, token: str | None) -> Path:
    """Return the folder of a model."""
    from ._bundle.bundle import CARD
    from ._bundle.hub import fetch, is_address, parse

    if model is None:
        return FOLDER / EMBEDDED
    if not isinstance(model, str | Path):
        raise InputTypeError(
            f"`model` must be a model, its name, the path of a bundle, or None for the embedded model, got {model!r}."
        )
    if is_address(model):
        return fetch(parse(str(model)), token=token)
    path = Path(model).expanduser()
    if path.is_file() or (path / CARD).is_file():
        return path
    known = local_models()
    if str(model) in known:
        return known[str(model)].path
    if not path.exists():
        raise FileNotFoundError(
            f"There is no model {str(model)!r}: neither a folder nor one of {sorted(known)}. One on Hugging Face is "
            "written 'hf://organization/name'."
        )
    return path
