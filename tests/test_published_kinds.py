"""Whatever a recipe writes is published with what it says of itself, loads and is verified, or is refused by name."""

import json
import shutil

import pytest
from published_toy import TRAINED, TRAINING, run

from r2anker_hf.publishing.golden import load_retriever, score_ranker, score_retriever
from r2anker_hf.publishing.preparing import Stated, prepare
from r2anker_hf.publishing.verify import check_folder
from r2anker_hf.records import InputError
from r2anker_hf.stage import ROUND_FILE

SHORT = {
    "num_negatives": 2,
    "per_device_train_batch_size": 4,
    "num_train_epochs": 1,
    "max_length": 32,
    "mixed_precision": "no",
}
DISTIL = "DistillationConfig DistillationTraining"


@pytest.fixture(scope="module")
def kinds(finished, tiny_model, tmp_path_factory):
    """A folder of every kind that recipes write from the toy story, each trained for a few steps."""
    out = tmp_path_factory.mktemp("kinds")
    negatives, collection = finished / "negatives", finished / "toy"
    mined = {"negatives": negatives, "model": tiny_model}

    def rankers(name, **options):
        run("train_ranker", TRAINING, **TRAINED, **mined | options, output_dir=out / name)

    rankers("warm", objective="retrievers")
    rankers("after_warm", model=out / "warm")
    rankers("lora", lora_rank=2)
    taught = {"negatives": negatives, "ranker": finished / "ranker", "output_dir": out / "taught"}
    run("teach", "TeachingConfig", **taught)
    distilled = {**mined, **SHORT, "max_queries": 12}
    run("distil", DISTIL, **distilled, teacher=finished / "ranker", output_dir=out / "distilled")
    run("distil", DISTIL, **distilled, loss="contrastive", output_dir=out / "contrastive")
    stored = {**distilled, "negatives": out / "taught", "retriever": "splade", "head_steps": 2}
    run("distil", DISTIL, **stored, output_dir=out / "distilled_splade")
    for retriever in ("dense", "splade"):
        own = {
            "collection": collection,
            "model": tiny_model,
            "retriever": retriever,
            "max_queries": 8,
            "head_steps": 2,
        }
        run("train_retriever", "RetrieverConfig RetrieverTraining", **own, **SHORT, output_dir=out / retriever)
    plain = {"use_cpu": "true", "mixed_precision": "no", "report_to": "none", "max_length": 32, "max_steps": 1}
    pretraining = {"collection": collection, "model": tiny_model, **plain, "output_dir": out / "pretrained"}
    run("pretrain", "EncoderConfig PretrainingOptions", **pretraining)
    return out


RETRIEVERS = ("distilled", "contrastive", "distilled_splade", "dense/D1", "dense/D2", "splade/L1", "splade/L2")
RANKERS = ("warm", "after_warm", "lora")


def prepared(kinds, name, kind, tmp_path, **stated):
    return prepare(
        kind, kinds / name, "me/x", into=tmp_path / "prepared", stated=Stated(licence="mit", **stated)
    ).folder


@pytest.mark.parametrize("name", RETRIEVERS)
def test_a_retriever_of_any_making_is_published_and_verified(kinds, name, tmp_path):
    folder = prepared(kinds, name, "retriever", tmp_path)
    assert check_folder(folder) == []
    sparse = "splade" in name or "L" in name
    assert type(load_retriever(folder)).__name__ == ("SparseEncoder" if sparse else "SentenceTransformer")
    assert len(score_retriever(folder, [("cat", "dog")])) == 1


@pytest.mark.parametrize("name", RANKERS)
def test_a_ranker_of_any_making_is_published_and_verified(kinds, name, tmp_path):
    folder = prepared(kinds, name, "ranker", tmp_path)
    assert check_folder(folder) == [] and len(score_ranker(folder, [("cat", "dog")])) == 1
    trainings = json.loads((folder / "provenance.json").read_text())["stages"]
    assert len(trainings) == (2 if name == "after_warm" else 1)


