"""Train the model that comes with the package.

    DEEPSPOT_DATA=../shared/data python scripts/train_embedded_model.py

All five sections go into the model. What its card says of its accuracy comes from fits that did not see the patient:
trained on patient C and asked about B, and the other way round. Genes are chosen on all sections, so the choice of
genes has seen both patients.
"""

from __future__ import annotations

import sys
from pathlib import Path

import deepspot as ds
from deepspot.models._registry import EMBEDDED, FOLDER

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from _sections import load

SECTIONS = ["B4", "C2", "C3", "C4", "C5"]
N_GENES, DETECTED, SEED = 1000, 0.1, 0
MB = 2**20


def main() -> None:
    model = ds.models.train(
        load(SECTIONS),
        patient_key="patient",
        genes=N_GENES,
        min_detected=DETECTED,
        seed=SEED,
        card={"name": EMBEDDED, "tissue": "breast, HER2-positive carcinoma", "license": "CC BY 4.0"},
    )
    model.card.note = (
        "Trained on five Spatial Transcriptomics sections of two patients: Andersson et al., Nature Communications "
        "12:6012 (2021), doi 10.1038/s41467-021-26271-2, CC BY 4.0. The encoder never learned from histology. For "
        "trying things out, not for conclusions. Genes were chosen on all sections."
    )
    model.save(FOLDER / EMBEDDED, half_precision=True, overwrite=True)
    size = sum(file.stat().st_size for file in (FOLDER / EMBEDDED).iterdir()) / MB
    print(f"{model}\n{model.card.gate!r}\n{size:.1f} MB")


if __name__ == "__main__":
    main()
