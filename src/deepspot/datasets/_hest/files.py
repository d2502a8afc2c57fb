from __future__ import annotations

from pathlib import Path

from deepspot.datasets._shared.hub import fetch
from deepspot.datasets._shared.published import Files, Source, absent, at_hand, locate, way_out, with_endings

REPO = "MahmoodLab/hest"
PUBLISHED, AUTHORS = "published", "authors"

SOURCE = Source(
    name="hest",
    title="HEST-1k",
    page=f"https://huggingface.co/datasets/{REPO}",
    licence="CC BY-NC-SA 4.0",
    citation="Jaume et al., HEST-1k, NeurIPS 2024, https://arxiv.org/abs/2406.16192",
    layouts={
        PUBLISHED: {"table": ["st/{}.h5ad"], "image": ["wsis/{}.tif"], "meta": ["metadata/{}.json"]},
        AUTHORS: {
            "table": ["data/h5ad/{}.h5ad", "h5ad/{}.h5ad"],
            "image": [*with_endings("data/image/{}"), *with_endings("image/{}")],
            "meta": ["data/meta/{}.json", "meta/{}.json"],
        },
    },
    files="'st', 'wsis' and 'metadata' (or 'h5ad', 'image' and 'meta')",
)


def find(sample: str, folder: str | Path | None, download: bool, token: str | None) -> Files:
    """Files of a sample on this machine, downloaded if they are not here."""
    places = SOURCE.places(folder)
    files, nearly = locate(SOURCE, places, sample)
    if files is not None:
        return files
    where, hint = absent(SOURCE, sample, folder, nearly), way_out(SOURCE, f"hest({sample!r})")
    if not download:
        raise FileNotFoundError(f"{where}, and `download=False`. {hint} Samples at hand: {at_hand(SOURCE, places)}.")
    paths = {}
    for part, (pattern, *_) in sorted(SOURCE.layouts[PUBLISHED].items(), key=lambda item: item[0] == "image"):
        path = fetch(SOURCE, REPO, pattern.format(sample), token=token, where=where, hint=hint)
        if path is None:
            raise KeyError(
                f"Sample `{sample!r}` not found in HEST-1k: {SOURCE.page} has no {pattern.format(sample)!r}. Its "
                f"samples are listed there in HEST_v*.csv. Samples at hand: {at_hand(SOURCE, places)}."
            )
        paths[part] = path
    return Files(PUBLISHED, paths)
