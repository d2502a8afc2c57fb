import gzip

import gseapy
import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control, hypergeom
from spatialdata import deepcopy, read_zarr

import deepspot as ds
from deepspot.tl._analysis.gene_sets import read_gene_sets

COLUMNS = ["group", "term", "overlap", "n_overlap", "n_set", "odds_ratio", "p", "p_adj", "combined_score", "genes"]


def marker_frame(genes, significant, group="tumor"):
    """What `ds.tl.markers` leaves, in short."""
    frame = pd.DataFrame({"group": group, "gene": genes, "logfoldchange": np.linspace(3, -3, len(genes))})
    return frame.assign(significant=significant, group=pd.Categorical(frame["group"]))


@pytest.fixture(scope="module")
def toy_marked(toy_classes):
    sdata = deepcopy(toy_classes)
    ds.tl.markers(sdata, "class", table_key="table", groups=["tumor", "lymphoid", "stroma"])
    return sdata


@pytest.fixture
def marked(toy_marked):
    return deepcopy(toy_marked)


@pytest.fixture
def programs(marked):
    by_program = marked["table"].var.groupby("program").groups
    return {program: list(genes) for program, genes in by_program.items()} | {"unknown": ["ABC1", "ABC2"]}


@pytest.fixture
def library(tmp_path, monkeypatch, programs):
    """Stand-in for Enrichr: counts the downloads."""
    monkeypatch.setattr(ds.settings, "cache_dir", tmp_path / "cache")
    calls = []

    def get_library(name, organism="Human", min_size=0, max_size=2000):
        calls.append((name, organism, max_size))
        if name == "Offline":
            raise OSError("no route to host")
        if name == "Broken":
            raise Exception("Error fetching gene set library.")
        if name == "Unknown":
            raise ValueError("Sorry.")
        return programs

    monkeypatch.setattr(gseapy, "get_library", get_library)
    monkeypatch.setattr("socket.getaddrinfo", lambda *address: [])
    return calls


def test_planted_programs_come_first(marked, programs, log):
    assert ds.tl.enrich(marked, programs) is None
    frame = marked["table"].uns["enrichment"]
    assert list(frame.columns) == COLUMNS
    for group in ("tumor", "lymphoid", "stroma"):
        first = frame[frame["group"] == group].iloc[0]
        assert first["term"] == group
        assert first["p_adj"] < 0.05
    assert "unknown" not in set(frame["term"])
    assert "Compared markers of 3 groups with 6 gene sets (dict) over 60 genes" in log[-1]


def test_numbers_are_those_of_the_hypergeometric_test(marked):
    genes = [f"g{i:02d}" for i in range(50)]
    marked["table"].uns["markers"] = marker_frame(genes, [True] * 12 + [False] * 38)
    sets = {"some": [*genes[5:15], "elsewhere"], "other": genes[11:31], "none": genes[20:30], "outside": ["x", "y"]}
    ds.tl.enrich(marked, sets, n_top=10)
    frame = marked["table"].uns["enrichment"]
    assert frame["term"].tolist() == ["some"]  # `other` starts below the ten best markers
    row = frame.iloc[0]
    assert (row["overlap"], row["n_overlap"], row["n_set"]) == ("5/10", 5, 10)
    assert row["genes"] == "g05;g06;g07;g08;g09"
    p = hypergeom.sf(4, 50, 10, 10)
    assert row["p"] == pytest.approx(p)
    odds = (5.5 * 35.5) / (5.5 * 5.5)
    assert row["odds_ratio"] == pytest.approx(odds)
    assert row["combined_score"] == pytest.approx(-np.log(p) * odds)
    # Three sets have a gene in the background, and so were tested, although gseapy reports one.
    assert row["p_adj"] == pytest.approx(false_discovery_control([p, 1, 1])[0])
    assert marked["table"].uns["deepspot_enrichment"]["n_sets"] == 3


def test_best_significant_markers_are_taken(marked):
    genes = [f"g{i:02d}" for i in range(20)]
    marked["table"].uns["markers"] = marker_frame(genes, [False, True, False, True, True] + [False] * 15)
    ds.tl.enrich(marked, {"all": genes}, n_top=2)
    assert marked["table"].uns["enrichment"]["genes"].tolist() == ["g01;g03"]


def test_background(marked, programs):
    ds.tl.enrich(marked, programs, groups="tumor")
    ds.tl.enrich(
        marked,
        programs,
        groups=["tumor"],
        background=[*marked["table"].var_names, *[f"x{i}" for i in range(5000)]],
        key_added="genome",
    )
    uns = marked["table"].uns
    assert uns["genome"]["p"].iloc[0] < uns["enrichment"]["p"].iloc[0] / 100
    assert set(uns["enrichment"]["group"]) == {"tumor"}
    assert uns["deepspot_genome"]["n_background"] == 5060


