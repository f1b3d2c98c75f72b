"""The trainer's loss is that of the whole batch however it is split, and an interrupted training ends the same."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from listwise_toy import gradient_norms, losses, rows, text, trainer
from torch.utils.data import DataLoader
from transformers import AutoModelForSequenceClassification

from r2anker_hf.models.attention import matmul_attention, use_matmul_attention
from r2anker_hf.models.trainers import EpochSampler
from r2anker_hf.rankers.collator import GroupedListwiseCollator, PairEncoder
from r2anker_hf.rankers.listwise import ListwiseConfig, TrainingGroups, score_groups
from r2anker_hf.rankers.losses import kl_divergence, softmax_cross_entropy
from r2anker_hf.rankers.ranker import CrossEncoderRanker
from r2anker_hf.records import InputError

BATCHES = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "dropout": 0.0}


@pytest.fixture(scope="module")
def whole(tiny_model, tmp_path_factory):
    """A training in batches of 8."""
    trained = trainer(tiny_model, str(tmp_path_factory.mktemp("reference")), **BATCHES)
    trained.train()
    return trained


@pytest.fixture(scope="module")
def reference(whole):
    """Losses of batch 8."""
    return losses(whole)


def test_training_learns(reference):
    assert len(reference) == 6 and reference[-1] < reference[0]


@pytest.mark.parametrize(("size", "steps"), [(1, 8), (4, 2)])
def test_batch_size_and_accumulation_can_be_exchanged(tiny_model, tmp_path, whole, size, steps):
    options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "dropout": 0.0}
    trained = trainer(tiny_model, str(tmp_path), **options)
    trained.train()
    assert losses(trained) == pytest.approx(losses(whole), abs=5e-5)
    assert gradient_norms(trained) == pytest.approx(gradient_norms(whole), rel=1e-3)


def test_two_processes_have_the_loss_of_one(tiny_model, tmp_path, reference):
    options = {"per_device_train_batch_size": 4, "dropout": 0.0}
    # accelerate's own launcher starts several processes on CPUs through MPI alone; torch's does without
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = Path(__file__).with_name("listwise_toy.py")
    command = [*launch, str(script), str(tiny_model), str(tmp_path), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "losses.json").read_text()) == pytest.approx(reference, abs=5e-5)


def test_workers_change_nothing(tiny_model, tmp_path, reference):
    trained = trainer(tiny_model, str(tmp_path), dataloader_num_workers=2, **BATCHES)
    trained.train()
    assert losses(trained) == pytest.approx(reference, abs=1e-6)


def test_resuming_gives_the_weights_of_an_unbroken_run(tiny_model, tmp_path):
    options = {**BATCHES, "dropout": 0.1, "save_strategy": "steps", "save_steps": 4, "eval_strategy": "steps"}
    whole = trainer(tiny_model, str(tmp_path), eval_steps=4, **options)
    whole.train()
    again = trainer(tiny_model, str(tmp_path), eval_steps=4, **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))  # in the middle of the second epoch
    assert losses(again)[-2:] == losses(whole)[-2:]
    for name, weights in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], weights), name


def test_dev_measure_is_logged(tiny_model, tmp_path):
    trained = trainer(tiny_model, str(tmp_path), eval_strategy="steps", eval_steps=3, **BATCHES)
    trained.train()
    logged = [entry["eval_MRR@10"] for entry in trained.state.log_history if "eval_MRR@10" in entry]
    assert logged == [0.5, 0.5]


def test_a_warm_start_learns_the_retrievers_order_without_judgements(tiny_model, tmp_path):
    trained = trainer(tiny_model, str(tmp_path), objective="retrievers", num_train_epochs=4, **BATCHES)
    groups = trained.train_dataset
    for row in groups.rows:
        (ranked,) = row["candidates"]
        ranked["scores"] = [-float(i) for i, _ in enumerate(ranked["doc_ids"])]
        row["positive_ids"] = []  # nothing may read them
    item = groups[(0, 3)]
    assert len(item["labels"]) == len(item["documents"]) and sum(item["labels"]) == pytest.approx(0, abs=1e-5)
    trained.train()
    assert losses(trained)[-1] < losses(trained)[0]


def test_a_warm_start_learns_another_ranker_s_scores_of_unlabelled_pairs(tiny_model, tmp_path):
    options = {"objective": "ranker", "teacher_ranking": "old", "teacher_temperature": 1.0, "num_train_epochs": 4}
    trained = trainer(tiny_model, str(tmp_path), **options, **BATCHES)
    groups = trained.train_dataset
    for row in groups.rows:
        doc_ids = [f"d{number}" for number in range(10)]
        row["positive_ids"] = []  # nothing may read them
        row["rankings"] = [{"ranker": "old", "doc_ids": doc_ids, "scores": [10.0 - 2 * n for n in range(10)]}]
    item = groups[(0, 3)]
    scores = {text(f"d{number}"): 10.0 - 2 * number for number in range(10)}
    assert item["labels"] == [scores[document] for document in item["documents"]] and len(item["labels"]) == 5
    trained.train()
    assert losses(trained)[-1] < losses(trained)[0]
    groups.config.teacher_ranking = "new"
    with pytest.raises(InputError, match="hold no scores of a teacher 'new'; choices: old"):
        groups[(0, 3)]


def test_a_warm_start_can_leave_out_what_a_pseudo_query_was_cut_out_of():
    options = {"objective": "retrievers", "num_negatives": 9, "mixed_precision": "no", "use_cpu": True}
    row = {**rows()[0], "positive_ids": ["d2"]}
    row["candidates"] = [{"retriever": "bm25", "doc_ids": ["d2", "d4", "d6"], "scores": [9.0, 2.0, 1.0]}]
    for left_out, expected in ((False, {"d2", "d4", "d6"}), (True, {"d4", "d6"})):
        config = ListwiseConfig(output_dir="unused", leave_out_positives=left_out, **options)
        documents = TrainingGroups([row], str, config)[(0, 0)]["documents"]
        assert set(documents) == expected


def test_frozen_embeddings_stay(tiny_model, tmp_path):
    trained = trainer(tiny_model, str(tmp_path), freeze_embeddings=True, **BATCHES)
    before = trained.model.get_input_embeddings().weight.clone()
    trained.train()
    assert torch.equal(trained.model.get_input_embeddings().weight, before)


def test_groups_of_a_loader_depend_on_the_epoch_in_the_index():
    config = ListwiseConfig(output_dir="unused", num_negatives=3, mixed_precision="no", use_cpu=True)
    groups = TrainingGroups(rows(), text, config)
    first, again, later = groups[(0, 5)], groups[(0, 5)], groups[(1, 5)]
    assert first == again and first["labels"] == [1.0, 0.0, 0.0, 0.0][: len(first["documents"])]
    assert first["documents"][0] == later["documents"][0] == text("d5")
    assert [groups[(epoch, 3)] for epoch in range(4)] != [groups[(0, 3)]] * 4


@pytest.mark.parametrize("workers", [0, 2])
def test_every_query_once_an_epoch_and_whole_batches(workers):
    sampler = EpochSampler(size=10, whole_batch=4, seed=7)
    drawn = [list(iter(sampler)) for _ in range(2)]
    sampler.set_epoch(1)
    other = list(iter(sampler))
    assert drawn[0] == drawn[1] and len(other) == 12
    assert sorted(index for _, index in other[:10]) == list(range(10)) and other[10:] == other[:2]
    assert [index for _, index in other] != [index for _, index in drawn[0]]
    loader = DataLoader(range(100), sampler=[index for _, index in other], num_workers=workers)
    assert len(list(loader)) == 12


def test_scores_of_a_group_are_those_of_its_pairs_one_by_one(tiny_model):
    ranker = CrossEncoderRanker.from_pretrained(tiny_model, device="cpu")
    features = [
        {"query": "cat", "documents": [text(f"d{i}") for i in range(size)], "labels": [1.0] * size}
        for size in (1, 4, 2)
    ]
    batch = GroupedListwiseCollator(PairEncoder(ranker.tokenizer))(features)
    for tokens in (1, 40, 4096):
        with torch.inference_mode():
            scores = score_groups(ranker.model, batch, tokens)
        for row, feature in enumerate(features):
            singles = ranker.score([("cat", document) for document in feature["documents"]])
            assert scores[row, : len(singles)].tolist() == pytest.approx(singles.tolist(), abs=1e-5)
            assert scores[row, len(singles) :].abs().sum() == 0


def test_matmul_attention_is_the_model_s_own(tiny_model):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model).eval()
    inputs = {"input_ids": torch.randint(5, 60, (3, 20)), "attention_mask": torch.ones(3, 20, dtype=torch.long)}
    inputs["attention_mask"][1:, 7:] = 0
    expected = model(**inputs).logits
    assert expected.std() > 1e-3
    use_matmul_attention(model)
    assert model.config._attn_implementation == "r2anker_matmul"
    assert torch.allclose(model(**inputs).logits, expected, atol=1e-5)


def test_matmul_attention_has_the_gradient_of_pytorch_s():
    query, key, value = (torch.randn(2, 3, 5, 4, requires_grad=True) for _ in range(3))
    mask = torch.ones(2, 1, 5, 5, dtype=torch.bool)
    mask[1, :, :, 3:] = False
    ours, _ = matmul_attention(torch.nn.Module(), query, key, value, mask)
    theirs = torch.nn.functional.scaled_dot_product_attention(query, key, value, mask).transpose(1, 2)
    assert torch.allclose(ours, theirs, atol=1e-6)
    weights = torch.randn_like(ours)
    gradients = [torch.autograd.grad((out * weights).sum(), (query, key, value)) for out in (ours, theirs)]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(*gradients, strict=True))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"policy": "onion"}, "choices: union"),
        ({"objective": "loss"}, "no objective 'loss'; choices: labels, retrievers, ranker"),
        ({"teacher_temperature": 0.0}, "teacher_temperature is 0.0"),
        ({"num_negatives": 0}, "num_negatives is 0"),
        ({"mixed_precision": "half"}, "choices: auto, no, bf16, fp16"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        ListwiseConfig(output_dir="unused", **options)


def test_defaults_are_the_paper_s():
    config = ListwiseConfig(output_dir="unused", use_cpu=True)
    assert (config.learning_rate, config.per_device_train_batch_size, config.num_train_epochs) == (1e-5, 12, 2)
    assert (config.num_negatives, config.depth, config.policy, config.seed) == (40, 200, "union", 42)
    assert (config.warmup_steps, config.weight_decay) == (0.1, 0.1)


@pytest.mark.parametrize("weight", [0.0, 0.25, 1.0])
def test_labels_and_teacher_share_the_loss(tiny_model, tmp_path, weight):
    options = {"objective": "ranker", "teacher_ranking": "old", "teacher_temperature": 2.0, "label_weight": weight}
    trained = trainer(tiny_model, str(tmp_path), **options, **BATCHES)
    groups = trained.train_dataset
    for row in groups.rows:
        row["rankings"] = [
            {"ranker": "old", "doc_ids": [f"d{n}" for n in range(10)], "scores": [float(n) for n in range(10)]}
        ]
    batch = trained.data_collator([groups[(0, index)] for index in range(4)])
    assert batch["relevant"].sum(dim=1).tolist() == ([1.0] * 4 if weight else [0.0] * 4)
    trained.model.eval()
    scores = trained.compute_loss(trained.model, batch, return_outputs=True)[1]["scores"]
    taught = kl_divergence(scores, batch["labels"], batch["mask"], temperature=2.0).mean()
    judged = softmax_cross_entropy(scores, batch["relevant"], batch["mask"]).mean()
    assert trained.compute_loss(trained.model, batch).item() == pytest.approx(
        ((1 - weight) * taught + weight * judged).item(), abs=1e-6
    )


def test_a_label_weight_is_a_share():
    for weight in (-0.1, 1.1, float("nan")):
        with pytest.raises(InputError, match="label_weight is .*, but must be at least 0 and at most 1"):
            ListwiseConfig(output_dir="unused", label_weight=weight)


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"label_weight": 0.5}, "label_weight is given, but objective labels has no teacher"),
        ({"teacher_ranking": "fused"}, "teacher_ranking is given, but objective labels"),
        ({"objective": "retrievers", "label_weight": 0.5, "leave_out_positives": True}, "give one"),
    ],
)
def test_a_teacher_s_options_are_refused_where_nothing_reads_them(given, told):
    from r2anker_hf.rankers.options import ListwiseOptions

    with pytest.raises(InputError, match=told):
        ListwiseOptions(**given)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"retrievers": ["bm25"], "max_score": {"bm25": -1e9}}, "no query has a negative"),
        ({"objective": "ranker", "teacher_ranking": "own"}, "query 'q3' has no scored document"),
    ],
)
def test_a_training_without_anything_to_tell_apart_is_refused(options, told, tmp_path):
    made = rows(8)
    for number, row in enumerate(made):
        ids = [] if number == 3 else row["candidates"][0]["doc_ids"]
        row["rankings"] = [{"ranker": "own", "doc_ids": ids, "scores": [1.0] * len(ids)}]
    config = ListwiseConfig(output_dir=str(tmp_path), use_cpu=True, report_to="none", **options)
    with pytest.raises(InputError, match=told):
        TrainingGroups(made, text, config).check()


@pytest.mark.parametrize("objective", ["ranker", "retrievers"])
@pytest.mark.parametrize(
    "given", [{"retrievers": ["bm25"]}, {"policy": "softmax"}, {"rank_from": 3}, {"absolute_margin": 0.1}]
)
def test_an_objective_refuses_what_its_draw_would_pass_over(objective, given):
    from r2anker_hf.rankers.options import ListwiseOptions

    assert ListwiseOptions(**given).objective == "labels"
    with pytest.raises(InputError, match=f"{next(iter(given))} is given, but objective {objective} does not read it"):
        ListwiseOptions(objective=objective, **given)
