"""Bad input of every family, for every recipe that reads it: one line that names it, exit code 2, nothing left."""

import contextlib
import io
import re
import shutil
from pathlib import Path

import pytest
from every_recipe import CONFIGS, configs
from published_toy import RECIPES, recipe

from r2anker_hf.config import run_recipe

TRAINING = {"num_negatives": 2, "per_device_train_batch_size": 2}
TRAINER = {**TRAINING, "use_cpu": "true", "mixed_precision": "no", "report_to": "none", "max_steps": 1}
EPOCHS = {"eval_strategy": "epoch", "save_strategy": "epoch"}
RUN_OPTIONS = ("runs", "dev_runs", "first_stage", "dev_run", "constraints", "rankings")


def base(stage: str, story: Path, model: Path) -> dict[str, object]:
    """Options with which a recipe would work."""
    collection, negatives = story / "toy", story / "negatives"
    of = {
        "analyse": {"negatives": negatives},
        "curve": {
            "collection": collection,
            "rankers": story / "ranker",
            "first_stage": story / "train/bm25/run.trec",
            "split": "train",
        },
        "distil": {"negatives": negatives, "model": model, "teacher": story / "ranker", **TRAINING},
        "export": {"negatives": negatives, "num_negatives": 2},
        "fuse": {
            "runs": story / "test/bm25/run.trec",
            "dev_runs": story / "train/bm25/run.trec",
            "collection": collection,
            "dev_split": "train",
        },
        "mine": {"collection": collection, "runs": story / "train/bm25/run.trec", "audit_queries": 0},
        "pretrain": {"collection": collection, "model": model, "max_length": 32, **TRAINER},
        "rerank": {"ranker": story / "ranker", "collection": collection, "first_stage": story / "test/bm25/run.trec"},
        "retrieve": {"collection": collection},
        "score": {"collection": collection, "runs": story / "test/bm25/run.trec", "resamples": 10},
        "space": {"title": "T", "ranker": "me/x", "collection": collection, "licence": "mit"},
        "study": {"study": RECIPES / "studies/apidocs.yaml", "dry_run": "true"},
        "teach": {"negatives": negatives, "ranker": story / "ranker"},
        "train_ranker": {"negatives": negatives, "model": model, **TRAINER},
        "train_retriever": {"collection": collection, "model": model, **TRAINING},
        "publish": {"kind": "ranker", "folder": story / "ranker", "repo_id": "me/x", "dry_run": "true"},
        "publish_all": {"ranker": story / "ranker", "repo_id": "me/x", "dry_run": "true"},
    }
    options = dict(of[stage])
    if stage == "pretrain":
        del options["num_negatives"]
    return options


STAGES = [stage for stage in CONFIGS if "output_dir" in {f for c in configs(stage) for f in c.__dataclass_fields__}]
# a job starts other recipes, on another machine: see test_hub_job
STAGES = [stage for stage in STAGES if not stage.startswith("bench") and stage != "hub_job"]
MAPPINGS = {(stage, f.name) for stage in STAGES for c in configs(stage) for f in c.__dataclass_fields__.values()
            if str(f.type).startswith("dict[str, str]")}  # fmt: skip


def refusal(stage: str, options: dict[str, object]) -> str:
    """The one line of a recipe that refuses its options, after looking that it is one and that nothing is left."""
    words = []
    for name, value in options.items():
        words.append(f"--{name}={f'7={value}' if (stage, name) in MAPPINGS else value}")
    printed, code = io.StringIO(), 0
    with contextlib.redirect_stderr(printed), contextlib.redirect_stdout(io.StringIO()):
        try:
            run_recipe(recipe(stage).main, args=words)
        except SystemExit as stop:
            code = stop.code
    lines = [line for line in printed.getvalue().splitlines() if line.startswith("error: ")]
    assert code == 2 and len(lines) == 1, f"{stage} {options}: {code}, {printed.getvalue()[-2000:]}"
    assert "Traceback" not in printed.getvalue()
    return lines[0]


def readers(*options: str) -> list[tuple[str, str]]:
    """(recipe, option) for each recipe that has one of these options."""
    known = {stage: {f for c in configs(stage) for f in c.__dataclass_fields__} for stage in STAGES}
    stages = [
        stage for stage in STAGES if stage not in ("publish", "publish_all")
    ]  # there they say where something is
    return [(stage, option) for stage in stages for option in options if option in known[stage]]


def test_every_recipe_that_writes_a_folder_is_tried(finished, tiny_model):
    assert len(STAGES) >= 12
    for stage in STAGES:
        if stage != "import_negatives":  # its files are tried in test_converters
            assert base(stage, finished, tiny_model), f"give {stage} options in `base`"


WRITERS = [stage for stage in STAGES if stage != "import_negatives"]


