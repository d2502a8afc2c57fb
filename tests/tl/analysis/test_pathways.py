import decoupler as dc
import numpy as np
import pandas as pd
import pytest
from spatialdata import read_zarr

import deepspot as ds


@pytest.fixture
def net(classes):
    """The toy's programs as pathways, one of them turned around."""
    var = classes["table"].var
    net = pd.DataFrame({"source": var["program"].astype(str), "target": list(var.index), "weight": 1.0})
    net = net[net["source"].isin(["tumor", "lymphoid", "stroma"])].reset_index(drop=True)
    return net.assign(weight=np.where(net["source"] == "stroma", -1.0, 1.0))


def test_planted_programs_are_scored(classes, net, log):
    before = classes["table"].X.copy()
    assert ds.tl.pathways(classes, net, table_key="table") is None
    table = classes["table"]
    score, p = table.obsm["score_mlm"], table.obsm["padj_mlm"]
    assert sorted(score.columns) == ["lymphoid", "stroma", "tumor"]
    assert score.shape == p.shape == (72, 3)
    assert score.index.equals(table.obs_names)
    shares = pd.DataFrame(np.asarray(table.obsm["composition"]), table.obs_names, list(table.uns["composition"]))
    assert score["tumor"].corr(shares["tumor"]) > 0.8
    assert score["lymphoid"].corr(shares["lymphoid"]) > 0.8
    assert score["stroma"].corr(shares["stroma"]) < -0.8
    assert ((p >= 0) & (p <= 1)).all(axis=None)
    assert (before != table.X).nnz == 0
    assert log[-1] == "Scored 3 pathways (DataFrame, 9 to 15 genes each) in 72 spots of sdata.tables['table']."


def test_scores_are_those_of_decoupler(classes, net):
    ds.tl.pathways(classes, net, table_key="table")
    alone = classes["table"].copy()
    for key in ("score_mlm", "padj_mlm"):
        del alone.obsm[key]
    alone.X = alone.X.toarray()  # a sparse matrix would be compiled for once more
    dc.mt.mlm(alone, net)
    for key in ("score_mlm", "padj_mlm"):
        ours = classes["table"].obsm[key]
        np.testing.assert_allclose(ours, alone.obsm[key][ours.columns], rtol=1e-6, atol=1e-9)
    assert dc.pp.get_obsm(classes["table"], "score_mlm").shape == (72, 3)


def test_transform_of_the_paper_does_not_change_scores(classes, net):
    ds.tl.pathways(classes, net, table_key="table")
    plain = classes["table"].obsm["score_mlm"]
    ds.tl.pathways(classes, net, table_key="table", transform="paper", overwrite=True)
    # Adding 1 rounds expression in float32, which shows where scores are near 0.
    np.testing.assert_allclose(classes["table"].obsm["score_mlm"][plain.columns], plain, rtol=1e-6, atol=2e-7)
    assert classes["table"].uns["deepspot_pathways"]["transform"] == "paper"


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
        X.astype(np.float32),
        region="spots",
        instances=slide["spots"].index,
        region_key="region",
        instance_key="spot_id",
        var=pd.DataFrame(index=genes),
        uns={"log1p": {}, "deepspot": {"kind": "prediction"}},
    )
    ds.tl.pathways(slide, path)
    score = slide["deepspot_spots"].obsm["score_mlm"]
    assert score.shape == (30, 14)
    assert {"JAK-STAT", "TGFb", "Hypoxia"} <= set(score.columns)
    change = (score.iloc[:15].mean() - score.iloc[15:].mean()) / score.std()
    assert change.idxmax() == "Hypoxia"
    assert score["Hypoxia"].iloc[:15].min() > score["Hypoxia"].iloc[15:].max()
    assert slide["deepspot_spots"].uns["deepspot_pathways"]["net"] == path.name


def test_small_pathways_are_left_out(classes, net):
    few = pd.concat([net, pd.DataFrame({"source": "tiny", "target": ["NOISE1", "NOISE2", "absent"], "weight": 1.0})])
    ds.tl.pathways(classes, few, table_key="table")
    assert "tiny" not in classes["table"].obsm["score_mlm"]
    ds.tl.pathways(classes, few, table_key="table", tmin=2, overwrite=True)
    made = classes["table"].uns["deepspot_pathways"]
    assert made["n_targets"][made["pathways"].index("tiny")] == 2


def test_missing_genes_and_empty_spots(classes, net, log):
    X = classes["table"].X.toarray()
    X[:, :4] = np.nan
    X[5] = 0
    classes["table"].layers["predicted"] = X
    ds.tl.pathways(classes, net, table_key="table", layer="predicted")
    score = classes["table"].obsm["score_mlm"]
    assert score.iloc[5].isna().all()
    assert score.drop(score.index[5]).notna().all(axis=None)
    assert log[-1].endswith("in 71 spots of sdata.tables['table']. Left out: 4 genes with missing values.")


def test_progeny_is_downloaded_once(classes, net, tmp_path, monkeypatch):
    monkeypatch.setattr(ds.settings, "cache_dir", tmp_path)
    calls = []

    def progeny(organism, top):
        calls.append((organism, top))
        return net.assign(padj=0.01)

    monkeypatch.setattr(dc.op, "progeny", progeny)
    ds.tl.pathways(classes, net, table_key="table")
    local = classes["table"].obsm["score_mlm"]
    for _ in range(2):
        ds.tl.pathways(classes, table_key="table", overwrite=True)
        np.testing.assert_allclose(classes["table"].obsm["score_mlm"][local.columns], local)
    assert calls == [("human", 500)]
    assert (tmp_path / "genesets" / "progeny_human_top500.csv").is_file()


