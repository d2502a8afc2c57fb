from __future__ import annotations

from typing import TYPE_CHECKING

from deepspot._core.logging import logger
from deepspot._core.validate import key_in

if TYPE_CHECKING:
    from anndata import AnnData


def name_genes(adata: AnnData, gene_id_key: str | None) -> None:
    """Choose which identifiers name the genes, and make them unique, saying so.

    Parameters
    ----------
    adata
        Changed in place; former names are kept in ``var["former_name"]``.
    gene_id_key
        Column of `var`, such as ``"gene_ids"`` for Ensembl; None keeps the names as they are.
    """
    if gene_id_key is not None:
        chosen = adata.var[key_in(gene_id_key, adata.var.columns, "adata.var")]
        missing = int(chosen.isna().sum() + (chosen == "").sum())
        if missing:
            raise ValueError(
                f"{missing} genes have no identifier in adata.var[{gene_id_key!r}]. Fill them in, drop these genes, or "
                "leave `gene_id_key` out."
            )
        adata.var["former_name"] = adata.var_names.astype(str)
        adata.var_names = chosen.astype(str).to_numpy()
    repeated = adata.var_names[adata.var_names.duplicated()].unique()
    if len(repeated):
        adata.var_names_make_unique()
        say_numbered(list(repeated))


def say_numbered(repeated: list[str]) -> None:
    """Log that genes share a name."""
    logger.warning(
        "%d gene names occur more than once (%s): the later ones were numbered (%r). Choose unique identifiers "
        "with `gene_id_key=` to tell them apart.",
        len(repeated),
        ", ".join(map(repr, repeated[:3])),
        f"{repeated[0]}-1",
    )


VISIUM_UM = 55.0
"""Diameter of the tissue that a Visium spot measures."""

SPACE_RANGER_UM = 65.0
"""What Space Ranger calls `spot_diameter_fullres`, in µm: the spot with its blur."""

TOLERANCE = 0.05


def tissue_diameter(drawn_um: float) -> float:
    """Diameter of the measured tissue, from the diameter that the file states, both in µm."""
    if abs(drawn_um / SPACE_RANGER_UM - 1) > TOLERANCE:
        return drawn_um
    logger.info(
        "Spots are drawn %.0f µm wide, as Space Ranger does for Visium; they measure %.0f µm of tissue, which is what "
        "tiles will show (`spot_diameter_um=` states otherwise).",
        drawn_um,
        VISIUM_UM,
    )
    return VISIUM_UM