def test_taught_candidates_are_published_and_verified(kinds, tmp_path):
    assert check_folder(prepared(kinds, "taught", "negatives", tmp_path)) == []


def test_a_pre_trained_encoder_is_no_retriever(kinds, tmp_path):
    with pytest.raises(InputError, match="lacks retriever; is the folder of another --kind"):
        prepared(kinds, "pretrained", "retriever", tmp_path)


@pytest.mark.parametrize("name", ["distilled", "distilled_splade"])
def test_a_distilled_retriever_names_its_candidates_and_its_teacher(kinds, finished, name, tmp_path):
    folder = prepared(kinds, name, "retriever", tmp_path)
    record = json.loads((folder / "provenance.json").read_text())
    (teacher,) = record["teachers"]
    assert teacher["name"] == "ranker" and teacher["revision"].startswith("sha256:")
    assert record["negatives"]["splits"]["train"]["queries"] == 33 and "collection" not in record
    card = (folder / "README.md").read_text()
    assert "The retriever learned how ranker scores them (`kl`)." in card
    assert "| ranker that taught | ranker, not on the Hub |" in card
    assert "33 queries, of which at most 12 were used" in card


def test_a_contrastive_student_names_no_teacher(kinds, tmp_path):
    folder = prepared(kinds, "contrastive", "retriever", tmp_path)
    assert "teachers" not in json.loads((folder / "provenance.json").read_text())
    assert "It learned the judgements only" in (folder / "README.md").read_text()


def test_the_round_says_which_negatives_and_not_the_folder_s_name(kinds, tmp_path):
    told = {}
    for name in ("D1", "D2"):
        folder = prepared(kinds, f"dense/{name}", "retriever", tmp_path / name)
        told[name] = json.loads((folder / "provenance.json").read_text())["trained_on"]
    assert "of the round before it" in told["D2"] and "of the round before it" not in told["D1"]
    copy = tmp_path / "copy"
    shutil.copytree(kinds / "dense", copy)
    (copy / "D2").rename(copy / "best")
    assert (
        told["D2"]
        == json.loads((prepared(copy, "best", "retriever", tmp_path) / "provenance.json").read_text())["trained_on"]
    )
    (copy / "best" / ROUND_FILE).unlink()
    with pytest.raises(InputError, match=f"{ROUND_FILE}: no such file"):
        prepared(copy, "best", "retriever", tmp_path)
    (copy / "best" / "training_stage.json").write_text('{"stage": 2}')  # as it was called before
    folder = prepared(copy, "best", "retriever", tmp_path)
    assert json.loads((folder / "provenance.json").read_text())["trained_on"] == told["D2"]


def edit(folder, change):
    record = json.loads((folder / "provenance.json").read_text())
    change(record)
    (folder / "provenance.json").write_text(json.dumps(record))


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda r: r["teachers"][0].update(revision="sha256:" + "0" * 64), "teacher: ranker at sha256:000"),
        (lambda r: r["negatives"].update(revision="sha256:" + "0" * 64), "negatives: candidates mined from"),
    ],
)
def test_another_teacher_or_other_data_than_recorded_are_found(kinds, change, told, tmp_path):
    folder = prepared(kinds, "distilled", "retriever", tmp_path)
    edit(folder, change)
    assert any(told in failure for failure in check_folder(folder))


def test_another_collection_than_recorded_is_found(kinds, tmp_path):
    folder = prepared(kinds, "dense/D2", "retriever", tmp_path)
    edit(folder, lambda record: record["collection"].update(revision="sha256:" + "0" * 64))
    assert any("collection: toy at sha256:000" in failure for failure in check_folder(folder))


@pytest.fixture(scope="module")
def on_hub(finished, tiny_model, tmp_path_factory):
    """A Hub with the teacher, and one with other weights under another name."""
    from hub_server import Hub

    with Hub() as hub:
        yield (
            hub,
            hub.commit("me/ranker", finished / "ranker", kind="model"),
            hub.commit("them/tiny", tiny_model, kind="model"),
        )
