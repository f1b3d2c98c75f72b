"""A training on rows of a plain dataset: seven lines, every form, in memory and as a stream, with the usual losses."""

import numpy as np
import pytest
import torch
from datasets import Dataset, DatasetDict, IterableDataset
from listwise_toy import losses, rows, text
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from r2anker_hf import CrossEncoderRanker, ListwiseConfig, ListwiseTrainer
from r2anker_hf.collection.collection import Corpus
from r2anker_hf.negatives.candidates import Candidates
from r2anker_hf.rankers.groups import as_groups
from r2anker_hf.rankers.listwise import TrainingGroups, group_measures
from r2anker_hf.records import Document, InputError

SETTINGS = {"learning_rate": 1e-3, "mixed_precision": "no", "use_cpu": True, "report_to": "none", "logging_steps": 1}
SETTINGS |= {"save_strategy": "no", "disable_tqdm": True, "dropout": 0.0, "per_device_train_batch_size": 4}
SETTINGS |= {"max_length": 32, "num_train_epochs": 1}


def config(folder="unused", **options):
    return ListwiseConfig(output_dir=str(folder), **SETTINGS | options)


def plain(row):
    """A toy row as texts: (query, positive, negatives)."""
    (listed,) = row["candidates"]
    positive = row["positive_ids"][0]
    return row["query"], text(positive), [text(doc_id) for doc_id in listed["doc_ids"] if doc_id != positive]


FORMS = {
    "list": lambda query, positive, negatives: {"query": query, "positive": positive, "negatives": negatives},
    "columns": lambda query, positive, negatives: {
        **{"query": query, "positive": positive},
        **{f"negative_{n}" if n else "negative": dict(enumerate(negatives)).get(n) for n in range(5)},
    },
    "labels": lambda query, positive, negatives: {
        **{"query": query, "documents": [*negatives, positive]},
        **{"labels": [0] * len(negatives) + [1], "id": "passed over"},
    },
}
COUNT = 8
GROUPS = [plain(row) for row in rows(COUNT)]
DATASETS = {name: Dataset.from_list([form(*group) for group in GROUPS]) for name, form in FORMS.items()}


def trained(model, folder, dataset, **options):
    trainer = ListwiseTrainer(model, config(folder, **options), dataset)
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def reference(tiny_model, tmp_path_factory):
    """Losses of the same groups as candidates, the rich form."""
    corpus = Corpus.from_documents([Document(f"d{n}", "", text(f"d{n}")) for n in range(10)])
    return losses(trained(str(tiny_model), tmp_path_factory.mktemp("rich"), Candidates(rows(COUNT), corpus, {})))


@pytest.mark.parametrize("form", FORMS)
def test_a_dataset_has_the_losses_of_candidates(tiny_model, tmp_path, reference, form):
    found = losses(trained(tiny_model, tmp_path, DATASETS[form]))
    assert len(reference) == 2 and found == pytest.approx(reference, abs=5e-5)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_has_the_losses_of_the_same_rows_in_memory(tiny_model, tmp_path, reference, workers):
    order = as_groups(DATASETS["list"], config(), "train_dataset").order(42, 0)
    stream = DATASETS["list"].select([row for _, row in order]).to_iterable_dataset()
    options = {"max_steps": 2, "dataloader_num_workers": workers and 1}
    assert losses(trained(tiny_model, tmp_path, stream, **options)) == pytest.approx(reference, abs=5e-5)


def test_a_stream_without_max_steps_is_refused():
    with pytest.raises(InputError, match="max_steps is missing: train_dataset is a stream"):
        ListwiseTrainer("no/model", config(), DATASETS["list"].to_iterable_dataset())


def test_a_stream_goes_round_again_and_may_not_know_its_columns(tiny_model, tmp_path):
    stream = IterableDataset.from_generator(lambda: iter(DATASETS["list"].to_list()))
    assert stream.column_names is None
    assert len(losses(trained(tiny_model, tmp_path, stream, max_steps=5))) == 5


@pytest.mark.parametrize("stream", [False, True])
def test_more_negatives_than_asked_for_are_drawn_anew_in_each_epoch(stream):
    row = {"query": "q", "positive": "p", "negatives": [f"n{number}" for number in range(9)]}
    args = config(num_negatives=3, max_steps=9)
    data = Dataset.from_list([row, {**row, "query": "r"}])
    drawn = []
    for epoch in range(4):
        groups = as_groups(data.to_iterable_dataset() if stream else data, args, "train_dataset")
        if stream:
            groups.set_epoch(epoch)
        found = list(groups) if stream else [groups[(epoch, row)] for row in range(2)]
        drawn += [tuple(one["documents"]) for one in found]
        assert all(one["labels"] == [1.0, 0.0, 0.0, 0.0] and one["documents"][0] == "p" for one in found)
    assert all(len(set(documents)) == 4 for documents in drawn) and len(set(drawn)) == 8
    whole = as_groups(data, args, "eval_dataset", whole=True)[(0, 1)]
    assert whole["documents"] == ["p", *row["negatives"]]
    memory = as_groups(data, args, "train_dataset")
    assert drawn == [tuple(memory[(epoch, row)]["documents"]) for epoch in range(4) for row in range(2)]


