from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deepspot._logging import logger

from ._deepspot import DeepSpot

if TYPE_CHECKING:
    import pandas as pd

EMBEDDED = "her2st"
FOLDER = Path(__file__).parent / "embedded"
WARNING = (
    "The embedded model %r learnt from HER2-positive breast cancer of two patients, measured with 100 µm spots. On "
    "other tissue, stains or resolutions its predictions are not to be trusted. Train your own with `ds.tl.train`."
)


def available() -> pd.DataFrame:
    """List the models that come with the package.

    Returns
    -------
    One row per model: tissue, number of genes, encoder, tile side in µm, licence.

    Examples
    --------
    >>> import deepspot as ds
    >>> ds.models.available().index.tolist()
    ['her2st']
    """
    import pandas as pd

    from ._bundle import read_card

    cards = {folder.name: read_card(folder) for folder in sorted(FOLDER.iterdir()) if folder.is_dir()}
    rows = {
        name: {
            "tissue": card.tissue,
            "genes": len(card.genes),
            "encoder": card.encoder.name if card.encoder else None,
            "tile_um": card.geometry.tile.tile_um if card.geometry else None,
            "licence": card.licence,
        }
        for name, card in cards.items()
    }
    return pd.DataFrame.from_dict(rows, orient="index")


def load(model: str | Path | None = None, *, device: str | None = None) -> DeepSpot:
    """Load a model.

    Parameters
    ----------
    model
        Folder of a bundle, or name in :func:`deepspot.models.available`; None loads the embedded model.
    device
        Where it shall compute; None falls back to the settings, then to CUDA, MPS, CPU.

    Returns
    -------
    The model, with its card.

    Raises
    ------
    FileNotFoundError
        If there is no such bundle.
    ValueError
        If the bundle is truncated, altered, or written by a newer version.

    Examples
    --------
    >>> import deepspot as ds
    >>> len(ds.models.load().card.genes)
    1000
    """
    from ._bundle import CARD, load

    path = FOLDER / EMBEDDED if model is None else Path(model).expanduser()
    if not (path / CARD).is_file() and (FOLDER / path.name / CARD).is_file() and path.name == str(model):
        path = FOLDER / path.name
    if not path.exists():
        names = sorted(folder.name for folder in FOLDER.iterdir() if folder.is_dir())
        raise FileNotFoundError(f"There is no model {str(model)!r}: neither a folder nor one of {names}.")
    loaded = load(path, device=device)
    logger.info("Loaded %r.", loaded)
    if path == FOLDER / EMBEDDED:
        logger.warning(WARNING, EMBEDDED)
    return loaded
