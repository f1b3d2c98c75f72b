"""A long document is read in overlapping windows, and its best one counts: in scoring, reranking and training."""

import copy
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from listwise_toy import trainer
from rerank_toy import collection, first_stage
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from r2anker_hf.models.padding_free import is_padding_free
from r2anker_hf.publishing.compat import _check_ranker
from r2anker_hf.publishing.golden import check_golden, write_golden
from r2anker_hf.rankers.collator import GroupedListwiseCollator, PairEncoder
from r2anker_hf.rankers.losses import kl_divergence, softmax_cross_entropy
from r2anker_hf.rankers.ranker import CrossEncoderRanker
from r2anker_hf.records import InputError

LENGTH = 16  # of a pair: 3 special tokens, and 13 for both texts
TEXTS = ("the cat", "", "a dog and a fish", *(f"{name} house river stone " * 8 for name in ("cat", "dog", "bread")))
PAIRS = [(query, text) for query in ("cat", "what is the name of the fish", "red " * 20) for text in TEXTS]


@pytest.fixture(scope="module", params=["right", "left"])
def tokenizer(request, tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model, truncation_side=request.param)


def windows_of(tokenizer, query, document, most, length=LENGTH):
    """The windows of a document as texts of a pair, by the rule in words: of full room, half of it further each."""
    cut = tokenizer([query], [document], truncation=True, max_length=length)
    query, document = (tokenizer.encode(text, add_special_tokens=False) for text in (query, document))
    turn = slice(None, None, -1 if tokenizer.truncation_side == "left" else 1)
    room, of_query = (cut.sequence_ids(0).count(part) for part in (1, 0))
    query, document = query[turn][:of_query][turn], document[turn]
    windows, start = [document[:room][turn]], 0
    while start + room < len(document) and len(windows) < most:
        start = min(start + -(-room // 2), len(document) - room)
        windows.append(document[start : start + room][turn])
    return [(query, window) for window in windows]


def ids_of(tokenizer, query, window):
    return [tokenizer.cls_token_id, *query, tokenizer.sep_token_id, *window, tokenizer.sep_token_id]


@settings(max_examples=60, deadline=None)
@example(query=200, document=150, length=128, most=4)  # both are cut
@example(query=150, document=150, length=128, most=4)
@example(query=0, document=26, length=16, most=256)
@given(query=st.integers(0, 40), document=st.integers(0, 90), length=st.integers(8, 40), most=st.integers(1, 9))
def test_windows_are_those_of_the_rule(tokenizer, query, document, length, most):
    words = "the cat and a dog what is red".split()
    query, document = (" ".join(words[n * n % 7] for n in range(count)) for count in (query, document))
    expected = [ids_of(tokenizer, *pair) for pair in windows_of(tokenizer, query, document, most, length)]
    encoder = PairEncoder(tokenizer, length, max_windows=most)
    tokens = [np.array(tokenizer.encode(text, add_special_tokens=False), dtype=np.int64) for text in (query, document)]
    sizes = [np.array([len(part)]) for part in tokens]
    limit = encoder.document_limit(sizes[0])
    stored = tokens[1][-limit:] if tokenizer.truncation_side == "left" else tokens[1][:limit]
    for pair in ((query, document), tokens, (tokens[0], stored)):
        counts, lengths, inputs = encoder.windowed(*([text] for text in pair))
        found = [row[:size].tolist() for row, size in zip(inputs["input_ids"], lengths.tolist(), strict=True)]
        assert found == expected and counts.tolist() == [len(expected)]
        assert encoder([pair[0]], [pair[1]])["input_ids"] == expected[:1]  # as one window
    assert encoder.windows(*sizes).tolist() == [len(expected)]
    assert {len(window) for window in expected} == set(encoder.lengths(*sizes).tolist())


def test_enough_windows_read_all_of_a_document(tokenizer):
    encoder = PairEncoder(tokenizer, LENGTH, max_windows=50)
    document = np.arange(5, 5 + 61)
    _, _, inputs = encoder.windowed([[5, 6]], [document])
    windows = [set(row[4:-1].tolist()) for row in inputs["input_ids"]]
    assert set.union(*windows) == {*document.tolist()} and {len(window) for window in windows} == {11}
    assert all(len(one & other) >= 5 for one, other in pairwise(windows))


@pytest.mark.parametrize("value", [0, -1, 257, 10**9])
def test_senseless_numbers_of_windows_are_refused(tiny_model, value):
    message = f"max_windows is {value}, but must be at least 1 and at most 256"
    with pytest.raises(InputError, match=message):
        CrossEncoderRanker.from_pretrained(tiny_model, max_windows=value, device="cpu")
    ranker = CrossEncoderRanker.from_pretrained(tiny_model, device="cpu")
    with pytest.raises(InputError, match=message):
        ranker.rerank(first_stage(), collection(), max_windows=value)


def best_logits(model, tokenizer, pairs, most, length=LENGTH):
    """[pairs] the highest logit of each pair's windows, one plain call of transformers for each window."""
    scores = []
    for pair in pairs:
        logits = []
        for query, window in windows_of(tokenizer, *pair, most, length):
            ids = torch.tensor([ids_of(tokenizer, query, window)])
            types = torch.tensor([[0] * (len(query) + 2) + [1] * (len(window) + 1)])
            logits.append(model(input_ids=ids, token_type_ids=types).logits[0, 0])
        scores.append(torch.stack(logits).max())
    return torch.stack(scores)


@pytest.mark.parametrize("most", [1, 2, 5])
def test_a_document_has_the_score_of_its_best_window(tiny_model, tokenizer, most, monkeypatch):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model).eval()
    with torch.no_grad():
        expected = best_logits(model, tokenizer, PAIRS, most)
    ranker = CrossEncoderRanker(model, tokenizer, LENGTH, batch_size=3, max_windows=most)
    assert ranker.score(PAIRS) == pytest.approx(expected.numpy(), abs=1e-5)
    monkeypatch.setattr("r2anker_hf.rankers.ranker.BUFFER", 4)
    assert ranker.score(PAIRS) == pytest.approx(expected.numpy(), abs=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_reranking_gives_the_scores_of_pairs(tiny_model, batch_size, monkeypatch):
    monkeypatch.setattr("r2anker_hf.rankers.ranker.SHARD", 1)
    monkeypatch.setattr("r2anker_hf.rankers.ranker.BATCH_SIZE", {"cpu": 2})
    run, toy = first_stage(), collection()
    options = {"max_length": LENGTH, "batch_size": batch_size, "device": "cpu"}
    ranker = CrossEncoderRanker.from_pretrained(tiny_model, max_windows=3, **options)
    first = CrossEncoderRanker.from_pretrained(tiny_model, **options)
    found = ranker.rerank(run, toy)
    pairs = [(toy.queries[query_id], toy.corpus.text(one.doc_id)) for query_id in found for one in found[query_id]]
    scores = [one.score for query_id in found for one in found[query_id]]
    assert scores == pytest.approx(ranker.score(pairs), abs=1e-5)
    assert np.abs(scores - first.score(pairs)).max() > 1e-2 and (scores > first.score(pairs) - 1e-5).all()
    assert dict(first.rerank(run, toy, max_windows=3).items()) == dict(found.items())
    assert dict(ranker.rerank(run, toy, max_windows=1).items()) == dict(first.rerank(run, toy).items())


def test_short_documents_score_to_the_last_bit_as_with_one_window(tiny_model):
    scores = []
    for most in (1, 7):
        ranker = CrossEncoderRanker.from_pretrained(tiny_model, max_length=80, max_windows=most, device="cpu")
        scores.append(ranker.score(PAIRS).tolist())
        scores.append(ranker.rerank(first_stage(), collection()))
    assert scores[0] == scores[2] and dict(scores[1].items()) == dict(scores[3].items())


@pytest.fixture(scope="module")
def saved(tiny_model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranker")
    ranker = CrossEncoderRanker.from_pretrained(tiny_model, max_length=LENGTH, max_windows=4, device="cpu")
    with pytest.warns(UserWarning, match="other loaders read the first of max_windows 4 only"):
        ranker.save_pretrained(folder)
    return folder, ranker.score(PAIRS)


def test_a_saved_ranker_reads_as_it_was_trained_unless_told_otherwise(saved):
    from sentence_transformers import CrossEncoder

    folder, expected = saved
    again = CrossEncoderRanker.from_pretrained(folder, device="cpu")
    assert again.encoder.max_windows == 4 and again.score(PAIRS).tolist() == expected.tolist()
    first = CrossEncoderRanker.from_pretrained(folder, max_windows=1, device="cpu").score(PAIRS)
    assert CrossEncoder(str(folder), device="cpu").predict(PAIRS) == pytest.approx(first, abs=1e-5)
    assert np.abs(first - expected).max() > 1e-2


def test_golden_pairs_and_other_loaders_are_compared_by_one_window(saved, tmp_path):
    folder, _ = saved
    _check_ranker(folder)
    for path in folder.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    write_golden(tmp_path, "ranker")
    (tmp_path / "config.json").write_text((tmp_path / "config.json").read_text().replace('"max_windows": 4', '"x": 4'))
    assert check_golden(tmp_path, "ranker") == []


# In pairs of 12 tokens the toy's documents have up to 4 windows.
SHORT = {"max_length": 12, "max_windows": 3, "per_device_train_batch_size": 8, "dropout": 0.0}
OBJECTIVES = {
    "labels": {},
    "retrievers": {"objective": "retrievers"},
    "ranker": {"objective": "ranker", "teacher_ranking": "old", "teacher_temperature": 2.0},
    "ranker and labels": {"objective": "ranker", "teacher_ranking": "old", "label_weight": 0.25},
}
PATHS = {
    "plain": {},
    "padded": {"padded": True},
    "in chunks": {"chunk_tokens": 40},
    "in a budget": {"memory_budget": 1.0, "chunk_tokens": 40},
}


def training(model, folder, chunk_tokens=0, padded=False, **options):
    """A trainer and its first batch; all candidates have scores of a teacher."""
    with pytest.MonkeyPatch.context() as patch:
        if padded:
            for module in ("ranker", "listwise"):
                patch.setattr(f"r2anker_hf.rankers.{module}.use_padding_free", lambda model: False)
        made = trainer(str(model), str(folder), **SHORT | options)
    assert is_padding_free(made.model) != padded
    made.chunk_tokens, made.current_gradient_accumulation_steps = chunk_tokens, 1
    for row in made.train_dataset.rows:
        doc_ids = [f"d{number}" for number in range(10)]
        row["rankings"] = [{"ranker": "old", "doc_ids": doc_ids, "scores": [n * n % 7 / 2 for n in range(10)]}]
        (ranked,) = row["candidates"]
        ranked["scores"] = [-float(place) for place, _ in enumerate(ranked["doc_ids"])]
    features = [made.train_dataset[(0, index)] for index in range(8)]
    return made, features, made.data_collator(features)


def gradients(model):
    found = {name: weights.grad for name, weights in model.named_parameters() if weights.grad is not None}
    model.zero_grad()
    return found


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_the_gradient_is_that_of_the_maximum_written_out(tiny_model, tmp_path, objective, path):
    made, features, batch = training(tiny_model, tmp_path, **OBJECTIVES[objective], **PATHS[path])
    assert batch["windows"].max() == 3 and (batch["windows"] > 0).sum() == batch["mask"].sum()
    loss = made.training_step(made.model, batch)
    found = gradients(made.model)
    tokenizer, model, args = made.data_collator.encoder.tokenizer, made.model.eval(), made.args
    scores = torch.zeros(batch["mask"].shape)
    for row, feature in enumerate(features):
        pairs = [(feature["query"], text) for text in feature["documents"]]
        scores[row, : len(pairs)] = best_logits(model, tokenizer, pairs, most=3, length=12)
    if objective == "labels":
        expected = softmax_cross_entropy(scores, batch["labels"], batch["mask"]).mean()
    else:
        expected = kl_divergence(scores, batch["labels"], batch["mask"], args.teacher_temperature).mean()
        judged = softmax_cross_entropy(scores, batch["relevant"], batch["mask"]).mean() if args.label_weight else 0.0
        expected = (1 - args.label_weight) * expected + args.label_weight * judged
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    expected.backward()
    explicit = gradients(model)
    assert found.keys() == explicit.keys()
    for name, gradient in explicit.items():
        assert torch.allclose(found[name], gradient, atol=1e-5, rtol=1e-3), name


@pytest.mark.parametrize("path", PATHS)
def test_the_order_of_windows_changes_nothing(tiny_model, tmp_path, path):
    made, _, batch = training(tiny_model, tmp_path, **PATHS[path])
    turned = copy.deepcopy(batch)
    for query, counts in enumerate(batch["windows"]):
        ends = np.cumsum(counts)
        order = np.concatenate([np.arange(end - count, end)[::-1] for end, count in zip(ends, counts, strict=True)])
        for name in ("input_ids", "token_type_ids", "attention_mask", "lengths"):
            turned[name][query, : len(order)] = batch[name][query, order.copy()]
    assert not torch.equal(turned["input_ids"], batch["input_ids"])
    results = []
    for one in (batch, turned):
        results.append((made.training_step(made.model, one).item(), gradients(made.model)))
    (loss, before), (other, after) = results
    assert other == pytest.approx(loss, abs=1e-6)
    assert all(torch.allclose(after[name], before[name], atol=1e-5) for name in before)


def test_short_documents_train_to_the_last_bit_as_with_one_window(tiny_model, tmp_path):
    results = []
    for most in (1, 7):
        made, _, batch = training(tiny_model, tmp_path, max_length=32, max_windows=most)
        loss = made.training_step(made.model, batch)
        learnt = [gradient.tolist() for gradient in gradients(made.model).values()]
        results.append((loss.item(), list(batch), learnt))
    assert results[0] == results[1]


def test_the_log_s_figures_count_every_window_and_rank_documents(tiny_model, tmp_path):
    made, _, batch = training(tiny_model, tmp_path)
    made.training_step(made.model, batch)
    groups, tokens, *_ = made.health.counts
    assert groups == 8 and tokens == batch["lengths"].sum() == batch["attention_mask"].sum()
    assert batch["attention_mask"].shape[1] > batch["mask"].shape[1]
    made.model.eval()
    scores = made.compute_loss(made.model, batch, return_outputs=True)[1]["scores"]
    assert scores.shape == batch["mask"].shape and not scores[batch["mask"] == 0].any()


def test_what_the_collator_gives_for_windows(tiny_model):
    encoder = PairEncoder(AutoTokenizer.from_pretrained(tiny_model), max_length=8, max_windows=3)
    features = [
        {"query": "red", "documents": ["cat", "a blue fish is not green"], "labels": [1.0, 0.0]},
        {"query": "red", "documents": ["tree"], "labels": [1.0]},
    ]
    batch = GroupedListwiseCollator(encoder)(features)
    assert batch["windows"].tolist() == [[1, 2], [1, 0]] and batch["mask"].tolist() == [[1, 1], [1, 0]]
    assert batch["lengths"].tolist() == [[5, 8, 8], [5, 0, 0]] and batch["labels"].tolist() == [[1, 0], [1, 0]]
    texts = [encoder.tokenizer.decode(ids, skip_special_tokens=True) for ids in batch["input_ids"][0]]
    assert texts == ["red cat", "red a blue fish is", "red fish is not green"]


def test_recipes_train_choose_and_rerank_by_windows(finished, tmp_path, monkeypatch):
    from published_toy import run

    from r2anker_hf.run import Run

    seen, rerank = [], CrossEncoderRanker.rerank

    def noted(self, *arguments, **options):
        seen.append(self.encoder.max_windows)
        return rerank(self, *arguments, **options)

    monkeypatch.setattr(CrossEncoderRanker, "rerank", noted)
    options = {"negatives": finished / "negatives", "model": finished / "ranker", "output_dir": tmp_path / "ranker"}
    options |= {"max_length": 24, "max_windows": 3, "held_out": 2, "max_steps": 1, "num_negatives": 2}
    options |= {
        "use_cpu": "true",
        "eval_strategy": "steps",
        "eval_steps": 1,
        "save_strategy": "steps",
        "save_steps": 1,
    }
    run("train_ranker", "RankerConfig ListwiseOptions", **options, report_to="none", mixed_precision="no")
    assert seen == [3]  # what chose the checkpoint
    common = {"ranker": tmp_path / "ranker", "collection": finished / "toy", "depth": 4}
    common["first_stage"] = finished / "test" / "bm25" / "run.trec"
    for name, more in (("own", {}), ("one", {"max_windows": 1}), ("three", {"max_windows": 3})):
        run("rerank", "RerankingConfig", **common, **more, output_dir=tmp_path / name)
    own, one, three = (dict(Run.read_trec(tmp_path / name / "run.trec").items()) for name in ("own", "one", "three"))
    assert own == three != one
