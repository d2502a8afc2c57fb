"""What is to be done, and whether the files for it are there."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from deepspot._core.html import check_file


@dataclass(frozen=True)
class Plan:
    """What was asked for.

    Attributes
    ----------
    slide
        A SpatialData (``.zarr``), the output folder of Space Ranger, or an ``.h5ad``. Nothing is written to it.
    out
        File of the report.
    model
        Folder of a bundle, or a name; None takes a prediction that is there, else the embedded model.
    groupby
        Column with groups of spots; None takes those that are there, else finds clusters.
    gene_sets, net
        A GMT file or a library of Enrichr, and a CSV file with weights of genes in pathways; None are the defaults of
        :func:`deepspot.tl.enrich` and :func:`deepspot.tl.pathways`, which are downloaded.
    genes
        Genes to draw.
    image, mpp
        Full-resolution image, and µm per pixel, of a slide that lacks them.
    image_key, shapes_key, table_key
        Image, spots and measured genes, if there are several.
    save
        Where to write the slide with all results.
    overwrite
        Replace a report that is there.
    command
        What was typed.
    """

    slide: Path
    out: Path
    model: str | None = None
    groupby: str | None = None
    gene_sets: str | None = None
    net: Path | None = None
    genes: list[str] | None = None
    image: Path | None = None
    mpp: float | None = None
    image_key: str | None = None
    shapes_key: str | None = None
    table_key: str | None = None
    save: Path | None = None
    overwrite: bool = False
    command: str | None = None

    def check(self) -> None:
        """Raise, before any work, if a file is missing or in the way."""
        check_file(self.out, overwrite=self.overwrite, option="--overwrite")
        if not self.slide.exists():
            raise FileNotFoundError(f"There is no slide {str(self.slide)!r}.")
        if self.out.resolve().is_relative_to(self.slide.resolve()):
            raise ValueError(f"--out {str(self.out)!r} lies in the slide, where nothing is written. Choose another.")
        for option, path in (("--image", self.image), ("--net", self.net), ("--gene-sets", self._gmt())):
            if path is not None and not path.is_file():
                raise FileNotFoundError(f"There is no file {str(path)!r} ({option}).")
        if self.save is not None:
            if self.save.exists():
                raise FileExistsError(f"{str(self.save)!r} exists. Choose another name with --save.")
            if not self.save.resolve().parent.is_dir():
                raise FileNotFoundError(f"There is no folder {str(self.save.resolve().parent)!r} to save into.")

    def _gmt(self) -> Path | None:
        """Gene sets, if these are a file and not a library."""
        return None if self.gene_sets is None or not self.gene_sets.endswith(".gmt") else Path(self.gene_sets)
