import decoupler as dc
import numpy as np
import pandas as pd
import pytest
import scanpy as sc
from spatialdata import deepcopy

import deepspot as ds


@pytest.fixture(scope="module")
def toy_logged():
    sdata = ds.datasets.toy(1, 1, n_rows=6, n_cols=7)["P1_S1"]
    sc.pp.normalize_total(sdata["table"], target_sum=1e4)
    sc.pp.log1p(sdata["table"])
    return sdata


@pytest.fixture
def logged(toy_logged):
    return deepcopy(toy_logged)


@pytest.fixture
def net(logged):
    """The toy's programs as pathways, one of them turned around."""
    var = logged["table"].var
    net = pd.DataFrame({"source": var["program"].astype(str), "target": list(var.index), "weight": 1.0})
    net = net[net["source"].isin(["tumour", "lymphoid", "stroma"])].reset_index(drop=True)
    return net.assign(weight=np.where(net["source"] == "stroma", -1.0, 1.0))


def test_planted_programs_are_scored(logged, net, log):
    before = logged["table"].X.copy()
    assert ds.tl.pathways(logged, net, table_key="table") is None
    table = logged["table"]
    score, p = table.obsm["score_mlm"], table.obsm["padj_mlm"]
    assert sorted(score.columns) == ["lymphoid", "stroma", "tumour"]
    assert score.shape == p.shape == (42, 3)
    assert score.index.equals(table.obs_names)
    shares = pd.DataFrame(np.asarray(table.obsm["composition"]), table.obs_names, list(table.uns["composition"]))
    assert score["tumour"].corr(shares["tumour"]) > 0.8
    assert score["lymphoid"].corr(shares["lymphoid"]) > 0.8
    assert score["stroma"].corr(shares["stroma"]) < -0.8
    assert ((p >= 0) & (p <= 1)).all(axis=None)
    assert (before != table.X).nnz == 0
    assert log[-1] == "Scored 3 pathways (DataFrame, 9 to 15 genes each) in 42 spots of sdata.tables['table']."


def test_scores_are_those_of_decoupler(logged, net):
    ds.tl.pathways(logged, net, table_key="table")
    alone = logged["table"].copy()
    for key in ("score_mlm", "padj_mlm"):
        del alone.obsm[key]
    alone.X = alone.X.toarray()  # a sparse matrix would be compiled for once more
    dc.mt.mlm(alone, net)
    for key in ("score_mlm", "padj_mlm"):
        ours = logged["table"].obsm[key]
        np.testing.assert_allclose(ours, alone.obsm[key][ours.columns], rtol=1e-6, atol=1e-9)
    assert dc.pp.get_obsm(logged["table"], "score_mlm").shape == (42, 3)


def test_transform_of_the_paper_does_not_change_scores(logged, net):
    ds.tl.pathways(logged, net, table_key="table")
    plain = logged["table"].obsm["score_mlm"]
    ds.tl.pathways(logged, net, table_key="table", transform="paper", overwrite=True)
    np.testing.assert_allclose(logged["table"].obsm["score_mlm"][plain.columns], plain, rtol=1e-6)
    assert logged["table"].uns["deepspot_pathways"]["transform"] == "paper"


def test_real_network_as_a_file(slide, data):
    """A pathway whose genes are raised in some spots, by their weights, is found there."""
    from deepspot._sdata.write import make_table

    path = data / "genesets" / "progeny_human_top100_long.csv"
    progeny = pd.read_csv(path)
    genes = sorted(set(progeny["target"]))[::2]
    rng = np.random.default_rng(0)
    X = 2 + 0.3 * rng.standard_normal((30, len(genes)))
    hypoxia = progeny[progeny["source"] == "Hypoxia"].set_index("target")["weight"].reindex(genes).fillna(0).to_numpy()
    X[:15] += hypoxia / np.abs(hypoxia).max()
    slide.tables["deepspot_spots"] = make_table(
        X.astype(np.float32), region="spots", instances=slide["spots"].index, region_key="region",
        instance_key="spot_id", var=pd.DataFrame(index=genes), uns={"log1p": {}, "deepspot": {"kind": "prediction"}},
    )  # fmt: skip
    ds.tl.pathways(slide, path)
    score = slide["deepspot_spots"].obsm["score_mlm"]
    assert score.shape == (30, 14)
    assert {"JAK-STAT", "TGFb", "Hypoxia"} <= set(score.columns)
    change = (score.iloc[:15].mean() - score.iloc[15:].mean()) / score.std()
    assert change.idxmax() == "Hypoxia"
    assert score["Hypoxia"].iloc[:15].min() > score["Hypoxia"].iloc[15:].max()
    assert slide["deepspot_spots"].uns["deepspot_pathways"]["net"] == path.name