@pytest.mark.parametrize("stage", WRITERS)
def test_a_place_where_no_folder_can_be_is_refused_at_once(stage, finished, tiny_model, tmp_path):
    (tmp_path / "file").write_text("x")
    options = base(stage, finished, tiny_model)
    for place in ("", "  ", "/", ".", "..", tmp_path / "file", tmp_path / "file" / "x", tmp_path / ("x" * 300)):
        line = refusal(stage, {**options, "output_dir": place})
        assert "output_dir" in line or str(place) in line
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("stage", "option"),
    [
        ("export", "negatives"),
        ("rerank", "ranker"),
        ("distil", "model"),
        ("train_ranker", "model"),
        ("publish", "folder"),
        ("publish_all", "ranker"),
    ],
)
def test_no_folder_is_made_in_an_input(stage, option, finished, tiny_model):
    options = base(stage, finished, tiny_model)
    place = Path(options[option]) / "sub" / "out"
    assert f"lies in {options[option]}, an input" in refusal(stage, {**options, "output_dir": place})
    assert not place.parent.exists()


def bad_runs(good: Path, folder: Path) -> dict[str, Path]:
    folder.mkdir()
    first = good.read_text().splitlines()[0]
    contents = {
        "empty": "",
        "blank": "\n\n",
        "of another split": "zz Q0 d0 1 1.0 x\n",
        "gzip": b"\x1f\x8b\x08\x00",
        "cut": first[: len(first) // 2],
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return {name: folder / name for name in contents} | {"folder": folder, "gone": folder / "gone"}


@pytest.mark.parametrize(("stage", "option"), readers(*RUN_OPTIONS))
def test_a_run_that_is_none_of_this_split_is_refused(stage, option, finished, tiny_model, tmp_path):
    options = {**base(stage, finished, tiny_model), "output_dir": tmp_path / "out"}
    if (stage, option) == ("mine", "dev_runs"):
        options["dev_split"] = "test"
    if option == "dev_run":
        options |= {"collection": finished / "toy", "dev_split": "test"} | EPOCHS
    bad = bad_runs(finished / "test/bm25/run.trec", tmp_path / "runs")
    if (stage, option) == ("fuse", "runs"):
        del bad["of another split"]  # of which it has no collection
    for path in bad.values():
        assert str(path) in refusal(stage, {**options, option: path})
    assert not (tmp_path / "out").exists()


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def no_rows(path: Path) -> None:
    import pyarrow.parquet as pq

    pq.write_table(pq.read_table(path).slice(0, 0), path)


DAMAGES = {
    "manifest.json": {
        "cut": cut,
        "empty": lambda path: path.write_text(""),
        "a list": lambda path: path.write_text("[1]"),
        "without keys": lambda path: path.write_text("{}"),
        "gone": lambda path: path.unlink(),
    },
    "candidates/train-00000-of-00001.parquet": {
        "cut": cut,
        "empty": lambda path: path.write_bytes(b""),
        "without rows": no_rows,
        "gone": lambda path: path.unlink(),
    },
    "corpus/corpus-00000-of-00001.parquet": {"cut": cut, "gone": lambda path: path.unlink()},
}


@pytest.fixture(scope="module")
def damaged(finished, tmp_path_factory):
    """Candidates, each with one thing wrong."""
    folder = tmp_path_factory.mktemp("damaged")
    for file, ways in DAMAGES.items():
        for number, damage in enumerate(ways.values()):
            copy = folder / f"{Path(file).stem}-{number}"
            shutil.copytree(finished / "negatives", copy)
            damage(copy / file)
    (folder / "nothing").mkdir()
    return [*folder.iterdir(), folder / "gone"]


@pytest.mark.parametrize(("stage", "option"), readers("negatives"))
def test_candidates_that_are_not_whole_are_refused(stage, option, damaged, finished, tiny_model, tmp_path):
    options = {**base(stage, finished, tiny_model), "output_dir": tmp_path / "out"}
    for folder in damaged:
        assert str(folder) in refusal(stage, {**options, option: folder})
    split = "negatives_split" if stage == "train_ranker" else "split"
    assert "nope" in refusal(stage, {**options, option: finished / "negatives", split: "nope"})
    for name in ("me/none", "me/no ne", "a/b/c"):  # the Hub cannot be reached
        assert name in refusal(stage, {**options, option: name})
    assert not (tmp_path / "out").exists()


COLLECTIONS = {
    "corpus.jsonl": ["", "\n", "[1]\n", '{"text": "x"}\n', '{"_id": true, "text": "x"}\n'],
    "queries.jsonl": ["", '{"_id": "q0", "text": " "}\n', '{"_id": "q0", "text": null}\n', '{"_id": "q0"'],
    "qrels/train.tsv": ["", "query-id\tcorpus-id\tscore\n", "q0 d0\n", "q0 d0 x\n", "q0 d0 1.0\n", "zz d0 1\n"],
}
COLLECTIONS["corpus.jsonl"] += [
    '{"_id": "a", "text": 7}\n',
    '{"_id": "a", "text": "\\ud800"}\n',
    "[" * 100_000,
    f'{{"_id": {"9" * 5000}}}',
]
COLLECTIONS["queries.jsonl"] += ['{"_id": "q0", "text": "\\ud800"}\n']
COLLECTIONS["qrels/train.tsv"] += ["q0 zz 1\n", f"q0 d0 {'9' * 30}\n"]


@pytest.mark.parametrize("file", COLLECTIONS)
def test_a_broken_collection_is_refused(file, finished, tmp_path):
    for number, text in enumerate(COLLECTIONS[file]):
        folder = tmp_path / str(number)
        shutil.copytree(finished / "toy", folder)
        (folder / file).write_text(text)
        options = {"collection": folder, "split": "train", "output_dir": tmp_path / "out"}
        assert str(folder) in refusal("retrieve", options)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("stage", "option"), readers("collection"))
def test_a_collection_that_is_not_there_is_refused(stage, option, finished, tiny_model, tmp_path):
    options = {**base(stage, finished, tiny_model), "output_dir": tmp_path / "out"}
    if stage == "train_ranker":
        options |= {"dev_run": finished / "test/bm25/run.trec"} | EPOCHS
    for name in (tmp_path, tmp_path / "gone", "me/none", "a/b/c", "scifact"):
        assert str(name) in refusal(stage, {**options, option: name})
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("stage", "more", "message"),
    [
        ("retrieve", {"search": "ivf"}, "search is 'ivf', which is for dense retrieval"),
        ("retrieve", {"retriever": "dense", "index": "FILE"}, "index is .*is not a folder"),
        ("retrieve", {"dtype": "x"}, "invalid choice: 'x'.*bfloat16"),
        ("retrieve", {"model": "x"}, "model is 'x', which bm25 does not read; add --retriever dense"),
        ("train_ranker", {"dev_measure": "x"}, "no measure is called 'x'"),
        ("train_ranker", {"dev_run": "x"}, "dev_run needs collection"),
        ("train_ranker", {"report_to": "nope"}, "nope is not supported"),
        ("train_ranker", {"eval_strategy": "epoch"}, "eval_dataset"),
        ("train_ranker", {"resume_from_checkpoint": "x"}, "resume_from_checkpoint is not for this training"),
        ("train_ranker", {"push_to_hub": "true"}, "push_to_hub is not for this training"),
        ("train_ranker", {"data_seed": 0}, "data_seed is not for this training: seed orders the queries"),
        ("train_ranker", {"label_smoothing_factor": 0.1}, "label_smoothing_factor is not for this training"),
        ("train_ranker", {"lr_scheduler_type": "x"}, "lr_scheduler_type.*cosine"),
        ("train_ranker", {"bf16": "true", "fp16": "true"}, "mixed_precision is no, but bf16 is true"),
        ("train_retriever", {"max_queries": 1, "num_train_epochs": 1}, "1 tuples .* do not fill one batch of 2"),
        ("train_retriever", {"max_queries": 1, "num_train_epochs": 3}, "no batch of 2 different queries"),
        ("pretrain", {"push_to_hub": "true"}, "push_to_hub is not for this training"),
        ("publish", {"kind": "retriever"}, "config.yaml: lacks retriever; is the folder of another --kind"),
        ("publish_all", {"repo_id": "me"}, "repo_id is 'me', but is written owner/name"),
        ("publish", {"report": "REPORT", "runs": "x"}, "no system is called '7'"),
    ],
)
def test_options_that_do_not_go_together(stage, more, message, finished, tiny_model, tmp_path):
    (tmp_path / "file").write_text("x")
    places = {"FILE": tmp_path / "file", "REPORT": finished / "report"}
    more = {name: places.get(value, value) for name, value in more.items()}
    line = refusal(stage, {**base(stage, finished, tiny_model), "output_dir": tmp_path / "out", **more})
    assert re.search(message, line), line


@pytest.mark.parametrize("file", ["provenance.json", "config.yaml"])
@pytest.mark.parametrize("damage", [cut, lambda path: path.write_text(""), lambda path: path.write_text("[1]")])
def test_a_half_written_record_of_a_stage_is_refused(file, damage, finished, tiny_model, tmp_path):
    for stage, option, name in (("publish", "folder", "ranker"), ("mine", "runs", "train/bm25")):
        folder = tmp_path / stage
        shutil.copytree(finished / name, folder)
        damage(folder / file)
        options = {**base(stage, finished, tiny_model), "output_dir": tmp_path / f"out-{stage}"}
        given = folder / "run.trec" if stage == "mine" else folder
        assert str(folder / file) in refusal(stage, {**options, option: given})
        assert not (tmp_path / f"out-{stage}" / "receipt.json").exists()
