"""Protects distillation: the loss as arithmetic, whose score is whose, and that students learn the teacher's order."""

import math
import random

import pytest
import torch
from datasets import Dataset

from r2anker_hf.rankers.losses import kl_divergence
from r2anker_hf.records import InputError
from r2anker_hf.retrievers.distillation import DistillationLoss, DistillationTraining
from r2anker_hf.retrievers.training import contrastive_loss, load_dense, load_splade, train, write_tuples

SMALL = {"max_length": 32, "per_device_train_batch_size": 4, "mixed_precision": "no", "logging_steps": 1}


class Student(torch.nn.Module):
    """Only says how its vectors are compared."""

    def __init__(self, similarity_fn_name="dot"):
        super().__init__()
        self.similarity_fn_name = similarity_fn_name


def loss_of(embeddings, labels, similarity="dot", **options):
    settings = DistillationTraining(**SMALL, num_negatives=len(embeddings) - 2, **options)
    loss = DistillationLoss(Student(similarity), settings)
    return loss.compute_loss_from_embeddings([torch.tensor(e) for e in embeddings], torch.tensor(labels))


# One query (1, 0); its positive scores 2 and its negatives 1 and 0 by inner product.
QUERY, POSITIVE, NEGATIVES = [[1.0, 0.0]], [[2.0, 0.0]], ([[1.0, 3.0]], [[0.0, 1.0]])
TEACHER = [[1.0, 3.0, 0.0]]


def softmax(*values):
    powers = [math.exp(value) for value in values]
    return [power / sum(powers) for power in powers]


@pytest.mark.parametrize(("student_t", "teacher_t"), [(1.0, 1.0), (0.5, 1.0), (1.0, 2.0)])
def test_kl_is_arithmetic(student_t, teacher_t):
    p = softmax(1 / teacher_t, 3 / teacher_t, 0)
    student = softmax(2 / student_t, 1 / student_t, 0)
    expected = sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, student, strict=True))
    options = {"temperature": student_t, "teacher_temperature": teacher_t}
    assert loss_of([QUERY, POSITIVE, *NEGATIVES], TEACHER, **options).item() == pytest.approx(expected, rel=1e-5)


def test_kl_of_cosines_divides_them_by_a_twentieth_and_nothing_else():
    cosines = [1.0, 1 / math.sqrt(10), 0.0]
    p, student = softmax(1, 3, 0), softmax(*(20 * value for value in cosines))
    expected = sum(a * (math.log(a) - math.log(b)) for a, b in zip(p, student, strict=True))
    found = loss_of([QUERY, POSITIVE, *NEGATIVES], TEACHER, "cosine")
    assert found.item() == pytest.approx(expected, rel=1e-5)


def test_kl_is_the_ranker_s_own():
    generator = torch.Generator().manual_seed(0)
    embeddings = [torch.randn(5, 4, generator=generator) for _ in range(5)]
    labels = torch.randn(5, 4, generator=generator) * 3
    scores = torch.stack([(embeddings[0] * e).sum(dim=-1) for e in embeddings[1:]], dim=1)
    expected = kl_divergence(scores, labels, torch.ones_like(labels)).mean()
    settings = DistillationTraining(**SMALL, num_negatives=3)
    found = DistillationLoss(Student(), settings).compute_loss_from_embeddings(embeddings, labels)
    torch.testing.assert_close(found, expected)


def test_margin_mse_is_arithmetic():
    # margins of the student 2-1 and 2-0, of the teacher (1-3)/2 and (1-0)/2
    expected = ((1 - -1) ** 2 + (2 - 0.5) ** 2) / 2
    found = loss_of([QUERY, POSITIVE, *NEGATIVES], TEACHER, loss="margin_mse", teacher_temperature=2.0)
    assert found.item() == pytest.approx(expected, rel=1e-6)


