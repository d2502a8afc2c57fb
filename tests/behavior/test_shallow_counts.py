"""Shallow counts are corrected with the prediction after a registration check."""

import numpy as np
from scipy.sparse import csr_matrix

import deepspot as ds


def error(table, name, truth, genes):
    return np.sqrt(np.mean((table[:, genes].layers[name] - truth) ** 2))


def test_corrected_counts_are_closer_to_the_truth(predicted, model, encoder):
    table = predicted["table"]
    genes = model.card.genes
    truth = np.asarray(table[:, genes].layers["expected"])
    table.X = csr_matrix(np.random.default_rng(0).binomial(table.X.toarray().astype(int), 0.05))
    counts = table.X.copy()
    ds.tl.correct(predicted, model, encoder=encoder, check_registration=False)
    corrected = predicted["table_corrected"]
    assert list(corrected.var_names) == list(table.var_names)
    assert error(corrected, "corrected", truth, genes) < error(corrected, "measured", truth, genes)
    assert (counts != table.X).nnz == 0


def test_the_registration_is_checked(predicted, model, encoder, snapshot):
    before = snapshot(predicted)
    alignment = ds.tl.check_alignment(predicted, model, encoder=encoder)
    assert snapshot(predicted) == before
    assert alignment.n_spots == 42
    assert alignment.verdict in ("aligned", "undecided")
    assert alignment.table["symmetry"].nunique() == 8
    assert len(ds.pl.alignment(alignment)) > 0
