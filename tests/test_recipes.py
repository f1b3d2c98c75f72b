"""The recipes run end to end with a tiny model, every YAML file parses, and bad input ends with one line, code 2."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import get_args, get_type_hints

import pytest
import yaml
from every_recipe import configs
from published_toy import recipe
from safetensors.torch import load_file
from scripts import script

from r2anker_hf.collection.collection import load_collection
from r2anker_hf.config import parse_config
from r2anker_hf.evaluation.measures import evaluate_run, means
from r2anker_hf.evaluation.study_plan import TAUGHT_BY
from r2anker_hf.negatives.candidates import load_candidates
from r2anker_hf.negatives.suspects import with_suspects
from r2anker_hf.rankers.agreement import agreement
from r2anker_hf.rankers.calibration import Calibration
from r2anker_hf.rankers.listwise import TrainingGroups
from r2anker_hf.rankers.ranker import CrossEncoderRanker
from r2anker_hf.records import InputError
from r2anker_hf.run import Run

REPOSITORY = Path(__file__).resolve().parents[1]
RECIPES = REPOSITORY / "recipes"
SIZES = "--collection_options passages=150 test=20 dev=15"
STAGES = (
    "retrieve",
    "train_retriever",
    "mine",
    "analyse",
    "export",
    "import_negatives",
    "train_ranker",
    "rerank",
    "fuse",
    "score",
    "curve",
    "teach",
    "distil",
    "publish",
    "publish_all",
    "pretrain",
)
STAGE_OF = {"retrieve_bm25": "retrieve", "retrieve_dense": "retrieve", "retrieve_splade": "retrieve"}
STAGE_OF |= {"score_dev": "score"}
STAGE_OF |= {"warm_start": "train_ranker", "train_splade": "train_retriever", "distil_splade": "distil"}
STAGE_OF |= {f"publish_{kind}": "publish" for kind in ("negatives", "ranker", "retriever")}
# accelerate's own launcher starts several processes on CPUs through MPI alone; torch's does without
LAUNCH = "-m torch.distributed.run --standalone --nproc_per_node 2"


def launch(command, **environment):
    """Run in the repository with this interpreter first on the path."""
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    environment = {**os.environ, "PATH": path, **{key: str(value) for key, value in environment.items()}}
    return subprocess.run(command, capture_output=True, text=True, cwd=REPOSITORY, env=environment, timeout=600)


def told(environment):
    """What run.sh prints, with `echo` in place of python, and each of the commands run in this process."""
    done = launch(["bash", "recipes/run.sh", "nano"], **environment, LAUNCH="echo")
    assert done.returncode == 0, done.stderr
    printed = []
    for line in done.stdout.splitlines():
        printed.append(line)
        if line.startswith(f"{RECIPES}/"):
            ran = script(*line.split())
            assert ran.returncode == 0, line + ran.stderr[-4000:]
            printed.append(ran.stdout)
    return "\n".join(printed)


@pytest.fixture(scope="session")
def story(tiny_model, once):
    """recipes/run.sh nano at toy size, run once (a slow test of test_wheel.py has it run its commands itself)."""
    training = "--max_steps 4 --per_device_train_batch_size 4 --num_negatives 3 --use_cpu true --mixed_precision no"
    environment = {"MODEL": tiny_model, "RETRIEVER": tiny_model, "COMMON": SIZES, "TRAINING": training}

    folder, printed = once("story", lambda folder: told({**environment, "OUT": folder / "nano"}))
    return folder / "nano", printed, environment | {"OUT": folder / "nano"}


def test_the_story_ends_with_a_table_and_a_report(story):
    out, printed, _ = story
    table = printed[printed.rindex("== score") :]
    rerankings = {"ranker_over_bm25": "bm25", "ranker_over_dense": "dense", "ranker_over_fused": "fused"}
    first_stages = {**rerankings, "interpolated": "fused"}
    for system in ("bm25", "dense", "fused", *first_stages):
        assert f"\n{system} " in table
    for system, first in first_stages.items():
        assert f"{system} against {first}, MRR@10:" in table
    assert "report.html" in table
    report = json.loads((out / "report" / "report.json").read_text())
    assert len(report["query_ids"]) == 20
    html = (out / "report" / "report.html").read_text()
    assert "ranker_over_dense" in html and "http://" not in html.replace("http://www.w3.org", "")


def test_every_stage_left_one_folder_with_config_and_provenance(story):
    out, _, _ = story
    folders = [*(out / "runs").glob("*/*"), out / "negatives", out / "ranker", out / "report"]
    assert len(folders) == 16
    for folder in folders:
        provenance = json.loads((folder / "provenance.json").read_text())
        assert provenance["inputs"] and provenance["packages"]["torch"], folder
        assert yaml.safe_load((folder / "config.yaml").read_text())["output_dir"] == str(folder)
    assert not list(out.rglob(".*partial*")) and not (out / "ranker" / "checkpoints").exists()


def test_every_paired_test_that_score_offers_is_known(story, tmp_path):
    out, _, _ = story
    score = recipe("score")
    choices = get_args(get_type_hints(score.ScoringConfig)["test"])
    runs = {first: out / f"runs/test/{first}/run.trec" for first in ("bm25", "dense")}
    for choice in choices:
        options = [
            "--collection",
            "apidocs",
            "--collection_options",
            "passages=150",
            "test=20",
            "dev=15",
            "--test",
            choice,
        ]
        options += ["--measures", "MRR@10", "--runs", *(f"{name}={path}" for name, path in runs.items())]
        score.main(parse_config(score.ScoringConfig, args=[*options, "--output_dir", str(tmp_path / choice)])[0])
        assert choice in (tmp_path / choice / "report.md").read_text()


def test_rerankings_hold_the_first_stage_s_documents(story):
    out, _, _ = story
    for first in ("bm25", "dense", "fused"):
        before = Run.read_trec(out / "runs/test" / first / "run.trec").top(100)
        after = Run.read_trec(out / f"runs/test/ranker_over_{first}/run.trec")
        assert {q: {d.doc_id for d in after[q]} for q in after} == {q: {d.doc_id for d in before[q]} for q in before}
        assert any([d.doc_id for d in after[q]] != [d.doc_id for d in before[q]] for q in after)


def test_dev_queries_choose_how_test_runs_are_fused(story):
    out, _, _ = story
    fused, interpolated = out / "runs/test/fused", out / "runs/test/interpolated"
    for folder, names, within in (
        (fused, ["bm25", "dense"], None),
        (interpolated, ["ranker", "fused"], "ranker"),
    ):
        record = json.loads((folder / "fusion.json").read_text())
        assert list(record["weights"]) == names and record["within"] == within and record["dev"]["queries"] == 15
        assert record["dev"]["value"] == max(point["value"] for point in record["dev"]["grid"])
    of_dev, of_test = (json.loads((out / f"runs/{split}/fused/fusion.json").read_text()) for split in ("dev", "test"))
    assert of_dev == of_test  # one choice
    before, after = (
        Run.read_trec(out / "runs/test/ranker_over_fused/run.trec"),
        Run.read_trec(interpolated / "run.trec"),
    )
    assert after.keys() == before.keys()
    assert all({d.doc_id for d in after[q]} <= {d.doc_id for d in before[q]} for q in after)


def test_a_second_run_does_nothing_twice(story):
    out, _, environment = story
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    assert told(environment).count("finished before") == 16
    assert written == {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}


def test_two_processes_rerank_like_one(story, tmp_path):
    out, _, _ = story
    first = out / "runs/test/bm25/run.trec"
    settings = {"ranker": out / "ranker", "collection": "apidocs", "split": "test", "first_stage": first, "depth": 20}
    settings |= {"output_dir": tmp_path / "two", "collection_options": {"passages": 150, "test": 20, "dev": 15}}
    plain = {key: value if isinstance(value, str | int | dict) else str(value) for key, value in settings.items()}
    (tmp_path / "rerank.yaml").write_text(yaml.safe_dump(plain))
    done = launch([sys.executable, *LAUNCH.split(), "recipes/rerank.py", "--config", str(tmp_path / "rerank.yaml")])
    assert done.returncode == 0, done.stderr[-3000:]
    two = Run.read_trec(tmp_path / "two" / "run.trec")
    ranker = CrossEncoderRanker.from_pretrained(out / "ranker", device="cpu")
    one = ranker.rerank(Run.read_trec(first), load_collection("apidocs", "test", passages=150, test=20, dev=15), 20)
    assert one.keys() == two.keys()
    for query_id in one:
        scores = {document.doc_id: document.score for document in two[query_id]}
        assert [scores[d.doc_id] for d in one[query_id]] == pytest.approx([d.score for d in one[query_id]], abs=1e-5)


def test_a_dry_run_estimates_and_writes_nothing(tmp_path):
    command = (
        f"recipes/retrieve.py --collection apidocs {SIZES} --retriever bm25 --dry_run --output_dir {tmp_path / 'x'}"
    )
    done = script(*command.split())
    assert done.returncode == 0, done.stderr[-3000:]
    assert "read    150 passages" in done.stdout and "\nindex " in done.stdout and "\nmemory " in done.stdout
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("retriever, names", [("dense", ["D1", "D2"]), ("splade", ["L0", "L1", "L2"])])
def test_a_retriever_is_trained_in_two_rounds_and_retrieves(retriever, names, tiny_model, tmp_path):
    sizes = "passages=60 test=20 dev=10"
    training = "--mixed_precision no --max_length 32 --num_train_epochs 1 --num_negatives 1 --head_steps 5"
    common = ["--collection", "apidocs", "--retriever", retriever, *training.split()]
    common += ["--collection_options", *sizes.split()]
    out = tmp_path / "out"
    done = script("recipes/train_retriever.py", *common, "--model", tiny_model, "--output_dir", out)
    assert done.returncode == 0, done.stderr[-3000:]
    assert sorted(path.name for path in out.iterdir()) == sorted([*names, "runs", "config.yaml", "provenance.json"])
    assert {path.name for path in (out / "runs").iterdir()} == {"bm25", names[-2]}
    assert (out / names[-1] / "model.safetensors").read_bytes() != (out / names[-2] / "model.safetensors").read_bytes()
    options = ["--collection", "apidocs", "--retriever", retriever, "--collection_options", *sizes.split()]
    options += ["--model", out / names[-1], "--depth", 5, "--output_dir", tmp_path / "run"]
    done = script("recipes/retrieve.py", *options)
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(Run.read_trec(tmp_path / "run" / "run.trec")) == 20


def run_here(stage, *arguments):
    """A recipe in this process, with options as one would type them."""
    parsed = parse_config(*configs(stage), args=[str(argument) for argument in arguments])
    recipe(stage).main(*parsed)


@pytest.fixture(scope="session")
def toy(tiny_model, once):
    """A small collection mined from two first stages, and a ranker with a head."""
    return once("toy", lambda folder: mined(folder, tiny_model))


def mined(folder, tiny_model):
    collection = ["--collection", "apidocs", "--collection_options", *"passages=60 test=12 dev=4".split()]
    for name, more in (("bm25", []), ("dense", ["--model", tiny_model])):
        options = [*collection, "--split", "train", "--retriever", name, *more, "--depth", 12]
        run_here("retrieve", *options, "--output_dir", folder / name)
    runs = [f"{name}={folder / name / 'run.trec'}" for name in ("bm25", "dense")]
    run_here("mine", *collection, "--runs", *runs, "--audit_queries", 0, "--output_dir", folder / "negatives")
    CrossEncoderRanker.from_pretrained(tiny_model, max_length=48).save_pretrained(folder / "ranker")
    return collection


@pytest.mark.parametrize("round2_from", ["round1", "base"])
def test_round_2_starts_where_it_is_told(round2_from, toy, tiny_model, tmp_path):
    """By default from round 1, as in 4.2; a training by hand from there gives the same weights."""
    folder, collection = toy
    module, out = recipe("train_retriever"), tmp_path / "out"
    options = [*collection, "--model", tiny_model, "--negatives", folder / "negatives", "--num_train_epochs", 1]
    options += ["--max_length", 16, "--num_negatives", 1, "--learning_rate", 1e-3, "--mixed_precision", "no"]
    options += ["--output_dir", out] + (["--round2_from", "base"] if round2_from == "base" else [])
    run_here("train_retriever", *options)
    config, training = parse_config(*configs("train_retriever"), args=[str(option) for option in options])
    passages = load_collection("apidocs", "train", passages=60, test=12, dev=4)
    rows = module.with_list(
        lambda: module.first_rows(config, passages, out), "D1", Run.read_trec(out / "runs" / "D1" / "run.trec")
    )
    start = out / "D1" if round2_from == "round1" else config.model
    module.train_round(config, training, passages, start, rows, tmp_path / "D2", number=2)
    by_hand, made = ((path / "D2" / "model.safetensors").read_bytes() for path in (tmp_path, out))
    assert made == by_hand


@pytest.mark.parametrize("retriever", ["dense", "splade"])
def test_a_ranker_s_scores_are_distilled_into_a_retriever_that_retrieves(retriever, toy, tiny_model, tmp_path):
    folder, collection = toy
    options = ["--retriever", retriever, "--model", tiny_model, "--mixed_precision", "no", "--max_length", 32]
    options += ["--num_negatives", 3, "--num_train_epochs", 2, "--head_steps", 5, "--depth", 8]
    taught, asked = tmp_path / "taught", tmp_path / "asked"
    run_here(
        "teach",
        "--negatives",
        folder / "negatives",
        "--ranker",
        folder / "ranker",
        "--depth",
        8,
        "--audit_queries",
        100,
        "--output_dir",
        taught,
    )
    run_here("distil", *options, "--negatives", taught, "--output_dir", tmp_path / "stored")
    run_here(
        "distil", *options, "--negatives", folder / "negatives", "--teacher", folder / "ranker", "--output_dir", asked
    )
    # stored scores are those that the ranker gives when it is asked, but for rounding: other pairs share a batch
    stored, asked_for = (load_file(folder / "model.safetensors") for folder in (tmp_path / "stored", asked))
    apart = max(float((stored[name] - asked_for[name]).abs().max()) for name in stored)
    assert apart < 2e-5  # a hundredth of what training moves
    assert not [path.name for path in asked.iterdir() if path.name in ("checkpoints", "teacher", "start")]
    assert json.loads((asked / "trainer_state.json").read_text())["global_step"] == 44 * 2 // 16
    sources = json.loads((asked / "provenance.json").read_text())["inputs"]
    facts = json.loads((taught / "manifest.json").read_text())["splits"]["train"]["rankings"]["teacher"]
    assert facts["settings"]["ranker"] == f"ranker@{sources['teacher']}"  # the same ranker, by its files' hash
    assert json.loads((taught / "audit.json").read_text())["judged_by"] == "teacher"
    run_here(
        "retrieve",
        *collection,
        "--retriever",
        retriever,
        "--model",
        asked,
        "--depth",
        5,
        "--output_dir",
        tmp_path / "run",
    )
    run = Run.read_trec(tmp_path / "run" / "run.trec")
    assert len(run) == 12 and max(map(len, run.values())) == 5


def test_a_killed_distillation_ends_with_the_weights_of_one_that_was_not(toy, tiny_model, tmp_path, monkeypatch):
    from sentence_transformers import SentenceTransformerTrainer

    folder, _ = toy
    options = ["--negatives", folder / "negatives", "--teacher", folder / "ranker", "--model", tiny_model]
    options += ["--mixed_precision", "no", "--max_length", 32, "--num_negatives", 3, "--depth", 8]
    run_here("distil", *options, "--output_dir", tmp_path / "whole")
    step, done = SentenceTransformerTrainer.training_step, []

    def killed(*arguments, **named):
        done.append(None)
        if len(done) == 8:  # of 11, after the checkpoint of step 6
            raise KeyboardInterrupt
        return step(*arguments, **named)

    monkeypatch.setattr(SentenceTransformerTrainer, "training_step", killed)
    with pytest.raises(KeyboardInterrupt):
        run_here("distil", *options, "--output_dir", tmp_path / "killed")
    assert not (tmp_path / "killed").exists()
    run_here("distil", *options, "--output_dir", tmp_path / "killed")
    assert len(done) == 8 + 11 - 6
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]


def test_pseudo_queries_warm_a_ranker_by_the_retrievers_and_another_by_the_first(toy, tiny_model, tmp_path):
    _, collection = toy
    options = [*collection, "--split", "pseudo.20", "--retriever", "bm25", "--depth", 12]
    run_here("retrieve", *options, "--output_dir", tmp_path / "bm25")
    options = [*collection, "--split", "pseudo.20", "--runs", f"bm25={tmp_path / 'bm25' / 'run.trec'}"]
    run_here("mine", *options, "--audit_queries", 0, "--output_dir", tmp_path / "unlabelled")
    training = ["--model", tiny_model, "--negatives_split", "pseudo.20", "--use_cpu", "true", "--num_negatives", 3]
    training += ["--per_device_train_batch_size", 4, "--report_to", "none", "--mixed_precision", "no"]
    training += ["--leave_out_positives", "true", "--num_train_epochs", 1, "--max_length", 48]
    warm = ["--negatives", tmp_path / "unlabelled", "--objective", "retrievers", "--max_queries", 8]
    run_here("train_ranker", *training, *warm, "--output_dir", tmp_path / "warm")
    assert json.loads((tmp_path / "warm" / "trainer_state.json").read_text())["global_step"] == 2  # 8 queries, by 4
    teach = ["--negatives", tmp_path / "unlabelled", "--split", "pseudo.20", "--ranker", tmp_path / "warm"]
    run_here("teach", *teach, "--output_dir", tmp_path / "taught")
    options = ["--negatives", tmp_path / "taught", "--objective", "ranker", "--teacher_temperature", 1.0]
    run_here("train_ranker", *training, *options, "--output_dir", tmp_path / "student")
    assert CrossEncoderRanker.from_pretrained(tmp_path / "student", device="cpu").score([("cat", "dog")]).size == 1


def test_a_killed_pre_training_ends_with_the_bytes_of_one_that_was_not_and_retrieves(
    toy, tiny_model, tmp_path, monkeypatch
):
    from transformers import Trainer

    _, collection = toy
    options = [*collection, "--model", tiny_model, "--max_length", 40, "--mixed_precision", "no", "--use_cpu", "true"]
    options += ["--per_device_train_batch_size", 8, "--num_train_epochs", 1, "--save_steps", 3, "--report_to", "none"]
    run_here("pretrain", *options, "--output_dir", tmp_path / "whole")
    step, done = Trainer.training_step, []

    def killed(*arguments, **named):
        done.append(None)
        if len(done) == 6:  # of 8, after the checkpoint of step 3
            raise KeyboardInterrupt
        return step(*arguments, **named)

    monkeypatch.setattr(Trainer, "training_step", killed)
    with pytest.raises(KeyboardInterrupt):
        run_here("pretrain", *options, "--output_dir", tmp_path / "killed")
    assert not (tmp_path / "killed").exists()
    run_here("pretrain", *options, "--output_dir", tmp_path / "killed")
    assert len(done) == 6 + 8 - 3
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "killed")]
    assert weights[0] == weights[1]
    without = ["--model", tmp_path / "whole", "--num_train_epochs", 0, "--pooling", "mean"]
    run_here("pretrain", *options, *without, "--output_dir", tmp_path / "same")
    assert weights[0] == (tmp_path / "same" / "model.safetensors").read_bytes()  # without epochs, as it came
    files = {path.name for path in (tmp_path / "whole").iterdir()}
    assert {"config.json", "tokenizer.json", "modules.json", "trainer_state.json", "provenance.json"} <= files
    assert not files & {"checkpoints", "tokens", "tokenizer"}
    options = ["--retriever", "dense", "--model", tmp_path / "whole", "--depth", 5, "--output_dir", tmp_path / "run"]
    run_here("retrieve", *collection, *options)
    assert len(Run.read_trec(tmp_path / "run" / "run.trec")) == 12


def test_fresh_weights_can_have_the_collection_s_own_vocabulary(toy, tiny_model, tmp_path):
    _, collection = toy
    sizes = ["--fresh", "vocab_size=200", "num_hidden_layers=2", "--max_length", 40, "--num_train_epochs", 1]
    options = [*collection, "--model", tiny_model, *sizes, "--mixed_precision", "no", "--use_cpu", "true"]
    run_here("pretrain", *options, "--report_to", "none", "--output_dir", tmp_path / "encoder")
    config = json.loads((tmp_path / "encoder" / "config.json").read_text())
    vocabulary = json.loads((tmp_path / "encoder" / "tokenizer.json").read_text())["model"]["vocab"]
    assert config["vocab_size"] == len(vocabulary) <= 200 and config["pad_token_id"] == vocabulary["[PAD]"]
    assert not {path.name for path in (tmp_path / "encoder").iterdir()} & {"checkpoints", "tokens", "tokenizer"}
    options = ["--retriever", "dense", "--model", tmp_path / "encoder", "--depth", 5, "--output_dir", tmp_path / "run"]
    run_here("retrieve", *collection, *options)
    assert len(Run.read_trec(tmp_path / "run" / "run.trec")) == 12


def test_distillation_without_scores_says_what_is_missing(toy, tiny_model, tmp_path):
    folder, _ = toy
    options = ["--model", tiny_model, "--mixed_precision", "no", "--output_dir", tmp_path / "x"]
    with pytest.raises(InputError, match="hold no scores of a teacher 'teacher'; choices: none"):
        run_here("distil", "--negatives", folder / "negatives", *options)


SETTINGS = sorted(path for path in RECIPES.rglob("*.yaml") if path.name != "expected.yaml")


def options_of(stage):
    return {name for config in configs(stage) for name in config.__dataclass_fields__}


@pytest.mark.parametrize("path", SETTINGS, ids=lambda path: str(path.relative_to(RECIPES)))
def test_every_yaml_parses(path):
    if path.parent.name == "accelerate_configs":
        from accelerate.commands.config.config_args import load_config_from_file

        assert load_config_from_file(str(path)).num_processes >= 1
        return
    if path.parent.name == "studies":
        study = recipe("study").Study.read(str(path))
        rows, trainings = study.rankers.values(), study.trained.values()
        assert {*study.train}.union(*rows) - {TAUGHT_BY} <= options_of("train_ranker")
        assert set().union(*trainings) <= options_of("train_retriever")
        return
    stage = STAGE_OF.get(path.stem, path.stem)
    required = {"output_dir": "x", "negatives": "x", "ranker": "x", "first_stage": "x", "runs": "bm25=x", "model": "x"}
    required |= {"folder": "x", "repo_id": "me/x"}
    if stage in ("train_ranker", "pretrain"):
        required |= {"use_cpu": "true", "mixed_precision": "no"}  # no GPU is needed to parse
    given = yaml.safe_load(path.read_text())
    if stage == "retrieve" and given.get("retriever", "bm25") == "bm25":
        del required["model"]
    options = [f"--{key}={value}" for key, value in required.items() if key in options_of(stage) - given.keys()]
    options = [word for option in options for word in option.split("=", 1)]
    parsed = parse_config(*configs(stage), args=["--config", str(path), *options])
    given.pop("report_to", None)  # transformers turns "none" into an empty list
    for key, value in given.items():
        assert value in [getattr(part, key, None) for part in parsed], key


def test_folders_differ_in_values_alone():
    names = {folder: {path.name for path in (RECIPES / folder).glob("*.yaml")} for folder in ("nano", "scifact")}
    for folder in ("nfcorpus", "msmarco", "scifact"):
        # the paper reports dev, and its figures; elsewhere dev chooses
        more = {"score_dev.yaml", "expected.yaml"} if folder == "msmarco" else set()
        assert {path.name for path in (RECIPES / folder).glob("*.yaml")} == names["nano"] - {"warm_start.yaml"} | more


FOLDERS = sorted(path.parent.name for path in RECIPES.glob("*/score.yaml"))


@pytest.mark.parametrize("folder", FOLDERS)
def test_nothing_is_trained_or_chosen_on_what_is_reported(folder):
    given = {path.stem: yaml.safe_load(path.read_text()) for path in (RECIPES / folder).glob("*.yaml")}
    reported = {settings["split"] for name, settings in given.items() if name.startswith("score")}
    chosen_by = {settings["dev_split"] for settings in given.values() if "dev_split" in settings}
    trained_on = {
        settings.get(key, "train")
        for name, settings in given.items()
        for key in ("split", "negatives_split")
        if STAGE_OF.get(name, name) in ("mine", "teach", "train_ranker", "train_retriever", "distil")
    }
    assert reported and not reported & chosen_by and not reported & trained_on
    assert {"msmarco": {"dev", "test"}}.get(folder, {"test"}) == reported


@pytest.mark.parametrize("folder", FOLDERS)
@pytest.mark.parametrize("splits", [None, "dl19 dl20"])
def test_the_story_s_commands(folder, splits, tmp_path):
    """`echo` in place of python: which splits are retrieved, reranked and scored, and which run chooses."""
    given = {"SPLITS": splits} if splits else {}
    done = launch(["bash", "recipes/run.sh", folder], LAUNCH="echo", OUT=tmp_path, **given)
    assert done.returncode == 0, done.stderr
    printed = done.stdout.replace(f"{REPOSITORY}/", "")
    lines = [line.split() for line in printed.splitlines() if line.startswith("recipes/")]
    options = [(words[0], dict(zip(words, words[1:], strict=False))) for words in lines]
    split_of = {
        name: [given["--split"] for script, given in options if script == f"recipes/{name}.py"]
        for name in ("retrieve", "rerank", "score")
    }
    training = next(o for script, o in options[::-1] if script == "recipes/train_ranker.py")
    reported = splits.split() if splits else ["test", "dev"] if folder == "msmarco" else ["test"]
    chosen_by = ["dev"] if folder in ("nano", "nfcorpus") else []
    assert split_of["score"] == reported and split_of["rerank"] == chosen_by + [s for s in reported for _ in range(3)]
    assert split_of["retrieve"] == [s for s in ["train", *chosen_by, *reported] for _ in range(2)]
    assert training.get("--dev_run") == (f"{tmp_path}/runs/dev/fused/run.trec" if chosen_by else None)
    settings = yaml.safe_load((REPOSITORY / training["--config"]).read_text())
    assert ("held_out" in settings) == (folder == "msmarco") and ("held_out" not in settings or not chosen_by)


def test_the_split_that_chooses_is_not_reported(tmp_path):
    done = launch(["bash", "recipes/run.sh", "nfcorpus"], LAUNCH="echo", OUT=tmp_path, SPLITS="test dev")
    assert done.returncode == 2 and "error: SPLITS: dev chooses the checkpoint" in done.stderr and not done.stdout


def test_one_ranker_learns_from_several_collections(toy, tiny_model, tmp_path):
    folder, _ = toy
    options = ["--negatives", folder / "negatives", folder / "negatives", "--mixture_weights", 3, 1]
    options += ["--model", tiny_model, "--objective", "retrievers", "--label_weight", 0.5, "--num_negatives", 1]
    options += ["--use_cpu", "true", "--mixed_precision", "no", "--max_length", 24, "--report_to", "none"]
    options += ["--per_device_train_batch_size", 16, "--num_train_epochs", 1]
    run_here("train_ranker", *options, "--output_dir", tmp_path / "ranker")
    inputs = json.loads((tmp_path / "ranker" / "provenance.json").read_text())["inputs"]
    assert set(inputs) == {"negatives 1", "negatives 2", "model"} and inputs["negatives 1"] == inputs["negatives 2"]
    state = json.loads((tmp_path / "ranker" / "trainer_state.json").read_text())
    assert state["global_step"] == -(-2 * 44 // 16)
    assert CrossEncoderRanker.from_pretrained(tmp_path / "ranker").score([("a", "cat")]).shape == (1,)
    with pytest.raises(InputError, match="negatives_split has 3 values for 2 sets of negatives"):
        more = ["--negatives_split", "train", "train", "dev", "--output_dir", tmp_path / "other"]
        run_here("train_ranker", *options, *more)


def test_negatives_come_from_the_pool_that_will_be_reranked(toy, tiny_model, tmp_path):
    """A stored fused run, its window, and what the audit suspects in it: by options of the recipes only."""
    folder, collection = toy
    runs = [f"{name}={folder / name / 'run.trec'}" for name in ("bm25", "dense")]
    run_here("fuse", "--runs", *runs, "--output_dir", tmp_path / "fused")
    fused = tmp_path / "fused" / "run.trec"
    options = ["--runs", *runs, "--depth", 4, "--rankings", f"fused={fused}", "--audit_queries", 0]
    run_here("mine", *collection, *options, "--output_dir", tmp_path / "negatives")
    options = ["--negatives", tmp_path / "negatives", "--model", tiny_model, "--num_negatives", 9, "--max_length", 24]
    options += ["--policy", "redistributed", "--negatives_ranking", "fused", "--rank_from", 2, "--rank_to", 8]
    options += ["--leave_out_suspects", "true", "--use_cpu", "true", "--mixed_precision", "no", "--report_to", "none"]
    options += ["--max_steps", 1, "--per_device_train_batch_size", 4, "--output_dir", tmp_path / "ranker"]
    run_here("train_ranker", *options)
    assert yaml.safe_load((tmp_path / "ranker" / "config.yaml").read_text())["leave_out_suspects"] is True
    assert not (tmp_path / "ranker" / "suspects").exists()
    candidates = load_candidates(tmp_path / "negatives")
    rows = list(with_suspects(candidates.rows, candidates.corpus.text))
    _, training = parse_config(*configs("train_ranker"), args=[str(option) for option in options])
    groups, run, beyond = TrainingGroups(rows, str, training), Run.read_trec(fused), 0
    for index, row in enumerate(rows):
        _, *negatives = groups[(0, index)]["documents"]
        pool = {document.doc_id for document in run[row["query_id"]][1:8]}
        assert set(negatives) == pool - {*row["positive_ids"], *row["suspects"]}
        beyond += len(set(negatives) - {d for ranked in row["candidates"] for d in ranked["doc_ids"]})
    assert beyond  # deeper than the lists that were mined


def test_held_out_training_queries_choose_the_checkpoint(toy, tiny_model, tmp_path):
    folder, _ = toy
    options = ["--negatives", folder / "negatives", "--model", tiny_model, "--held_out", 12, "--dev_depth", 5]
    options += ["--use_cpu", "true", "--mixed_precision", "no", "--num_negatives", 1, "--max_length", 24]
    options += ["--per_device_train_batch_size", 16, "--num_train_epochs", 1, "--report_to", "none"]
    with pytest.raises(InputError, match="held_out counts dev measurements: give --eval_strategy steps"):
        run_here("train_ranker", *options, "--output_dir", tmp_path / "unmeasured")
    options += ["--eval_strategy", "epoch", "--save_strategy", "epoch"]
    ranker = CrossEncoderRanker.from_pretrained(tiny_model, device="cpu")
    ranker.calibration = Calibration(
        2.0, -1.0, 0.0, 0.0, 0.9, 0.5, 1.0, 1, 2, 1
    )  # fitted to the weights that the training starts from
    ranker.save_pretrained(tmp_path / "calibrated")
    options[options.index("--model") + 1] = tmp_path / "calibrated"
    run_here("train_ranker", *options, "--output_dir", tmp_path / "ranker")
    assert CrossEncoderRanker.from_pretrained(tmp_path / "ranker", device="cpu").calibration is None
    state = json.loads((tmp_path / "ranker" / "trainer_state.json").read_text())
    assert state["global_step"] == (44 - 12) // 16
    assert [line["eval_MRR@10"] for line in state["log_history"] if "eval_MRR@10" in line] == [state["best_metric"]]
    with pytest.raises(InputError, match="held_out is 12 and dev_run is x, but one of them chooses"):
        run_here("train_ranker", *options, "--dev_run", "x", "--output_dir", tmp_path / "other")


@pytest.fixture(scope="module")
def kept(toy, tiny_model, tmp_path_factory):
    """A ranker of three steps that kept two on its way, and the dev split's first stage."""
    folder, collection = toy
    out = tmp_path_factory.mktemp("kept")
    options = [*collection, "--split", "dev", "--retriever", "bm25", "--depth", 8, "--output_dir", out / "bm25"]
    run_here("retrieve", *options)
    options = ["--negatives", folder / "negatives", "--model", tiny_model, "--max_steps", 3, "--num_negatives", 1]
    options += ["--use_cpu", "true", "--mixed_precision", "no", "--max_length", 24, "--report_to", "none"]
    options += ["--per_device_train_batch_size", 4, "--learning_rate", 1e-3, "--keep_at", 8, 16]
    run_here("train_ranker", *options, "--output_dir", out / "ranker")
    return out, collection