def test_a_contrastive_term_is_added_with_its_weight():
    embeddings = [QUERY, POSITIVE, *NEGATIVES]
    alone = loss_of(embeddings, TEACHER).item()
    contrast = -math.log(softmax(2, 1, 0)[0])  # one query: no other passages in the batch
    assert loss_of(embeddings, TEACHER, contrastive_weight=0.2).item() == pytest.approx(alone + 0.2 * contrast)
    settings = DistillationTraining(**SMALL, num_negatives=2)
    tensors = [torch.tensor(e) for e in embeddings]
    assert contrastive_loss(Student(), settings).compute_loss_from_embeddings(tensors, None).item() == pytest.approx(
        contrast, rel=1e-5
    )


def test_in_batch_negatives_only_with_a_contrastive_term():
    assert not DistillationTraining(**SMALL).in_batch_negatives
    assert DistillationTraining(**SMALL, contrastive_weight=0.2).in_batch_negatives
    assert DistillationTraining(**SMALL, loss="contrastive").in_batch_negatives


def test_defaults_are_those_of_appendix_c():
    settings = DistillationTraining()
    assert (settings.learning_rate, settings.per_device_train_batch_size, settings.num_train_epochs) == (5e-5, 16, 4)
    assert (settings.num_negatives, settings.loss, settings.teacher_temperature) == (10, "kl", 1.0)


# --- whose score is whose


def score(doc_id):
    """The teacher's logit of a document: another one for each."""
    return int(doc_id[1:]) / 8


def shuffled_row(number, order):
    """A query with two relevant documents and two lists, everything in an order of its own."""
    documents = [f"d{number * 20 + i}" for i in range(12)]
    gold, pool = documents[:2], documents[2:]
    lists = [pool[:6] + gold[:1], pool[4:] + gold]
    ranking = order.sample(documents, len(documents))
    return {
        "query_id": f"q{number}",
        "query": f"query {number}",
        "positive_ids": order.sample(gold, 2),
        "candidates": [
            {"retriever": name, "doc_ids": order.sample(ids, len(ids)), "scores": [1.0] * len(ids)}
            for name, ids in zip(("bm25", "dense"), lists, strict=True)
        ],
        "rankings": [
            {"ranker": "other", "doc_ids": documents, "scores": [-1.0] * len(documents)},
            {"ranker": "teacher", "doc_ids": ranking, "scores": [score(doc_id) for doc_id in ranking]},
        ],
    }


def tuples_of(rows, path, **options):
    settings = DistillationTraining(**{**SMALL, "num_negatives": 4, "num_train_epochs": 3, **options})
    write_tuples(rows, lambda doc_id: f"text of {doc_id}", settings, path, "teacher")
    return Dataset.from_file(str(path))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("policy", [{}, {"policy": "union_dedup"}, {"policy": "single", "retrievers": ["dense"]}])
def test_gold_is_gold_and_every_score_its_document_s_in_any_order(seed, policy, tmp_path):
    rows = [shuffled_row(number, random.Random(f"{seed}/{number}")) for number in range(6)]
    tuples = tuples_of(rows, tmp_path / "t.arrow", **policy)
    assert len(tuples) == 18 and tuples.features["label"].feature.dtype == "float32"
    for one in tuples:
        number = int(one["query"].split()[1])
        gold = {f"text of d{number * 20 + i}" for i in (0, 1)}
        passages = [one["positive"], *(one[f"negative_{i}"] for i in range(1, 5))]
        assert passages[0] in gold and gold.isdisjoint(passages[1:])
        assert one["label"] == [score(passage.removeprefix("text of ")) for passage in passages]


def test_the_order_of_the_ranking_changes_nothing(tmp_path):
    row = shuffled_row(0, random.Random(0))
    once = tuples_of([row], tmp_path / "once.arrow")
    teacher = row["rankings"][1]
    turned = {**teacher, "doc_ids": teacher["doc_ids"][::-1], "scores": teacher["scores"][::-1]}
    again = tuples_of([{**row, "rankings": [turned]}], tmp_path / "again.arrow")
    assert list(once) == list(again)


def test_what_the_teacher_did_not_score_is_named(tmp_path):
    row = shuffled_row(0, random.Random(0))
    with pytest.raises(InputError, match="hold no scores of a teacher 'teacher'; choices: other"):
        tuples_of([{**row, "rankings": row["rankings"][:1]}], tmp_path / "t.arrow")
    short = {"ranker": "teacher", "doc_ids": row["positive_ids"], "scores": [1.0, 2.0]}
    with pytest.raises(InputError, match=r"query 'q0': the teacher 'teacher' did not score document 'd\d+'"):
        tuples_of([{**row, "rankings": [short]}], tmp_path / "t.arrow")