def test_gmt_file(marked, programs, tmp_path):
    path = tmp_path / "programs.gmt"
    path.write_text("".join("\t".join([name, "http://x", *genes]) + "\n" for name, genes in programs.items()))
    ds.tl.enrich(marked, programs)
    ds.tl.enrich(marked, str(path), key_added="as_text")
    ds.tl.enrich(marked, path, key_added="as_path")
    for key in ("as_text", "as_path"):
        pd.testing.assert_frame_equal(marked["table"].uns["enrichment"], marked["table"].uns[key])
    assert marked["table"].uns["deepspot_as_path"]["gene_sets"] == "programs.gmt"
    with pytest.raises(FileNotFoundError, match=r"no file '.*absent.gmt'"):
        ds.tl.enrich(marked, tmp_path / "absent.gmt", key_added="more")
    path.write_text("no tabs at all\n")
    with pytest.raises(ValueError, match="holds no gene set"):
        ds.tl.enrich(marked, path, key_added="more")


def test_real_gene_sets(marked, data):
    """Genes of two hallmarks, planted among those of others, are found among all fifty."""
    path = data / "genesets" / "h.all.v7.0.symbols.gmt"
    sets = gseapy.read_gmt(str(path))
    estrogen, interferon = sets["HALLMARK_ESTROGEN_RESPONSE_EARLY"], sets["HALLMARK_INTERFERON_GAMMA_RESPONSE"]
    others = sorted(set().union(*sets.values()) - set(estrogen) - set(interferon))
    genes = [*estrogen[:40], *interferon[:20], *others[:30], *others[30:2000]]
    marked["table"].uns["markers"] = marker_frame(genes, [True] * 90 + [False] * (len(genes) - 90))
    ds.tl.enrich(marked, path)
    frame = marked["table"].uns["enrichment"]
    assert set(frame["term"].iloc[:2]) == {"HALLMARK_ESTROGEN_RESPONSE_EARLY", "HALLMARK_INTERFERON_GAMMA_RESPONSE"}
    assert (frame["p"].iloc[:2] < 1e-10).all()
    assert marked["table"].uns["deepspot_enrichment"]["n_sets"] == 50


def test_library_of_enrichr_is_downloaded_once(marked, programs, library, log):
    ds.tl.enrich(marked, programs)
    ds.tl.enrich(marked, key_added="online")
    assert any("Downloaded Library 'Cancer_Cell_Line_Encyclopedia' of Enrichr" in line for line in log)
    ds.tl.enrich(marked, "Cancer_Cell_Line_Encyclopedia", key_added="again")
    assert library == [("Cancer_Cell_Line_Encyclopedia", "human", 10**9)]
    for key in ("online", "again"):
        pd.testing.assert_frame_equal(marked["table"].uns["enrichment"], marked["table"].uns[key])
        assert marked["table"].uns[f"deepspot_{key}"]["gene_sets"] == "Cancer_Cell_Line_Encyclopedia"


@pytest.mark.parametrize("name", ["Offline", "Broken"])
def test_offline(marked, library, name, tmp_path):
    absent = rf"Library '{name}' of Enrichr is not in the cache"
    message = rf"{absent}.*a dict or a GMT file as `gene_sets=`.*enrichr_human_{name}\.gmt"
    with pytest.raises(ConnectionError, match=message):
        ds.tl.enrich(marked, name)
    assert "enrichment" not in marked["table"].uns
    assert not list(tmp_path.rglob("*.gmt"))


def test_without_network_nothing_is_tried(marked, library, monkeypatch):
    def no_address(*address):
        raise OSError("Name or service not known")

    monkeypatch.setattr("socket.getaddrinfo", no_address)
    monkeypatch.setattr("deepspot.tl._analysis.gene_sets.getproxies", dict)
    with pytest.raises(ConnectionError, match="not in the cache"):
        ds.tl.enrich(marked, "Any")
    assert not library


def test_unknown_library(marked, library):
    with pytest.raises(ValueError, match=r"no library 'Unknown' for mouse. `gseapy.get_library_name\('mouse'\)` lists"):
        ds.tl.enrich(marked, "Unknown", organism="mouse")


def test_groups_without_markers(marked, programs, log):
    frame = marked["table"].uns["markers"]
    marked["table"].uns["markers"] = frame.assign(significant=frame["significant"] & (frame["group"] != "stroma"))
    ds.tl.enrich(marked, programs)
    assert set(marked["table"].uns["enrichment"]["group"]) == {"tumor", "lymphoid"}
    assert log[-1].endswith("Without a significant marker: ['stroma'].")
    with pytest.raises(ValueError, match=r"No group of \['stroma'\] has a significant marker.*`ds.tl.pathways`"):
        ds.tl.enrich(marked, programs, groups="stroma", key_added="more")


