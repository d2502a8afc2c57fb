from __future__ import annotations

from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from deepspot.datasets._shared.hub import fetch
from deepspot.datasets._shared.published import NAME, Source, absent, at_hand, locate, way_out

REPO = "nonchev/TCGA_digital_spatial_transcriptomics"
INDEX = "metadata_2025-05-21.csv"
ENDINGS = (".h5ad.gz", ".h5ad")
COHORT = "TCGA_"

SOURCE = Source(
    name="tcga",
    title="the authors' TCGA predictions",
    page=f"https://huggingface.co/datasets/{REPO}",
    licence="terms on its page",
    citation="Nonchev et al., DeepSpot, medRxiv (2025), https://doi.org/10.1101/2025.02.09.25321567",
    layouts={
        "published": {"table": [f"{COHORT}*/*/{{}}{ending}" for ending in ENDINGS]},
        "flat": {"table": [f"{{}}{ending}" for ending in ENDINGS]},
    },
    files="'<sample>.h5ad.gz', by itself or in '<cohort>/<FFPE or FF>'",
)


def find(sample: str, folder: str | Path | None, download: bool, token: str | None) -> tuple[Path, str | None]:
    """File of a slide on this machine, downloaded if it is not here, and the cohort, if its folder tells."""
    places = SOURCE.places(folder)
    files, _ = locate(SOURCE, places, sample)
    if files is not None:
        path = files.paths["table"]
        return path, path.parent.parent.name if files.layout == "published" else None
    where, hint = absent(SOURCE, sample, folder), way_out(SOURCE, f"tcga({sample!r})")
    if not download:
        raise FileNotFoundError(f"{where}, and `download=False`. {hint} Samples at hand: {at_hand(SOURCE, places)}.")
    index = fetch(SOURCE, REPO, INDEX, token=token, where=where, hint=hint)
    if index is None:
        raise ConnectionError(f"{where}, and {SOURCE.page} has no index {INDEX!r} any more. {hint}")
    inside = _look_up(index, sample, at_hand(SOURCE, places))
    packed = fetch(SOURCE, REPO, inside, token=token, where=where, hint=hint)
    if packed is None:
        raise KeyError(
            f"Sample `{sample!r}` not found: the index names {inside!r}, but {SOURCE.page} has no such file."
        )
    return packed, PurePosixPath(inside).parts[0]


def _look_up(index: Path, sample: str, here: list[str]) -> str:
    """Path of a sample in the repository, by its index."""
    import pandas as pd

    table = pd.read_csv(index, dtype=str)
    lacking = [column for column in ("sample_id", "file_path") if column not in table.columns]
    if lacking:
        raise ValueError(f"{index} has no column {lacking}, only {list(table.columns)}. Delete it and get it again.")
    rows = table[table["sample_id"].fillna("") == sample]
    if rows.empty:
        near = get_close_matches(sample, table["sample_id"].dropna(), n=5, cutoff=0.5)
        raise KeyError(
            f"Sample `{sample!r}` not found among the {len(table):,} of {SOURCE.title}. Similar names: {near}. Samples "
            f"at hand: {here}."
        )
    path = str(rows["file_path"].iloc[0])
    parts = path.split("/")
    if not all(NAME.fullmatch(part) for part in parts) or not path.endswith(ENDINGS):
        raise ValueError(
            f"{index} names the file {path!r}, which is no path of a prediction. Delete it and get it again."
        )
    return path