def test_bad_settings_are_named():
    for options, message in [
        ({"loss": "kd"}, "no loss 'kd'; choices: kl, margin_mse, contrastive"),
        ({"teacher_temperature": 0.0}, "teacher_temperature is 0.0, but must be at least 1e-06"),
        ({"contrastive_weight": -1.0}, "contrastive_weight is -1.0, but must be at least 0"),
        ({"num_negatives": 0}, "num_negatives is 0"),
        ({"policy": "best"}, "no sampling policy 'best'"),
    ]:
        with pytest.raises(InputError, match=message):
            DistillationTraining(**options)


# --- students learn


COLOURS = ("red", "green", "blue")


def rows_of_colours():
    """The teacher prefers one colour for each thing: not what the words say, nor what is labelled relevant."""
    rows = []
    for number, thing in enumerate(("fish", "bird", "tree", "house", "cat", "dog")):
        passages = [f"{colour} {thing}" for colour in COLOURS]
        wanted = COLOURS[number % 3]
        rows.append(
            {
                "query_id": f"q{number}",
                "query": thing,
                "positive_ids": [passages[(number + 1) % 3]],  # the label is wrong
                "candidates": [{"retriever": "bm25", "doc_ids": passages, "scores": [3.0, 2.0, 1.0]}],
                "rankings": [
                    {
                        "ranker": "teacher",
                        "doc_ids": passages,
                        "scores": [4.0 * passage.startswith(wanted) for passage in passages],
                    }
                ],
            }
        )
    return rows


def divergence(model, tuples, settings):
    """KL of the student's scores from the teacher's over all tuples."""
    vectors = [model.encode(list(tuples[name]), convert_to_tensor=True) for name in tuples.column_names[:-1]]
    vectors = [vector.to_dense() if vector.is_sparse else vector for vector in vectors]
    with torch.no_grad():
        loss = DistillationLoss(model, settings)
        return loss.compute_loss_from_embeddings(vectors, torch.tensor(tuples["label"][:])).item()


@pytest.mark.parametrize("loss", ["kl", "margin_mse"])
def test_a_dense_student_learns_the_teacher_s_order(loss, tiny_model, tmp_path):
    options = {"learning_rate": 2e-3, "num_negatives": 2, "num_train_epochs": 80, "loss": loss}
    settings = DistillationTraining(**SMALL, **options)
    write_tuples(rows_of_colours(), str, settings, tmp_path / "t.arrow", "teacher")
    tuples, model = Dataset.from_file(str(tmp_path / "t.arrow")), load_dense(tiny_model, None, settings)
    before = divergence(model, tuples, settings)
    state = train(model, tuples, settings, tmp_path / "checkpoints", DistillationLoss(model, settings))
    assert divergence(model, tuples, settings) < 0.5 * before
    assert state.global_step == 6 * 80 // 4
    # against the labels: the teacher's favourite is ahead of the "positive"
    found = model.similarity(model.encode(["fish"]), model.encode(["red fish", "green fish"]))[0]
    assert found[0] > found[1]


def test_a_sparse_student_learns_the_teacher_s_order(tiny_model, tmp_path):
    options = {"learning_rate": 2e-3, "num_negatives": 2, "num_train_epochs": 120, "head_steps": 30}
    settings = DistillationTraining(**SMALL, **options)
    write_tuples(rows_of_colours(), str, settings, tmp_path / "t.arrow", "teacher")
    tuples = Dataset.from_file(str(tmp_path / "t.arrow"))
    passages = ["red fish", "blue bird tree", "green stone house", "the cat and the dog"]
    model = load_splade(tiny_model, None, settings, passages)
    before = divergence(model, tuples, settings)
    train(model, tuples, settings, tmp_path / "checkpoints", DistillationLoss(model, settings))
    assert divergence(model, tuples, settings) < 0.5 * before
