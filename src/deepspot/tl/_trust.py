from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from deepspot._core.keys import PREDICTION, checked, key_in, one_key
from deepspot._sdata.tables import is_finer, kind_of, tables_annotating
from deepspot._sdata.write import add_columns, check_entries
from deepspot._stats.verdicts import verdicts
from deepspot.models._confidence.ood import MANY_OOD

if TYPE_CHECKING:
    from spatialdata import SpatialData


@checked
def trust(
    sdata: SpatialData,
    *,
    prediction_key: str | None = None,
    shapes_key: str | None = None,
    key_added: str = "verdict",
    overwrite: bool = False,
) -> None:
    """Judge in words how far the predicted map of each gene can be trusted on a new patient.

    The verdict depends on the expected r of the gene and on its 90 % interval, which is that of r on the next slide of
    a new patient:

    - ``"usable as a pattern"``: the interval is above 0.2.
    - ``"weak"``: the interval is above 0, and not above 0.2.
    - ``"no evidence"``: the interval contains 0, or lies below it.
    - ``"too few patients"``: there is no interval, because the gene varied in fewer than three held-out patients.
    - ``"not measured"``: there is no expected r.
    - ``"not valid here"``, for all genes: more than 25 % of the spots are out of distribution, or the prediction is
      finer than the spots on which the expected r was measured.

    No verdict says that a value is right. Also a usable gene shows where its expression is high and low, and not how
    high. The table of genes of :func:`deepspot.report` has the same verdicts.

    Parameters
    ----------
    sdata
        Object with predicted genes, see :func:`deepspot.tl.predict`.
    prediction_key
        Table with the predicted genes; needed only if there are several.
    shapes_key
        Spots; only their tables are considered.
    key_added
        Name of the new column.
    overwrite
        Replace an existing column.

    Returns
    -------
    None. The predicted table gets:

    ``var["verdict"]``
        Ordered categorical, the best verdict first. All six are categories.

    Raises
    ------
    KeyError
        If there is no such table, or no prediction at all.
    ValueError
        If there are several predictions, or the column exists already.

    Examples
    --------
    >>> import deepspot as ds
    >>> sdata = ds.datasets.toy(n_patients=1, n_rows=3, n_cols=4)["P1_S1"]
    >>> model = ds.models.train(sdata, genes=5, network={"members": 1}, training={"epochs": 2})
    >>> ds.tl.predict(sdata, model)
    >>> ds.tl.trust(sdata)
    >>> genes = sdata.tables["deepspot_spots"].var.sort_values("verdict")  # `genes.to_csv("genes.csv")` writes a file
    >>> genes["verdict"].iloc[0]
    'too few patients'
    """
    names = list(sdata.tables)
    if shapes_key is not None:
        names = tables_annotating(sdata, key_in(shapes_key, sdata.shapes, "sdata.shapes"))
    names = [name for name in names if kind_of(sdata.tables[name]) == PREDICTION]
    hint = "Predict genes first: `ds.tl.predict(sdata, model)`."
    prediction_key = one_key(prediction_key, names, "predictions in sdata.tables", "prediction_key", hint)
    check_entries(sdata, prediction_key, "var", [key_added], overwrite=overwrite, argument="key_added")
    table = sdata.tables[prediction_key]
    r, low = (
        table.var[name].to_numpy(dtype=float) if name in table.var else np.full(table.n_vars, np.nan)
        for name in ("expected_r", "expected_r_low")
    )
    many_ood = "ood" in table.obs and table.obs["ood"].mean() > MANY_OOD
    found = verdicts(r, low, valid=not (many_ood or is_finer(table)))
    counts = found.value_counts()
    what = ", ".join(f"{n:,} {name}" for name, n in counts[counts > 0].items())
    columns = pd.DataFrame({key_added: found}, index=table.var_names)
    add_columns(sdata, prediction_key, columns, what=f"verdicts ({what})", overwrite=overwrite)