def test_markers_outside_of_all_sets(marked):
    genes = [f"g{i:02d}" for i in range(20)]
    marked["table"].uns["markers"] = marker_frame(genes, [True] * 5 + [False] * 15)
    ds.tl.enrich(marked, {"rest": genes[10:]})
    assert marked["table"].uns["enrichment"].shape == (0, len(COLUMNS))
    with pytest.raises(ValueError, match=r"gene sets \(dict\) share no gene with the 20 genes.*'g00'.*identifiers"):
        ds.tl.enrich(marked, {"ensembl": ["ENSG1"]}, key_added="more")


def test_missing_input_raises(marked, programs):
    with pytest.raises(KeyError, match=r"Key `'bone'` not found in `groups of the markers`"):
        ds.tl.enrich(marked, programs, groups="bone")
    with pytest.raises(
        KeyError, match=r"No table has a result in `uns\['mine'\]`. Call `ds.tl.markers\(sdata, groupby\)"
    ):
        ds.tl.enrich(marked, programs, markers_key="mine")
    with pytest.raises(TypeError, match=r"`gene_sets` must be a dict .* got list"):
        ds.tl.enrich(marked, ["TUMOR1"])
    with pytest.raises(ValueError, match="`n_top` must be at least 1"):
        ds.tl.enrich(marked, programs, n_top=0)
    marked["table"].uns["other"] = pd.DataFrame({"a": [1]})
    with pytest.raises(
        KeyError, match=r"uns\['other'\] is no result of .*markers.* lacks the columns \['group', 'gene'"
    ):
        ds.tl.enrich(marked, programs, markers_key="other")
    ds.tl.enrich(marked, programs)
    with pytest.raises(ValueError, match=r"has \['enrichment', 'deepspot_enrichment'\] already"):
        ds.tl.enrich(marked, programs)
    ds.tl.enrich(marked, programs, overwrite=True)


def test_results_can_be_written_and_read(marked, programs, tmp_path):
    ds.tl.enrich(marked, programs)
    ds.tl.enrich(marked, {"far": ["NOISE1"]}, groups="tumor", n_top=1, key_added="empty")
    marked.write(tmp_path / "slide.zarr")
    back = read_zarr(tmp_path / "slide.zarr")["table"].uns
    same = {"term": object, "group": object, "overlap": object, "genes": object}
    pd.testing.assert_frame_equal(back["enrichment"].astype(same), marked["table"].uns["enrichment"].astype(same))
    assert len(back["empty"]) == 0
    assert list(back["empty"].columns) == COLUMNS


def test_a_group_without_hits_leaves_the_numbers_of_the_others(marked, programs, tmp_path):
    table = marked["table"]
    genes = list(programs["tumor"])[:5]
    first, second = genes, [gene for gene in table.var_names if gene not in programs["tumor"]][:5]
    frame = pd.concat([marker_frame(first, True, "a"), marker_frame(second, True, "b")], ignore_index=True)
    table.uns["markers"] = frame.assign(group=pd.Categorical(frame["group"]))
    ds.tl.enrich(marked, {"tumor": genes}, background=list(table.var_names))
    marked.write(tmp_path / "slide.zarr")
    again = read_zarr(tmp_path / "slide.zarr")["table"].uns["enrichment"]
    assert list(again["group"]) == ["a"]
    assert again["n_overlap"].iloc[0] == 5
    assert again["p"].iloc[0] < 0.01


def test_gmt_files_are_read_completely(marked, programs, tmp_path):
    path, (one, other) = tmp_path / "sets.gmt", list(programs)[:2]
    rows = [[one, "", *programs[one], ""], ["empty", "no gene"], [other, "text", *programs[other]]]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n".join("\t".join(row) for row in rows).encode())
    assert read_gene_sets(path, "human")[0] == {one: programs[one], other: programs[other]}
    path.write_text("\n".join("\t".join([one, f"part {n}", *programs[name]]) for n, name in enumerate([one, other])))
    with pytest.raises(ValueError, match=rf"several gene sets of the name '{one}'"):
        ds.tl.enrich(marked, path)
    path.write_bytes("Sch\u00f6n\t\tA\n".encode("latin-1"))
    with pytest.raises(ValueError, match="is no GMT file, which is text in UTF-8"):
        ds.tl.enrich(marked, path)
    for genes in ("TUMOR1", None, 5):
        with pytest.raises(TypeError, match="genes of 'a' in `gene_sets` must be a list of names, got"):
            ds.tl.enrich(marked, {"a": genes})
    with pytest.raises(ValueError, match="several keys that are '1' as text"):
        ds.tl.enrich(marked, {"1": ["A"], 1: ["B"]})
    assert "enrichment" not in marked["table"].uns


@pytest.mark.parametrize("name", ["sets.gmt.gz", "sets.txt", "sets"])
def test_existing_files_are_read_whatever_their_name(programs, name, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    content = "\n".join("\t".join([term, "", *genes]) for term, genes in programs.items()).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    for path in (f"~/{name}", tmp_path / name):
        assert read_gene_sets(path, "human") == ({term: list(genes) for term, genes in programs.items()}, name)
    with pytest.raises(FileNotFoundError, match="no file"):
        read_gene_sets(tmp_path / "other", "human")