def test_small_pathways_are_left_out(logged, net):
    few = pd.concat([net, pd.DataFrame({"source": "tiny", "target": ["NOISE1", "NOISE2", "absent"], "weight": 1.0})])
    ds.tl.pathways(logged, few, table_key="table")
    assert "tiny" not in logged["table"].obsm["score_mlm"]
    ds.tl.pathways(logged, few, table_key="table", tmin=2, overwrite=True)
    assert logged["table"].uns["deepspot_pathways"]["n_targets"]["tiny"] == 2


def test_missing_genes_and_empty_spots(logged, net, log):
    X = logged["table"].X.toarray()
    X[:, :4] = np.nan
    X[5] = 0
    logged["table"].layers["predicted"] = X
    ds.tl.pathways(logged, net, table_key="table", layer="predicted")
    score = logged["table"].obsm["score_mlm"]
    assert score.iloc[5].isna().all()
    assert score.drop(score.index[5]).notna().all(axis=None)
    assert log[-1].endswith("in 41 spots of sdata.tables['table']. Left out: 4 genes with missing values.")


def test_progeny_is_downloaded_once(logged, net, tmp_path, monkeypatch):
    monkeypatch.setattr(ds.settings, "cache_dir", tmp_path)
    calls = []

    def progeny(organism, top):
        calls.append((organism, top))
        return net.assign(padj=0.01)

    monkeypatch.setattr(dc.op, "progeny", progeny)
    ds.tl.pathways(logged, net, table_key="table")
    local = logged["table"].obsm["score_mlm"]
    for _ in range(2):
        ds.tl.pathways(logged, table_key="table", overwrite=True)
        np.testing.assert_allclose(logged["table"].obsm["score_mlm"][local.columns], local)
    assert calls == [("human", 500)]
    assert (tmp_path / "genesets" / "progeny_human_top500.csv").is_file()


def test_offline(logged, tmp_path, monkeypatch):
    def progeny(organism, top):
        raise OSError("no route to host")

    monkeypatch.setattr(ds.settings, "cache_dir", tmp_path)
    monkeypatch.setattr(dc.op, "progeny", progeny)
    with pytest.raises(ConnectionError, match=r"PROGENy \(mouse\) is not in the cache.*columns source, target.*`net=`"):
        ds.tl.pathways(logged, table_key="table", organism="mouse")
    assert "score_mlm" not in logged["table"].obsm


def test_networks_are_checked(logged, net, tmp_path):
    def check(bad, error, message, **options):
        with pytest.raises(error, match=message):
            ds.tl.pathways(logged, bad, table_key="table", **options)
        assert "score_mlm" not in logged["table"].obsm

    check(net.drop(columns="weight"), KeyError, r"Key `'weight'` not found in `columns of the network \(DataFrame\)`")
    check(tmp_path / "no.csv", FileNotFoundError, "no file")
    check([1], TypeError, "must be a DataFrame or the path of a CSV file, got list")
    check(pd.concat([net, net.head(3)]), ValueError, r"has 3 pairs of pathway and gene more than once.*drop_duplicates")
    check(
        net.assign(target="ENSG" + net["target"]), ValueError, r"share 0 of its 60 genes.*like \['TUMOR1'.*'ENSGTUMOR1'"
    )
    check(net, ValueError, r"No pathway \(DataFrame\) has 30 genes or more.*at most 15 for a pathway", tmin=30)
    twins = pd.concat([net, net[net["source"] == "tumour"].assign(source="twin")])
    check(twins, ValueError, r"pathways \(DataFrame\) cannot be told apart by the 60 genes.*'tumour', 'twin'")


def test_existing_scores_are_kept(logged, net):
    ds.tl.pathways(logged, net, table_key="table")
    with pytest.raises(ValueError, match=r"obsm of sdata.tables\['table'\] has \['score_mlm', 'padj_mlm'\] already"):
        ds.tl.pathways(logged, net, table_key="table")
