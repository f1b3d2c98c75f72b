"""A ranker's `rank` and `predict` are those of sentence-transformers' CrossEncoder on the same folder."""

import time

import numpy as np
import pytest
import torch
from hub_server import Hub
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from r2anker_hf.rankers.ranker import CrossEncoderRanker
from r2anker_hf.records import InputError

sentence_transformers = pytest.importorskip("sentence_transformers")

WORDS = "cat dog bird fish tree river stone house bread water the and of".split()
texts = st.lists(st.sampled_from(WORDS), max_size=60).map(" ".join)  # pairs of 48 tokens: many are cut
few = settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def loaded(tiny_model, tmp_path_factory):
    """The same folder as a ranker of ours and as a CrossEncoder."""
    folder = tmp_path_factory.mktemp("ranker")
    CrossEncoderRanker.from_pretrained(tiny_model, max_length=48, device="cpu").save_pretrained(folder)
    ours = CrossEncoderRanker.from_pretrained(folder, device="cpu")
    return ours, sentence_transformers.CrossEncoder(str(folder), device="cpu")


def alike(ours, theirs):
    """The same documents in the same order, but for those whose scores differ by rounding only."""
    assert [set(one) for one in ours] == [set(one) for one in theirs]
    assert [one["score"] for one in ours] == pytest.approx([one["score"] for one in theirs], abs=1e-5)
    scores = {one["corpus_id"]: one["score"] for one in theirs}
    for mine, other in zip(ours, theirs, strict=True):
        if mine["corpus_id"] != other["corpus_id"]:
            assert scores.get(mine["corpus_id"], other["score"]) == pytest.approx(other["score"], abs=1e-5)
        assert type(mine["score"]) is float and type(mine["corpus_id"]) is int


@few
@given(
    query=texts,
    documents=st.lists(texts, max_size=9),
    top_k=st.sampled_from([None, 0, 1, 3, 50]),
    batch_size=st.sampled_from([1, 3, 32]),
    return_documents=st.booleans(),
    activation_fn=st.sampled_from([None, torch.nn.Sigmoid()]),
)
def test_rank(loaded, query, documents, **options):
    ours, theirs = (model.rank(query, documents, show_progress_bar=False, **options) for model in loaded)
    alike(ours, theirs)
    for one in ours:
        assert one.get("text", documents[one["corpus_id"]]) == documents[one["corpus_id"]]


@few
@given(pairs=st.lists(st.tuples(texts, texts), max_size=9), batch_size=st.sampled_from([1, 3, 32]))
def test_predict(loaded, pairs, batch_size):
    ours, theirs = (model.predict(pairs, batch_size=batch_size, show_progress_bar=False) for model in loaded)
    assert type(ours) is np.ndarray and ours.dtype == np.float32 and ours.shape == theirs.shape
    assert ours == pytest.approx(theirs, abs=1e-5)


def test_one_pair_is_a_number(loaded):
    ours, theirs = loaded
    for pair in (("cat", "the dog"), ["cat", "the dog"]):
        assert type(ours.predict(pair)) is float
        assert ours.predict(pair) == pytest.approx(float(theirs.predict(pair)), abs=1e-5)
    tensor = ours.predict([("cat", "the dog")] * 2, convert_to_tensor=True)
    assert isinstance(tensor, torch.Tensor) and tensor.tolist() == [ours.predict(("cat", "the dog"))] * 2


def test_equal_documents_stand_as_given(loaded):
    documents = ["the cat", "the dog " * 30, "the cat", "a river", "the cat"]
    ranked = [one["corpus_id"] for one in loaded[0].rank("dog", documents, batch_size=2)]
    assert [place for place in ranked if documents[place] == "the cat"] == [0, 2, 4]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"inputs": [("cat", "dog"), ("cat",)]}, r"inputs\[1\] is \"\('cat',\)\", but must be a pair"),
        ({"inputs": [("cat", None)]}, r"inputs\[0\] .* must be a pair \(query, document\)"),
        ({"inputs": [("cat", "dog")], "batch_size": 0}, "batch_size is 0, but must be at least 1"),
    ],
)
def test_bad_input(loaded, given, message):
    with pytest.raises(InputError, match=message):
        loaded[0].predict(**given)


def test_rank_takes_no_longer_than_score(loaded):
    ranker, documents = loaded[0], [f"the {word} and {other}" for word in WORDS[:10] for other in WORDS[:10]]
    pairs = [("which cat", document) for document in documents]
    works = {"rank": lambda: ranker.rank("which cat", documents), "score": lambda: ranker.score(pairs)}
    took = {name: [] for name in works}
    for _ in range(5):
        for name, work in works.items():
            start = time.process_time()
            work()
            took[name].append(time.process_time() - start)
    assert min(took["rank"]) < 1.3 * min(took["score"]) + 0.005


@pytest.mark.hub
def test_push_to_hub(loaded, tmp_path, monkeypatch):
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1,localhost")
    ranker = loaded[0]
    with Hub() as hub:
        monkeypatch.setattr(constants, "ENDPOINT", hub.endpoint)
        address = ranker.push_to_hub("me/ranker", token="hf_write", private=True)
        with pytest.raises(InputError, match="me/ranker: not pushed: .*409"):
            ranker.push_to_hub("me/ranker", token="hf_write")
        with pytest.raises(InputError, match="me/other: not pushed: .*40[13]"):
            ranker.push_to_hub("me/other", token="hf_read")
        assert ranker.push_to_hub("me/ranker", token="hf_write", exist_ok=True)
        (repo,) = (repo for repo in hub.repos.values() if repo.name == "me/ranker")
        assert repo.private and address.startswith(f"{hub.endpoint}/me/ranker/commit/")
        files = hub.content("me/ranker")
    ranker.save_pretrained(tmp_path)
    assert files.keys() - {".gitattributes"} == {path.name for path in tmp_path.iterdir()}
    assert all(files[path.name] == path.read_bytes() for path in tmp_path.iterdir())
