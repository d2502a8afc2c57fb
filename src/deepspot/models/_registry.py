from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deepspot._core.logging import logger

from ._bundle.local import FOLDER, local_models
from ._deepspot import DeepSpot

if TYPE_CHECKING:
    import pandas as pd


EMBEDDED = "her2st"
WARNING = (
    "The embedded model %r learned from HER2-positive breast cancer of two patients, measured with 100 µm spots. On "
    "other tissue, stains or resolutions its predictions are not to be trusted. Train your own with `ds.models.train`."
)
# Models whose license the log of this process has, by the hash of their weights.
_logged: set[str] = set()


def available() -> pd.DataFrame:
    """List the models that are on this machine; nothing is downloaded.

    These are the models of the package, the folders in `settings.models_dir` (by default the folder `models`
    of the cache), and what was downloaded from Hugging Face. One that cannot be read is left out, and the log says why.

    Returns
    -------
    One row per model, by what :func:`load` is to be given: `source` (``"package"``, ``"folder"`` or ``"hub"``),
    `tissue`, `license`, number of `genes`, `encoder`, `encoder_license`, tile side `tile_um` in µm, `path`.

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
    for name, found in (local_models() | downloaded_models()).items():
        try:
            card = read_card(found.path)
        except (ValueError, OSError) as error:
            logger.warning("Left out %s: %s", name, error)
            continue
        rows[name] = {
            "source": found.source,
            "tissue": card.tissue,
            "license": card.license,
            "genes": len(card.genes),
            "encoder": card.encoder.name if card.encoder else None,
            "encoder_license": card.encoder.license if card.encoder else None,
            "tile_um": card.geometry.tile.tile_um if card.geometry else None,
            "path": str(found.path),
        }
    return pd.DataFrame.from_dict(rows, orient="index")


def as_model(model: DeepSpot | str | Path | None, *, log: bool = True) -> DeepSpot:
    """Return a model as it is, or load the one that is named; None is the embedded one."""
    if isinstance(model, DeepSpot):
        return model
    return load(model) if log else read_model(_find(model, None))


def load(
    model: str | Path | None = None,
    *,
    device: str | None = None,
    sha256: str | None = None,
    token: str | None = None,
) -> DeepSpot:
    """Load a model. Nothing in it is ever executed, wherever it comes from.

    The first time that a process loads a model, the log states its license.

    Parameters
    ----------
    model
        Folder of a bundle, name in :func:`deepspot.models.available`, or repository on Hugging Face:
        ``"hf://organization/name"`` or ``"hf://organization/name@revision"``, of which a copy in the cache is used
        where there is no network. None loads the embedded model.
    device
        Where it shall compute; None falls back to the settings, then to CUDA, MPS, CPU.
    sha256
        Hash of the weights (``model.card.sha256``) that the model must have. As the weights carry the hash of the card,
        this pins all of it.
    token
        For repositories that are private or gated; None takes the environment variable ``HF_TOKEN``, or the token that
        this machine has stored.

    Returns
    -------
    The model, with its card.

    Raises
    ------
    FileNotFoundError
        If there is no such bundle.
    ValueError
        If the bundle is truncated, altered, another one than `sha256` says, or written by a newer version.
    PermissionError
        If access to a repository has to be asked for.
    ConnectionError
        If a repository is not in the cache and cannot be reached.

    Examples
    --------
    >>> import deepspot as ds
    >>> len(ds.models.load().card.genes)
    1000
    """
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


def read_model(path: Path, *, device: str | None = None, sha256: str | None = None) -> DeepSpot:
    """Read a model from the folder of a bundle, without a log line."""
    from ._bundle.bundle import read_bundle

    return DeepSpot.from_tensors(*read_bundle(path, sha256), device=device)


def _find(model: str | Path | None, token: str | None) -> Path:
    """Folder of a model."""
    from ._bundle.bundle import CARD
    from ._bundle.hub import fetch, is_address, parse

    if model is None:
        return FOLDER / EMBEDDED
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