@pytest.mark.parametrize("precision", ["no", "bf16"])
def test_model_id_train_save_rank(tiny_model, tmp_path, precision):
    args = config(tmp_path, mixed_precision=precision)
    trainer = ListwiseTrainer(model=str(tiny_model), args=args, train_dataset=DATASETS["list"])
    trainer.train()
    trainer.save_model()
    ranker = CrossEncoderRanker.from_pretrained(tmp_path, device="cpu")
    documents = [text(f"d{number}") for number in range(5)]
    ranked = ranker.rank("cat", documents, top_k=2)
    assert ranked == trainer.ranker.rank("cat", documents, top_k=2) and ranker.encoder.max_length == 32
    assert "forward" in vars(trainer.model) or precision == "no"  # that of the training stays as it was


def by_path(folder):
    return {"model": folder}


def by_model(folder):
    return {"model": AutoModelForSequenceClassification.from_pretrained(folder)}


def by_model_and_tokenizer(folder):
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    model.name_or_path = model.config._name_or_path = ""
    return {"model": model, "processing_class": AutoTokenizer.from_pretrained(folder)}


def by_ranker(folder):
    return {"model": CrossEncoderRanker.from_pretrained(folder, max_length=32, device="cpu")}


@pytest.mark.parametrize("given", [by_path, by_model, by_model_and_tokenizer, by_ranker])
def test_a_model_may_be_given_in_any_form(tiny_model, tmp_path, reference, given):
    trainer = ListwiseTrainer(**given(tiny_model), args=config(tmp_path), train_dataset=DATASETS["list"])
    trainer.train()
    assert losses(trainer) == pytest.approx(reference, abs=5e-5)
    assert trainer.processing_class is trainer.ranker.tokenizer and trainer.ranker.encoder.max_length == 32


def test_a_fresh_head_comes_from_the_seed(tiny_model, tmp_path):
    AutoModelForSequenceClassification.from_pretrained(tiny_model).bert.save_pretrained(tmp_path / "body")
    AutoTokenizer.from_pretrained(tiny_model).save_pretrained(tmp_path / "body")
    heads = [
        ListwiseTrainer(tmp_path / "body", config(tmp_path, seed=seed), DATASETS["list"]).model.classifier.weight
        for seed in (1, 1, 2)
    ]
    assert torch.equal(heads[0], heads[1]) and not torch.equal(heads[0], heads[2])


@pytest.mark.parametrize("form", FORMS)
def test_evaluate_and_predict(tiny_model, tmp_path, form):
    trainer = ListwiseTrainer(tiny_model, config(tmp_path), eval_dataset=DATASETS[form])
    found, predicted = trainer.evaluate(), trainer.predict(DATASETS[form])
    assert len(predicted.predictions) == COUNT
    ranker = CrossEncoderRanker.from_pretrained(tiny_model, max_length=32, device="cpu")
    values, reciprocal = [], []
    for group, scores, labels in zip(GROUPS, predicted.predictions, predicted.label_ids, strict=True):
        row = FORMS[form](*group)
        documents = row.get("documents") or [group[1], *group[2]]
        assert scores == pytest.approx(ranker.predict([(group[0], one) for one in documents]), abs=1e-5)
        assert labels.tolist() == [float(one == group[1]) for one in documents]
        gold = scores[labels.argmax()]
        values.append(np.log(np.exp(scores - gold).sum()))
        reciprocal.append(1 / (scores >= gold).sum())
    assert found["eval_loss"] == pytest.approx(np.mean(values), abs=1e-4)
    assert found["eval_MRR@10"] == pytest.approx(np.mean(reciprocal)) == predicted.metrics["test_MRR@10"]
    assert 0 < found["eval_nDCG@10"] < 1
    stream = trainer.evaluate(DATASETS[form].to_iterable_dataset())
    assert stream["eval_loss"] == pytest.approx(found["eval_loss"]) and stream["eval_MRR@10"] == found["eval_MRR@10"]


def test_rows_without_labels_can_be_scored_only(tiny_model, tmp_path):
    trainer = ListwiseTrainer(tiny_model, config(tmp_path))
    data = Dataset.from_list(
        [{"query": "cat", "documents": ["a dog", "the cat"]}, {"query": "dog", "documents": ["a"]}]
    )
    found = trainer.predict(data)
    assert [len(scores) for scores in found.predictions] == [2, 1] and found.label_ids is None
    assert not {"test_loss", "test_MRR@10", "test_nDCG@10"} & found.metrics.keys()
    with pytest.raises(InputError, match="train_dataset has the columns query, documents, but a row has"):
        ListwiseTrainer("no/model", config(), data)


