"""fuse.py: dev queries choose how test runs are fused, nothing reads test judgements, bad input is named."""

import json

import pytest
from published_toy import recipe, write_collection

from r2anker_hf.config import parse_config
from r2anker_hf.evaluation.fusion import METHODS, fuse
from r2anker_hf.records import InputError
from r2anker_hf.run import Run

SYSTEMS = ("bm25", "dense")


def fuse_here(*arguments):
    module = recipe("fuse")
    module.main(*parse_config(module.FusionConfig, args=[str(argument) for argument in arguments]))


def named(folder, split, systems=SYSTEMS):
    return [f"{name}={folder / split / name}.trec" for name in systems]


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """A collection and two systems: of every query, one finds the passage first on train and last on test."""
    folder = tmp_path_factory.mktemp("fuse")
    write_collection(folder / "toy")
    for split in ("train", "test"):
        (folder / split).mkdir()
        rows = (folder / "toy" / "qrels" / f"{split}.tsv").read_text().splitlines()[1:]
        for name in SYSTEMS:
            good = (name == "dense") == (split == "train")
            score = {True: (3.0, 1.0), False: (1.0, 2.0)}[good]
            lists = {
                query_id: [(doc_id, score[0]), (f"d{(int(doc_id[1:]) + 5) % 55}", score[1])]
                for query_id, doc_id, _ in (row.split("\t") for row in rows)
            }
            Run(lists, name).write_trec(folder / split / f"{name}.trec")
    return folder


def choosing(toy, *more):
    return ["--collection", toy / "toy", "--dev_split", "train", "--dev_runs", *named(toy, "train"), *more]


def test_weights_are_chosen_recorded_and_used_again(toy, tmp_path, capsys):
    options = choosing(toy, "--dev_measure", "MRR@10")
    fuse_here("--runs", *named(toy, "test"), *options, "--output_dir", tmp_path / "fused")
    assert "MRR@10 on 33 dev queries: dense only" in capsys.readouterr().out
    record = json.loads((tmp_path / "fused" / "fusion.json").read_text())
    assert record["dev"]["value"] == 1.0 and record["weights"]["dense"] > record["weights"]["bm25"]
    assert len(record["dev"]["grid"]) == 3 * 11 and {point["method"] for point in record["dev"]["grid"]} < set(METHODS)
    runs = [Run.read_trec(toy / "test" / f"{name}.trec", name) for name in SYSTEMS]
    expected = fuse(runs, record["method"], [record["weights"][name] for name in SYSTEMS])
    assert Run.read_trec(tmp_path / "fused" / "run.trec") == expected
    inputs = json.loads((tmp_path / "fused" / "provenance.json").read_text())["inputs"]
    assert list(inputs) == [*(f"{what} {name}" for what in ("run", "dev run") for name in SYSTEMS), "collection"]
    swapped = ["--runs", *reversed(named(toy, "test")), "--reuse", tmp_path / "fused"]
    fuse_here(*swapped, "--output_dir", tmp_path / "again")
    assert Run.read_trec(tmp_path / "again" / "run.trec") == expected


def test_judgements_may_be_a_file(toy, tmp_path):
    fuse_here("--runs", *named(toy, "test"), *choosing(toy), "--output_dir", tmp_path / "collection")
    options = ["--dev_runs", *named(toy, "train"), "--dev_qrels", toy / "toy" / "qrels" / "train.tsv"]
    fuse_here("--runs", *named(toy, "test"), *options, "--output_dir", tmp_path / "file")
    texts = [(tmp_path / name / "fusion.json").read_text() for name in ("collection", "file")]
    assert texts[0] == texts[1]


def test_test_judgements_change_nothing(toy, tmp_path):
    import shutil

    shutil.copytree(toy / "toy", tmp_path / "toy")
    (tmp_path / "toy" / "qrels" / "test.tsv").unlink()
    options = ["--dev_split", "train", "--dev_runs", *named(toy, "train")]
    for name, collection in (("with", toy / "toy"), ("without", tmp_path / "toy")):
        fuse_here("--runs", *named(toy, "test"), "--collection", collection, *options, "--output_dir", tmp_path / name)
    texts = [(tmp_path / name / "run.trec").read_text().replace(name, "") for name in ("with", "without")]
    assert texts[0] == texts[1]


def test_the_default_is_reciprocal_rank_with_equal_weights(toy, tmp_path):
    fuse_here("--runs", *named(toy, "test"), "--output_dir", tmp_path / "fused")
    record = json.loads((tmp_path / "fused" / "fusion.json").read_text())
    assert record == {"k": 60, "within": None, "method": "reciprocal_rank", "weights": {"bm25": 0.5, "dense": 0.5}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--weights", "bm25=1", "other=1"], "--runs names bm25, dense, but --weights names bm25, other"),
        (["--weights", "bm25=0", "dense=0"], "all weights are 0"),
        (["--weights", "bm25=1", "dense=1", "--reuse", "TOY"], "--reuse and --weights both say the weights"),
        (["--reuse", "TOY"], "fusion.json: no such file"),
        (["--reuse", "TOY", "--method", "minmax"], "leave out --method"),
        (["--dev_runs", "bm25=TOY/train/bm25.trec"], "--dev_runs names bm25; they must be the same"),
        (["--dev_runs", "bm25=x", "dense=y"], "give --collection or --dev_qrels"),
        (["--dev_runs", "bm25=x", "dense=y", "--collection", "TOY/toy", "--dev_split", "test"], "may not choose"),
        (["--within", "ranker"], "no run is called 'ranker'; there are bm25, dense"),
        (["--depth", "0"], "depth is 0, but must be at least 1"),
        (["--k", "-1"], "k is -1"),
        (["CHOOSING", "--step", "0.3"], "it must divide 1"),
        (["CHOOSING", "--dev_measure", "MAP"], "no measure is called 'MAP'"),
    ],
)
def test_bad_input_is_named(options, message, toy, tmp_path):
    words = [word for option in options for word in (choosing(toy) if option == "CHOOSING" else [option])]
    words = [str(word).replace("TOY", str(toy)) for word in words]
    with pytest.raises(InputError, match=message):
        fuse_here("--runs", *named(toy, "test"), *words, "--output_dir", tmp_path / "fused")
    assert not (tmp_path / "fused").exists()
