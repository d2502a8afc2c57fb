"""Train the model that comes with the package, and measure it on patients that it has not seen.

    DEEPSPOT_DATA=../shared/data python scripts/train_embedded_model.py

All five sections go into the model. Its scores come from models that did not see the patient: trained on patient C and
asked about B, and the other way round. Genes are chosen on all sections, so the choice of genes has seen both patients.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import deepspot as ds
from deepspot._metrics import pearson
from deepspot.models._registry import EMBEDDED, FOLDER
from deepspot.tl._slides import measure
from deepspot.tl._training_set import choose_genes, targets

sys.path.insert(0, str(Path(__file__).parents[1] / "benchmarks"))
from _sections import load

SECTIONS = ["B4", "C2", "C3", "C4", "C5"]
N_GENES, DETECTED, SEED = 1000, 0.1, 0
MB = 2**20


def main() -> None:
    slides = load(SECTIONS)
    known = [measure(name, sdata, "spots", "table", patient=name[0], layer=None) for name, sdata in slides.items()]
    genes = choose_genes(known, N_GENES, DETECTED)
    scores = {}
    for patient in ("B", "C"):
        training = {name: sdata for name, sdata in slides.items() if name[0] != patient}
        model = ds.tl.train(training, patient_key="patient", genes=genes, seed=SEED)
        for name in (name for name in slides if name[0] == patient):
            scores[name] = agreement(slides[name], model, name)
    model = ds.tl.train(
        slides, patient_key="patient", genes=genes, seed=SEED, name=EMBEDDED, tissue="breast, HER2-positive carcinoma",
        licence="CC BY 4.0",
    )  # fmt: skip
    model.card.note = (
        "Trained on five Spatial Transcriptomics sections of two patients: Andersson et al., Nature Communications "
        "12:6012 (2021), doi 10.1038/s41467-021-26271-2, CC BY 4.0. The encoder never learnt from histology. For "
        "trying things out, not for conclusions."
    )
    model.card.scores = summary(scores, genes)
    model.save(FOLDER / EMBEDDED, half=True, overwrite=True)
    size = sum(file.stat().st_size for file in (FOLDER / EMBEDDED).iterdir()) / MB
    print(f"{model}\n{size:.1f} MB")
    for key, value in model.card.scores["sections"].items():
        print(key, value)


def agreement(sdata, model, name: str) -> np.ndarray:
    truth = measure(name, sdata, "spots", "table", patient=name[0], layer=None)
    ds.tl.predict(sdata, model, unclipped=True, overwrite=True)
    predicted = sdata.tables["deepspot_spots"].layers["unclipped"][truth.rows]
    return pearson(predicted, targets([truth], model.card.genes)[0][0])


def summary(scores: dict[str, np.ndarray], genes: list[str]) -> dict:
    patients = {patient: [r for name, r in scores.items() if name[0] == patient] for patient in ("B", "C")}
    per_gene = np.nanmean([np.nanmean(parts, axis=0) for parts in patients.values()], axis=0)
    return {
        "how": "Pearson r per gene within a section, predicted by a model that did not see the patient; two patients "
        "allow no interval. Genes were chosen on all sections.",
        "sections": {
            name: {
                "mean_r": round(float(np.nanmean(r)), 3),
                "median_r": round(float(np.nanmedian(r)), 3),
                "undefined": int(np.isnan(r).sum()),
            }
            for name, r in scores.items()
        },
        "r_per_gene": {gene: round(float(r), 3) for gene, r in zip(genes, per_gene, strict=True)},
    }


if __name__ == "__main__":
    main()
