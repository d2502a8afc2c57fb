from __future__ import annotations

from typing import TYPE_CHECKING

from deepspot import _check

if TYPE_CHECKING:
    import pandas as pd

HOUR, DAY = 3600, 24


def cohort_cost(
    n_spots: int,
    *,
    tiles_per_second: float,
    workers: int = 1,
    n_genes: int = 5_000,
    dim: int = 1_312,
    subspots: int = 9,
    distance_um: float = 100,
    mpp: float = 0.5,
    megapixels_per_second: float = 25,
    spots_per_second: float = 1_900,
    megabytes_per_second: float = 80,
    bytes_per_value: float = 1.5,
) -> pd.DataFrame:
    """Compute what a cohort of whole slides costs in time and on disk.

    A worker does the four steps one after the other, and slides are independent of each other: hours are work over
    rate, and divide by the number of workers.

    Parameters
    ----------
    n_spots
        Spots of all slides together.
    tiles_per_second
        Tiles that a worker's encoder takes in a second: measure it with ``benchmarks/throughput.py`` on your device.
    workers
        How many run at once: one for each GPU.
    n_genes
        Genes of the model.
    dim
        Length of an embedding.
    subspots
        Sub-spots of a spot; 0 for a model that does not use them.
    distance_um, mpp
        Distance between spots and size of a pixel: how many pixels are read.
    megapixels_per_second
        Pixels that a worker reads and cuts into tiles.
    spots_per_second
        Spots whose genes a worker predicts from embeddings.
    megabytes_per_second
        What a worker packs and writes of expression, before it is packed.
    bytes_per_value
        What one gene of one spot takes on disk: 1.5 as `half`, else 3.2.

    Returns
    -------
    A data frame with the steps `read`, `embed`, `predict` and `write` as index, and `all` at the end. Columns:
    `amount` and `unit` of the work, `hours` of one worker, `share` of the time, `days` with all workers, and
    `gigabytes` on disk: embeddings in float16 in the row `embed`, of which `settings.embeddings_gb` are kept at most,
    expression in the row `write`.

    Raises
    ------
    ValueError
        If a number is not above 0.

    References
    ----------
    DeepSpot, section 2.5 (1,792 slides, 37 million spots). The numbers behind the defaults: the page on what a cohort
    costs.

    Examples
    --------
    >>> import deepspot as ds
    >>> cost = ds.tl.cohort_cost(37_000_000, tiles_per_second=1_000, workers=8)
    >>> int(cost.loc["embed", "amount"] / 1e6)
    370
    """
    import pandas as pd

    numbers = {name: value for name, value in locals().items() if name not in ("pd", "subspots")}
    for name, value in numbers.items():
        _check.positive(value, name)
    if subspots < 0:
        raise ValueError(f"`subspots` must not be below 0, got {subspots}.")
    tiles, values = n_spots * (1 + subspots), n_spots * n_genes
    megapixels = n_spots * (distance_um / mpp) ** 2 / 1e6
    steps = pd.DataFrame(
        {
            "read": (megapixels, "megapixels", megapixels_per_second, 0),
            "embed": (tiles, "tiles", tiles_per_second, tiles * dim * 2 / 1e9),
            "predict": (n_spots, "spots", spots_per_second, 0),
            "write": (values * 4 / 1e6, "megabytes", megabytes_per_second, values * bytes_per_value / 1e9),
        },
        index=["amount", "unit", "rate", "gigabytes"],
    ).T.infer_objects()
    hours = steps["amount"] / steps.pop("rate") / HOUR
    steps = steps.assign(hours=hours, share=hours / hours.sum(), days=hours / workers / DAY)
    total = steps[["hours", "share", "days", "gigabytes"]].sum().rename("all")
    return pd.concat([steps, total.to_frame().T.assign(amount=n_spots, unit="spots")])[
        ["amount", "unit", "hours", "share", "days", "gigabytes"]
    ]
