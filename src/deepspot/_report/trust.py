"""How far the prediction of a slide can be trusted: checks in order, and a verdict on every gene."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from deepspot._core.html import decimal
from deepspot._core.keys import UNS
from deepspot._sdata.tables import check_shared_genes, comparable_scale
from deepspot._stats.metrics import pearson
from deepspot._stats.patterns import effective_patterns
from deepspot._stats.verdicts import INVALID, MEANING, USABLE, verdicts

from .figures import draw_r, to_jpeg, try_drawing
from .maps import draw_unusual

if TYPE_CHECKING:
    from deepspot.tl._alignment.align import Alignment

    from .contents import SlideContents

N_GENES_LISTED = 10
UNCHECKED = "not checked"  # as written by `ds.tl.correct`
COLUMNS = {"expected_r": "r", "expected_r_low": "low", "expected_r_high": "high", "expected_r_n": "n"}
# Share of the spots out of distribution up to which nothing is wrong; about 5 % are on slides like the training slides.
FEW_OOD = 0.1
# Prefixes of Ensembl, and the share of names that decides in which way the genes are spelled.
PREFIXES = {"ENSG": "human", "ENSMUSG": "mouse"}
MOST = 0.8
LATIN = {"homo sapiens": "human", "mus musculus": "mouse"}


def trust_facts(
    slide: SlideContents, table: pd.DataFrame | None, genes: list[str], alignment: Alignment | None
) -> dict[str, Any] | None:
    """Return the checks of a prediction, its figures, and the table of genes; `genes` are those that are drawn."""
    if slide.prediction is None or table is None:
        slide.missing["Predicted genes"] = None
        return None
    label = "here (training slide)" if slide.is_training_slide else "here"
    r = {"expected": table["r"].dropna(), label: table["here"].dropna()}
    r = {name: values for name, values in r.items() if len(values)}
    draw: dict[str, Any] = {"to_image": to_jpeg}
    unusual = "ood_score" in slide.prediction.obs
    facts: dict[str, Any] = {
        "unusual_image": try_drawing(slide, "Map of unusual spots", draw_unusual, slide, **draw) if unusual else None,
        "r_image": try_drawing(slide, "Agreement by gene", draw_r, r) if r else None,
        "species": _species(slide),
        "tissue": _stated(slide, "organ"),
        "unusual": None,
        "expected": None,
        "here": {"n": len(r[label]), "median": r[label].median()} if label in r else None,
        "patterns": effective_patterns(slide.sampled),
        "few_ood": FEW_OOD,
    }
    if "ood" in slide.prediction.obs:
        n = int(slide.prediction.obs["ood"].sum())
        facts["unusual"] = {"n": n, "share": slide.ood_share, "many": slide.has_many_ood}
    if "expected" in r:
        source, known = str(slide.provenance.get("expected_r_from", "")), r["expected"]
        unit = next((unit for unit in ("patients", "slides", "blocks") if unit in source), None)
        spread = {"n": len(known), "median": known.median(), "top": known.quantile(0.9)}
        facts["expected"] = spread | {"source": source, "unit": unit}
    return facts | {"registration": _registration(slide, alignment), "genes": _listed(table, genes, slide)}


def gene_table(slide: SlideContents) -> pd.DataFrame:
    """Return a row for each gene: expected `r`, `low`, `high`, `n` units, r `here`, share `detected`, and `verdict`."""
    table = expected_r(slide)
    measured = _compare(slide)
    table = table.join(measured[~measured.index.duplicated()].reindex(table.index))
    valid = not (slide.has_many_ood or slide.is_finer)
    table["verdict"] = verdicts(table["r"].to_numpy(), table["low"].to_numpy(), valid=valid)
    return table


def expected_r(slide: SlideContents) -> pd.DataFrame:
    """Return `r`, `low`, `high` and `n` units of the expected r of genes, NaN if unknown or not valid here."""
    var = slide.sdata.tables[str(slide.prediction_key or slide.corrected_key)].var
    expected = var[~var.index.duplicated()].reindex(columns=list(COLUMNS)).rename(columns=COLUMNS).astype(float)
    # It was measured on spots, and on tissue like that of the training.
    return expected * np.nan if slide.has_many_ood or slide.is_finer else expected


def species_of(genes: list[str]) -> str | None:
    """Return the species as which genes are spelled: human (CD24) or mouse (Cd24a); None if they are neither."""
    for prefix, species in PREFIXES.items():
        if np.mean([gene.startswith(prefix) for gene in genes]) > MOST:
            return species
    letters = [name for gene in genes if (name := "".join(filter(str.isalpha, gene)))]
    upper = np.mean([name.isupper() for name in letters]) if letters else 0
    capital = np.mean([name[0].isupper() and name[1:].islower() for name in letters if len(name) > 1] or [False])
    return "human" if upper > MOST else "mouse" if capital > MOST else None


def _species(slide: SlideContents) -> tuple[str | None, str | None, bool]:
    """Return the species of the prediction and of the slide, None if unknown, and whether the data set states it."""
    predicted = None if slide.prediction is None else species_of(list(slide.prediction.var_names))
    stated = _stated(slide, "species")
    if stated is not None:
        return predicted, LATIN.get(stated.lower(), stated.lower()), True
    return predicted, None if slide.measured is None else species_of(list(slide.measured.var_names)), False


def _stated(slide: SlideContents, column: str) -> str | None:
    """Return what a column of the measured table, the same for all spots, states about the slide."""
    known = [] if slide.measured is None else slide.measured.obs.get(column, pd.Series(dtype=object)).dropna().unique()
    return str(known[0]) if len(known) == 1 else None


def _compare(slide: SlideContents) -> pd.DataFrame:
    """Return r `here` of predicted and measured genes, of `ds.tl.evaluate` or computed, and the share `detected`."""
    found = pd.DataFrame({"here": np.nan, "detected": np.nan}, slide.sdata.tables[slide.table_keys[0]].var_names)
    if slide.prediction is None or slide.prediction_key is None or slide.measured_key is None:
        return found[:0]
    var = slide.prediction.var
    if "pearson" in var:
        columns = {"here": var["pearson"], "detected": var.get("measured_detected", np.nan)}
        return pd.DataFrame(columns, var.index).astype(float)
    from deepspot.pl._map.values import measured_values, predicted_values

    found = found.reindex(slide.prediction.var_names)
    genes, place = list(slide.prediction.var_names), (slide.sdata, slide.shapes_key)
    try:
        check_shared_genes(genes, slide.sdata.tables[slide.measured_key], slide.measured_key)
        scale = comparable_scale(slide.prediction)
        measured = measured_values(*place, slide.measured_key, genes, layer=slide.layer, scale=scale)
        predicted = predicted_values(*place, slide.prediction_key, genes)
    except (KeyError, ValueError) as error:
        slide.missing["Comparison with measured genes"] = str(error.args[0])
        return found[:0]
    both = np.isfinite(measured).any(axis=1) & np.isfinite(predicted).any(axis=1)
    known = np.isfinite(measured[both]).all(axis=0)
    if both.sum() > 2 and known.any():
        found.loc[known, "here"] = pearson(predicted[both][:, known], measured[both][:, known])
        found.loc[known, "detected"] = (measured[both][:, known] > 0).mean(axis=0)
    return found


def _registration(slide: SlideContents, alignment: Alignment | None) -> str | None:
    """Return the result of the check of the registration, None if there was none."""
    corrected = {} if slide.corrected_key is None else slide.sdata.tables[slide.corrected_key].uns[UNS]
    text = str(corrected.get("registration", UNCHECKED)) if alignment is None else repr(alignment)
    if text != UNCHECKED:
        return text
    if slide.measured_key is not None:
        slide.missing["Check of the registration"] = None
    return None


def _listed(table: pd.DataFrame, drawn: list[str], slide: SlideContents) -> dict[str, Any]:
    """Return the table of genes as text: the best, those that are drawn, the number of each verdict, and all as CSV."""
    table = table.sort_values("r", ascending=False, kind="stable").sort_values("verdict", kind="stable")
    known = [name for name in ("low", "n", "here", "detected") if table[name].notna().any()]
    best = table[table["r"].notna() | table["here"].notna()][:N_GENES_LISTED]
    others = table[table.index.isin(drawn) & ~table.index.isin(best.index)]
    counts = table["verdict"].value_counts()
    names = {column: name for name, column in COLUMNS.items()}
    names |= {"n": "n_held_out", "here": "r_on_this_slide", "detected": "detected_share"}
    csv = table.assign(drawn=table.index.isin(drawn)).rename(columns=names).rename_axis("gene")
    order = ["verdict", *names.values(), "drawn"]
    return {
        "columns": known,
        "best": [_row(gene, row, known) for gene, row in best.iterrows()],
        "others": [_row(gene, row, known) for gene, row in others.iterrows()],
        "counts": [(verdict, int(n), MEANING[verdict]) for verdict, n in counts.reindex(list(MEANING)).items()],
        "n_usable": int(counts[USABLE]),
        "n": len(table),
        "invalid": bool(counts[INVALID]),
        "csv": csv[order].to_csv(float_format="%.4g", lineterminator="\n"),
    }


def _row(gene: Any, row: pd.Series, known: list[str]) -> list[str]:
    """Return a row of the table of genes: the verdict, expected r, and the columns that are known for any gene."""
    formats = {
        "low": lambda: f"{decimal(row['low'])} to {decimal(row['high'])}",
        "n": lambda: f"{row['n']:.0f}",
        "here": lambda: decimal(row["here"]),
        "detected": lambda: f"{100 * row['detected']:.0f} %",
    }
    values = [formats[name]() if row.notna()[name] else "unknown" for name in known]
    return [str(gene), str(row["verdict"]), decimal(row["r"]), *values]