def test_offline(classes, tmp_path, monkeypatch):
    def progeny(organism, top):
        raise OSError("no route to host")

    monkeypatch.setattr(ds.settings, "cache_dir", tmp_path)
    monkeypatch.setattr(dc.op, "progeny", progeny)
    with pytest.raises(ConnectionError, match=r"PROGENy \(mouse\) is not in the cache.*columns source, target.*`net=`"):
        ds.tl.pathways(classes, table_key="table", organism="mouse")
    assert "score_mlm" not in classes["table"].obsm


def test_networks_are_checked(classes, net, tmp_path):
    def check(bad, error, message, **options):
        with pytest.raises(error, match=message):
            ds.tl.pathways(classes, bad, table_key="table", **options)
        assert "score_mlm" not in classes["table"].obsm

    check(net.drop(columns="weight"), KeyError, r"Key `'weight'` not found in `columns of the network \(DataFrame\)`")
    check(tmp_path / "no.csv", FileNotFoundError, "no file")
    check([1], TypeError, "must be a DataFrame or the path of a CSV file, got list")
    check(pd.concat([net, net.head(3)]), ValueError, r"repeats 3 pairs of pathway and gene.*drop_duplicates")
    check(
        net.assign(target="ENSG" + net["target"]),
        ValueError,
        r"share 0 of its 60 genes.*for example \['TUMOR1'.*'ENSGTUMOR1'",
    )
    check(net.assign(weight="x"), ValueError, r"Weights of the network \(DataFrame\) must be numbers, got 'x'")
    check(net.assign(weight=np.inf), ValueError, "must be numbers, got inf")
    check(pd.concat([net, net[["weight"]]], axis=1), ValueError, "several columns of one name")
    for content in (
        b"",
        "source,target,weight\nÜ,A,1\n".encode("latin-1"),
        b"source,target,weight\na,b,1\na,b,1,2,3\n",
    ):
        (tmp_path / "net.csv").write_bytes(content)
        check(
            tmp_path / "net.csv", ValueError, r"net\.csv' is no table of text in UTF-8 with the columns source, target"
        )
    check(net, ValueError, r"No pathway \(DataFrame\) has 30 genes or more.*at most 15 for a pathway", tmin=30)
    twins = pd.concat([net, net[net["source"] == "tumor"].assign(source="twin")])
    check(twins, ValueError, r"pathways \(DataFrame\) are not linearly independent over the 60 genes.*'tumor', 'twin'")


@pytest.mark.parametrize(("name", "sep"), [("net.csv", ";"), ("net.csv", ","), ("net.tsv.gz", "\t"), ("net.txt", "\t")])
def test_separators_and_compression_of_files(classes, net, name, sep, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    net.to_csv(tmp_path / name, sep=sep, index=False)
    ds.tl.pathways(classes, f"~/{name}", table_key="table")
    assert list(classes["table"].obsm["score_mlm"]) == sorted(net["source"].unique())


def test_existing_scores_are_kept(classes, net):
    ds.tl.pathways(classes, net, table_key="table")
    with pytest.raises(ValueError, match=r"obsm of sdata.tables\['table'\] has \['score_mlm', 'padj_mlm'\] already"):
        ds.tl.pathways(classes, net, table_key="table")


def test_results_can_be_written_and_read(classes, net, tmp_path):
    ds.tl.pathways(classes, net, table_key="table")
    classes.write(tmp_path / "slide.zarr")
    back = read_zarr(tmp_path / "slide.zarr")["table"]
    for key in ("score_mlm", "padj_mlm"):
        pd.testing.assert_frame_equal(
            back.obsm[key], classes["table"].obsm[key], check_index_type=False, check_column_type=False
        )
    made = back.uns["deepspot_pathways"]
    assert dict(zip(made["pathways"], made["n_targets"], strict=True)) == {"lymphoid": 12, "stroma": 9, "tumor": 15}


def test_slashes_in_names_are_written_and_found(classes, net, tmp_path):
    slashed = net.replace({"source": {"tumor": "JAK/STAT", "stroma": "A/B/C"}})
    table = classes["table"]
    ds.tl.pathways(classes, slashed, table_key="table")
    table.obs["type"] = np.where(table.obs["class"] == "tumor", "T/NK", "a b")
    ds.tl.markers(classes, "type", table_key="table")
    ds.tl.enrich(classes, {"A/B": list(slashed["target"][slashed["source"] == "JAK/STAT"])})
    classes.write(tmp_path / "slide.zarr")
    back = read_zarr(tmp_path / "slide.zarr")
    assert {"JAK_STAT", "A_B_C"} <= set(back["table"].obsm["score_mlm"])
    assert {"JAK/STAT", "A/B/C"} <= set(back["table"].uns["deepspot_pathways"]["pathways"])
    assert set(back["table"].uns["markers"]["group"]) == {"T/NK", "a b"}
    made = back["table"].uns["deepspot_enrichment"]
    assert dict(zip(made["groups"], made["n_markers"], strict=True))["T/NK"] > 0
    assert ds.pl.pathways(back, pathways=["JAK/STAT"])[0].get_title() == "JAK_STAT"
    twins = pd.concat([slashed, net[net["source"] == "tumor"].assign(source="JAK_STAT", weight=range(15))])
    with pytest.raises(ValueError, match=r"Pathways \['JAK/STAT', 'JAK_STAT'\].*same name"):
        ds.tl.pathways(classes, twins, table_key="table", overwrite=True)