def test_a_curve_has_the_figure_of_every_ranker_that_was_kept(kept, tmp_path, monkeypatch):
    out, collection = kept
    first = out / "bm25" / "run.trec"
    options = [*collection, "--ranker", out / "ranker", "--first_stage", first, "--teacher_run", first, "--depth", 6]
    options += ["--rankers", f"40={out / 'ranker'}", "--runs", f"other={first}", "--measure", "MRR@10"]
    rerank, done = CrossEncoderRanker.rerank, []

    def killed(*arguments, **named):
        done.append(None)
        if len(done) == 3:
            raise KeyboardInterrupt
        return rerank(*arguments, **named)

    monkeypatch.setattr(CrossEncoderRanker, "rerank", killed)
    with pytest.raises(KeyboardInterrupt):
        run_here("curve", *options, "--output_dir", tmp_path / "curve")
    run_here("curve", *options, "--output_dir", tmp_path / "curve")
    assert len(done) == 3 + 2  # of four rankers, two were done
    table = json.loads((tmp_path / "curve" / "curve.json").read_text())
    # 4 queries of 2 documents a step; the ranker itself after 3 steps, and again by hand
    assert [point["pairs"] for point in table["points"]] == [8, 16, 24, 40]
    collection = load_collection("apidocs", "dev", passages=60, test=12, dev=4)
    run = Run.read_trec(first)
    for point, folder in zip(table["points"], ("kept/pairs-8", "kept/pairs-16", ".", "."), strict=True):
        reranked = rerank(
            CrossEncoderRanker.from_pretrained(out / "ranker" / folder, device="cpu"), run, collection, 6
        )
        assert point["value"] == pytest.approx(means(evaluate_run(collection.qrels, reranked, ["MRR@10"]))["MRR@10"])
        assert (point["kl"], point["tau"]) == pytest.approx(agreement(reranked, run, 0.5)[:2], abs=1e-5)
    seconds = [point["seconds"] for point in table["points"]]
    assert seconds[3] is None and 0 <= seconds[0] <= seconds[1] <= seconds[2]
    own = means(evaluate_run(collection.qrels, run, ["MRR@10"]))["MRR@10"]
    assert table["lines"] == {"first stage": own, "teacher": own, "other": own}
    lines = (tmp_path / "curve" / "curve.tsv").read_text().splitlines()
    assert lines[0].split("\t") == ["pairs", "MRR@10", "seconds", "kl", "tau"] and len(lines) == 5
    assert (tmp_path / "curve" / "curve.png").read_bytes().startswith(b"\x89PNG")
    inputs = json.loads((tmp_path / "curve" / "provenance.json").read_text())["inputs"]
    assert {"ranker", "ranker 40", "run first stage", "run teacher", "run other", "collection"} == inputs.keys()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--rankers", "forty=x"], "'forty' is no number of pairs; write PAIRS=FOLDER"),
        (["--split", "test"], "split is 'test', but test queries may not choose"),
        (["--runs", "teacher=x"], "runs: the name 'teacher' is taken"),
        (["--rankers", "8=RANKER"], "two rankers have seen 8 pairs"),
        (["--ranker", "RANKER/kept"], "says nowhere how many pairs were seen"),
    ],
)
def test_a_curve_that_cannot_be_drawn_is_refused(options, message, kept, tmp_path):
    out, collection = kept
    options = [option.replace("RANKER", str(out / "ranker")) for option in options]
    given = ["--ranker", out / "ranker", *collection, "--first_stage", out / "bm25" / "run.trec"]
    with pytest.raises(InputError, match=message):
        run_here("curve", *given, *options, "--output_dir", tmp_path / "curve")
    assert not (tmp_path / "curve").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "early_stopping_patience needs dev measurements: give collection and dev_run, or held_out"),
        (["--held_out", 4], "counts dev measurements: give --eval_strategy steps"),
        (
            ["--held_out", 4, "--eval_strategy", "steps", "--eval_steps", 2],
            "keeps the best measured checkpoint: give --save_strategy steps --save_steps 2$",
        ),
        (["--held_out", 4, "--eval_strategy", "epoch"], "give --save_strategy epoch$"),
    ],
)
def test_early_stopping_says_what_it_lacks(options, message, toy, tiny_model, tmp_path):
    folder, _ = toy
    given = ["--negatives", folder / "negatives", "--model", tiny_model, "--use_cpu", "true", "--report_to", "none"]
    given += ["--mixed_precision", "no", "--early_stopping_patience", 2, "--output_dir", tmp_path / "ranker"]
    with pytest.raises(InputError, match=message):
        run_here("train_ranker", *given, *options)


