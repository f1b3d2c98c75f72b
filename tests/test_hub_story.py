"""The whole way over a Hub: negatives published and trained from, the ranker published, loaded and verified."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import Hub
from huggingface_hub import ModelCard
from scripts import script

pytestmark = pytest.mark.hub
REPOSITORY = Path(__file__).resolve().parents[1]
SIZES = "--collection apidocs --collection_options passages=80 test=20 dev=10"
TRAINING = "--max_steps 3 --per_device_train_batch_size 4 --num_negatives 3 --use_cpu true --mixed_precision no"
STUDENT = "--max_queries 8 --num_negatives 2 --per_device_train_batch_size 4 --num_train_epochs 1 --mixed_precision no"

# Recipes one after the other in one process, as they would run in one each; `{NAME}` stands for what came out before.
RECIPES = """
import importlib.util, json, sys
from r2anker_hf.config import run_recipe

def recipe(name):
    spec = importlib.util.spec_from_file_location(name, f"recipes/{name}.py")
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module

CONFIGS = json.loads(sys.argv[1])
done = {}
for line in CONFIGS:
    name, *args = line.format(**done).split()
    module = recipe(name)
    run_recipe(module.main, args=args)
    if name == "publish" and "--dry_run" not in args:
        output = args[args.index("--output_dir") + 1]
        done[args[args.index("--kind") + 1]] = json.load(open(f"{output}/receipt.json"))["commit"]
"""

# What any user has: the repository's name and commit, and one of three libraries.
LOADED = """
import json, sys
import numpy as np, torch
commit, pairs = sys.argv[1], json.loads(sys.argv[2])

from transformers import AutoModelForSequenceClassification, AutoTokenizer
model = AutoModelForSequenceClassification.from_pretrained("me/ranker", revision=commit).eval()
tokenizer = AutoTokenizer.from_pretrained("me/ranker", revision=commit)
inputs = tokenizer(*map(list, zip(*pairs)), padding=True, truncation=True, return_tensors="pt")
with torch.inference_mode():
    plain = model(**inputs).logits[:, 0].numpy()

from sentence_transformers import CrossEncoder
cross_encoder = CrossEncoder("me/ranker", revision=commit, device="cpu").predict(pairs)

