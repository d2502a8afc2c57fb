from __future__ import annotations

from pathlib import Path

from deepspot._logging import logger
from deepspot.datasets._shared._published import Files, Source, absent, locate, way_out, with_endings
from deepspot.datasets._shared._unpack import unzip

RECORD = "14620362"
TOP = "TLS_VISIUM_USZ"
ARCHIVE = f"{TOP}.zip"
URL = f"https://zenodo.org/records/{RECORD}/files/{ARCHIVE}?download=1"
SAMPLES = ("KC1", "KC2", "KC3", "LC1", "LC2", "LC3", "LC4", "LC5")
MEMBERS = {"table": TOP + "/h5ad_preprocessed/{}.h5ad", "image": TOP + "/tif_slides/{}.tif"}
MEMBER_GB = 20.0

SOURCE = Source(
    name="tls",
    title="the kidney and lung sections with TLS",
    page=f"https://zenodo.org/records/{RECORD}",
    licence="CC BY 4.0",
    citation="Dawo, Nonchev and Silina, Zenodo (2025), https://doi.org/10.5281/zenodo.14620362",
    layouts={
        "published": {part: [member, member.removeprefix(f"{TOP}/")] for part, member in MEMBERS.items()},
        "authors": {
            "table": ["data/h5ad/{}.h5ad", "h5ad/{}.h5ad"],
            "image": [*with_endings("data/image/{}"), *with_endings("image/{}")],
        },
        "flat": {"table": ["{}.h5ad"], "image": with_endings("{}")},
    },
    files=f"{ARCHIVE!r}, or 'h5ad_preprocessed' and 'tif_slides' from it",
)


def find(sample: str, folder: str | Path | None, download: bool) -> Files:
    """Files of a section on this machine, unpacked or downloaded if they are not here."""
    places = SOURCE.places(folder)
    files, nearly = locate(SOURCE, places, sample)
    if files is not None:
        return files
    archive = next((place / ARCHIVE for place in places if (place / ARCHIVE).is_file()), None)
    if archive is None:
        where, hint = absent(SOURCE, sample, folder, nearly), way_out(SOURCE, f"tls({sample!r})")
        if not download:
            raise FileNotFoundError(f"{where}, and `download=False`. {hint}")
        try:
            archive = _download(SOURCE.cache)
        except OSError as error:
            raise ConnectionError(f"{where}, and could not be downloaded ({type(error).__name__}). {hint}") from error
    paths = {}
    for part, member in MEMBERS.items():
        target = SOURCE.cache / member.format(sample)
        paths[part] = target if target.is_file() else unzip(archive, member.format(sample), target, MEMBER_GB)
    return Files("published", paths)


def _download(folder: Path) -> Path:
    """Fetch the archive."""
    import pooch

    path = Path(pooch.retrieve(URL, known_hash=None, fname=ARCHIVE, path=folder))
    logger.info("Downloaded %s, SHA-256 %s (none is known to compare with).", path, pooch.file_hash(str(path)))
    return path