def test_a_training_ends_when_dev_gets_no_better(toy, tiny_model, tmp_path):
    """With a learning rate of next to nothing no measurement is better than the first."""
    folder, _ = toy
    options = ["--negatives", folder / "negatives", "--model", tiny_model, "--held_out", 12, "--dev_depth", 3]
    options += ["--use_cpu", "true", "--mixed_precision", "no", "--num_negatives", 1, "--max_length", 16]
    options += ["--per_device_train_batch_size", 8, "--num_train_epochs", 9, "--report_to", "none"]
    options += ["--eval_strategy", "steps", "--save_strategy", "steps", "--eval_steps", 1, "--save_steps", 1]
    options += ["--learning_rate", 1e-30, "--early_stopping_patience", 2, "--output_dir", tmp_path / "ranker"]
    run_here("train_ranker", *options)
    state = json.loads((tmp_path / "ranker" / "trainer_state.json").read_text())
    assert (state["global_step"], state["best_global_step"]) == (1 + 2, 1)
    assert json.loads((tmp_path / "ranker" / "seen.json").read_text())["pairs"] == 8 * 2
    assert yaml.safe_load((tmp_path / "ranker" / "config.yaml").read_text())["early_stopping_patience"] == 2


@pytest.mark.parametrize("stage", STAGES)
def test_help_says_what_the_recipe_does(stage):
    done = script(f"recipes/{stage}.py", "--help")
    assert done.returncode == 0 and "--output_dir" in done.stdout
    assert recipe(stage).__doc__.splitlines()[0] in done.stdout


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("retrieve.py --collection /nowhere/at/all --output_dir OUT", "no such folder"),
        ("retrieve.py --collection apidocs --retriever dense --output_dir OUT", "--model is needed"),
        ("retrieve.py --collection apidocs --preset anserini --output_dir OUT", "msmarco-tuned"),
        ("mine.py --collection apidocs --runs bm25=gone.trec --output_dir OUT", "gone.trec: no such file"),
        ("train_ranker.py --negatives /nowhere/at/all --model x --use_cpu true --output_dir OUT", "no such folder"),
        (
            "rerank.py --ranker /nowhere/at/all --collection apidocs --first_stage gone.trec --output_dir OUT",
            "/nowhere/at/all: no such folder",
        ),
        ("teach.py --negatives /nowhere/at/all --ranker x --output_dir OUT", "no such folder"),
        ("distil.py --negatives x --model y --loss kd --output_dir OUT", "margin_mse"),
        ("pretrain.py --collection apidocs --model /nowhere/at/all --output_dir OUT", "nowhere"),
        ("fuse.py --runs a=gone.trec b=gone.trec --output_dir OUT", "gone.trec: no such file"),
        ("curve.py --collection apidocs --first_stage x --output_dir OUT", "give --ranker FOLDER, --rankers PAIRS="),
        ("score.py --runs a=gone.trec --output_dir OUT", "give --collection, --qrels, or both"),
        ("score.py --runs a=gone.trec --qrels gone.tsv --output_dir OUT", "gone.trec: no such file"),
        ("score.py --runs a=x --qrelz y --output_dir OUT", "--qrels"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(command, message, tmp_path):
    name, *options = command.replace("OUT", str(tmp_path / "out")).split()
    sizes = SIZES.split() if "apidocs" in command else []
    done = script(f"recipes/{name}", *options, *sizes)
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(errors) == 1 and message in errors[0], done.stderr[-2000:]
    assert "Traceback" not in done.stderr and not (tmp_path / "out").exists()


def test_published_figures_of_dl19(shared_data, tmp_path):
    pool = shared_data / "msmarco-dl19-pool"
    names = {"bm25": "BM25", "splade": "SPLADE_P_P_ENSEMBLE_DISTIL", "repllama": "REP_LLAMA"}
    runs = [f"{name}={pool / 'runs' / file}.trec" for name, file in names.items()]
    options = ["--qrels", pool / "qrels/test.official-full.tsv", "--runs", *runs, "--measures", "nDCG@10"]
    done = script("recipes/score.py", *options, "--output_dir", tmp_path / "report")
    assert done.returncode == 0, done.stderr[-2000:]
    report = json.loads((tmp_path / "report" / "report.json").read_text())
    figures = {system["name"]: round(system["scores"]["nDCG@10"]["mean"], 4) for system in report["systems"]}
    assert figures == {"bm25": 0.5058, "splade": 0.7308, "repllama": 0.7384}