from r2anker_hf import CrossEncoderRanker
ours = CrossEncoderRanker.from_pretrained("me/ranker", commit, device="cpu").score(pairs)
print(json.dumps([[float(score) for score in scores] for scores in (plain, cross_encoder, ours)]))
"""


def child(hub, home, program, *arguments, token="hf_write"):
    environment = hub.environment(home, token) | {"PYTHONPATH": str(REPOSITORY), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-W", "ignore", "-c", program, *arguments]
    done = subprocess.run(command, env=environment, cwd=REPOSITORY, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-5000:]
    return done.stdout


@pytest.fixture(scope="module")
def story(tiny_model, tmp_path_factory):
    """A Hub on which everything was published, what was printed, and the folder of all stages."""
    out = tmp_path_factory.mktemp("story")
    with Hub() as hub:
        base = hub.commit("them/tiny", tiny_model, kind="model")
        publish = "--version 1.0.0 --hub_collection Ranker-and-negatives"
        recipes = [
            f"retrieve {SIZES} --split train --retriever bm25 --depth 20 --output_dir {out}/train",
            f"retrieve {SIZES} --split test --retriever bm25 --depth 20 --output_dir {out}/test",
            f"mine {SIZES} --split train --runs bm25={out}/train/run.trec --depth 20 --licence mit "
            f"--output_dir {out}/negatives",
            f"publish --kind negatives --folder {out}/negatives --repo_id me/negatives {publish} --public "
            f"--output_dir {out}/published/negatives",
            "train_ranker --negatives me/negatives --negatives_revision {negatives} --model them/tiny "
            f"--model_revision {base} {TRAINING} --output_dir {out}/ranker",
            f"rerank --ranker {out}/ranker {SIZES} --split test --first_stage {out}/test/run.trec --depth 10 "
            f"--output_dir {out}/reranked",
            f"score {SIZES} --split test --runs bm25={out}/test/run.trec ranker={out}/reranked/run.trec "
            f"--first_stages ranker=bm25 --measures MRR@10 nDCG@10 --output_dir {out}/report",
            f"publish --kind ranker --folder {out}/ranker --report {out}/report --repo_id me/ranker {publish} "
            f"--output_dir {out}/published/ranker",
            f"rerank --ranker me/ranker --ranker_revision {{ranker}} {SIZES} --split test "
            f"--first_stage {out}/test/run.trec --depth 10 --output_dir {out}/reranked_from_hub",
            "distil --negatives me/negatives --negatives_revision {negatives} --model them/tiny "
            f"--model_revision {base} --teacher {out}/ranker {STUDENT} --output_dir {out}/student",
            f"publish --kind retriever --folder {out}/student --repo_id me/retriever --teacher me/ranker@{{ranker}} "
            f"{publish} --output_dir {out}/published/retriever",
            "verify --repo_id me/retriever --revision {retriever}",
            "verify --repo_id me/ranker --revision {ranker}",
            "verify --repo_id me/negatives --revision {negatives}",
        ]
        printed = child(hub, out / "home", RECIPES, json.dumps(recipes))
        yield hub, out, printed


def receipt(out, kind):
    return json.loads((out / "published" / kind / "receipt.json").read_text())


def test_everything_is_published_as_it_was_prepared(story):
    hub, out, _ = story
    for kind, repo_type in (("negatives", "dataset"), ("ranker", "model"), ("retriever", "model")):
        prepared = out / "published" / kind / "prepared"
        files = {p.relative_to(prepared).as_posix(): p.read_bytes() for p in prepared.rglob("*") if p.is_file()}
        assert hub.content(f"me/{kind}", repo_type) == files == hub.content(f"me/{kind}", repo_type, "v1.0.0")
        assert sorted(receipt(out, kind)["files"]) == sorted(files) and "README.md" in files
        assert not [name for name in files if "config.yaml" in name or "suspicious" in name or name.endswith(".bin")]
        assert str(out).encode() not in b"".join(files.values())
    assert [hub.repos[key].private for key in (("dataset", "me/negatives"), ("model", "me/ranker"))] == [False, True]


def test_all_stand_in_the_collection(story):
    hub, _, _ = story
    (collection,) = hub.collections.values()
    assert [item["id"] for item in collection["items"]] == ["me/negatives", "me/ranker", "me/retriever"]


def test_the_ranker_says_which_negatives_it_learned_from(story):
    _, out, _ = story
    provenance = json.loads((out / "ranker" / "provenance.json").read_text())
    assert provenance["inputs"]["negatives"] == f"me/negatives@{receipt(out, 'negatives')['commit']}"


def test_the_retriever_names_its_student_its_teacher_and_its_candidates_by_their_commits(story):
    hub, out, _ = story
    card = ModelCard((out / "published/retriever/prepared/README.md").read_text()).data
    assert card.base_model == ["them/tiny", "me/ranker"] and card.datasets[0] == "me/negatives"
    provenance = json.loads((out / "published/retriever/prepared/provenance.json").read_text())
    commits = [receipt(out, kind)["commit"] for kind in ("ranker", "negatives")]
    assert [provenance["teachers"][0]["revision"], provenance["negatives"]["revision"]] == commits


def test_a_teacher_with_other_weights_is_refused(story, talk_to, tmp_path):
    hub, out, _ = story
    talk_to(hub)
    listed = {"files": {"model.safetensors": {"bytes": 7, "sha256": "0" * 64}}}
    commit = hub.commit("them/other", {"publication.json": json.dumps(listed).encode()}, kind="model")
    options = ["--kind", "retriever", "--folder", out / "student", "--teacher", f"them/other@{commit}"]
    done = script("recipes/publish.py", *options, "--repo_id", "me/other", "--output_dir", tmp_path / "published")
    assert done.returncode == 2 and f"the weights of them/other@{commit} are others than those of" in done.stderr


def test_three_libraries_in_a_fresh_process_give_equal_scores(story, tmp_path):
    hub, out, _ = story
    pairs = [["what is a list", "a list is a class"], ["red fish", "the river"], ["score of a query", "value " * 90]]
    told = child(hub, tmp_path / "empty", LOADED, receipt(out, "ranker")["commit"], json.dumps(pairs), token="hf_read")
    plain, cross_encoder, ours = json.loads(told.splitlines()[-1])
    assert len(set(ours)) == 3
    assert plain == pytest.approx(ours, abs=1e-5) and cross_encoder == pytest.approx(ours, abs=1e-5)


def test_the_published_ranker_reranks_like_the_local_one(story):
    _, out, _ = story
    assert (out / "reranked_from_hub" / "run.trec").read_bytes() == (out / "reranked" / "run.trec").read_bytes()


def test_nobody_else_sees_what_is_private(story, tmp_path):
    hub, out, _ = story
    with pytest.raises(AssertionError, match="cannot be loaded|not a valid model identifier|not found"):
        child(hub, tmp_path / "empty", LOADED, receipt(out, "ranker")["commit"], "[]", token="hf_other")