def test_evaluations_choose_the_checkpoint_and_leave_the_log_of_training_alone(tiny_model, tmp_path):
    options = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1}
    options |= {"load_best_model_at_end": True, "metric_for_best_model": "MRR@10", "greater_is_better": True}
    settings = config(tmp_path, **options)
    trainer = ListwiseTrainer(tiny_model, settings, DATASETS["list"], eval_dataset={"dev": DATASETS["labels"]})
    settings.metric_for_best_model = "dev_MRR@10"
    trainer.train()
    logged = [entry["eval_dev_MRR@10"] for entry in trainer.state.log_history if "eval_dev_MRR@10" in entry]
    assert len(logged) == 2 and trainer.state.best_metric == max(logged)
    alone = ListwiseTrainer(tiny_model, config(tmp_path / "alone"), DATASETS["list"])
    alone.train()
    names = ("loss", "gold_rank", "groups_won", "score_spread", "padding_share")
    lines, expected = (
        [[entry[name] for name in names] for entry in one.state.log_history if "loss" in entry]
        for one in (trainer, alone)
    )
    assert lines == expected


def test_measures_of_groups_are_arithmetic():
    scores = np.array([[3.0, 2.0, 1.0], [1.0, 1.0, -100.0]])
    labels, mask = np.array([[0.0, 1.0, 2.0], [1.0, 0.0, -100.0]]), np.array([[1, 1, 1], [1, 1, -100]])
    prediction = type("Prediction", (), {"predictions": scores, "label_ids": (labels, mask)})
    found = group_measures(prediction)
    gain = (1 / np.log2(3) + 2 / np.log2(4)) / (2 + 1 / np.log2(3))
    assert found["nDCG@10"] == pytest.approx((gain + 1 / np.log2(3)) / 2)
    assert found["MRR@10"] == pytest.approx((1 / 2 + 1 / 2) / 2)  # an equal score wins nothing
    assert group_measures(prediction, "ranker") == {}


def test_labels_may_be_a_teacher_s_scores(tiny_model, tmp_path):
    data = [
        {"query": q, "documents": [p, *n], "labels": [2.5, *[-0.5 * i for i, _ in enumerate(n)]]} for q, p, n in GROUPS
    ]
    trainer = trained(tiny_model, tmp_path, data, objective="ranker", num_train_epochs=4)
    assert losses(trainer)[-1] < losses(trainer)[0]


WRONG = [
    ([{"question": "q", "answer": "a"}], {}, "train_dataset has the columns question, answer, but a row has query, "),
    ([{"query": "q", "positive": "p"}], {}, "has the columns query, positive, but a row has query, positive and"),
    ([], {}, "train_dataset has no row"),
    (["a text"], {}, "train_dataset has rows of str, but a row has query"),
    (DatasetDict(train=DATASETS["list"]), {}, "train_dataset has the splits train: give one of them"),
    (DATASETS["list"], {"policy": "softmax"}, "policy 'softmax': needs candidates with lists of retrievers"),
    (DATASETS["list"], {"objective": "ranker"}, "objective is 'ranker', but train_dataset has no scores"),
    (DATASETS["labels"], {"objective": "retrievers"}, "objective 'retrievers': needs candidates"),
    (DATASETS["labels"], {"objective": "ranker", "label_weight": 0.5}, "label_weight 0.5: needs candidates"),
]


@pytest.mark.parametrize(("data", "options", "message"), WRONG)
def test_other_data_is_refused_before_a_model_is_loaded(data, options, message):
    with pytest.raises(InputError, match=message) as caught:
        ListwiseTrainer("no/model", config(**options), data)
    assert "\n" not in str(caught.value)


ROWS = [
    {"query": None, "positive": "p", "negatives": ["n"]},
    {"query": "q", "positive": "p", "negatives": ["n", None]},
    {"query": "q", "positive": "p", "negatives": None},
    {"query": "q", "documents": [], "labels": []},
    {"query": "q", "documents": ["a", "b"], "labels": [1]},
    {"query": "q", "documents": ["a"], "labels": [None]},
]


@pytest.mark.parametrize("row", ROWS)
def test_a_broken_row_is_named(row):
    groups = as_groups([row], config(), "train_dataset")
    with pytest.raises(InputError, match="train_dataset, query .*: a row must hold texts only, and a number per"):
        groups[(0, 0)]


def test_a_measure_and_an_eval_dataset_are_refused_together():
    with pytest.raises(InputError, match="measure and eval_dataset are both given"):
        ListwiseTrainer("no/model", config(), DATASETS["list"], measure=dict, eval_dataset=DATASETS["list"])


def test_candidates_and_their_groups_are_taken_as_they_are():
    groups = TrainingGroups(rows(3), text, config())
    assert as_groups(groups, config(), "train_dataset") is groups
