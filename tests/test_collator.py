"""Pairs are what the tokenizer's own template makes of them, and groups of any sizes make one batch."""

import os

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from r2anker_hf.models.tokens import Tokens, encode, learn_vocabulary
from r2anker_hf.rankers.collator import GroupedListwiseCollator, PairEncoder
from r2anker_hf.records import InputError


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


def test_tensors_of_the_docstring(tokenizer):
    collator = GroupedListwiseCollator(PairEncoder(tokenizer, max_length=16))
    batch = collator(
        [
            {"query": "red", "documents": ["cat", "a blue fish", "dog"], "labels": [1.0, 0.0, 0.0]},
            {"query": "stone house", "documents": ["tree"], "labels": [1.0]},
        ]
    )
    assert {name: (tuple(values.shape), values.dtype) for name, values in batch.items()} == {
        "input_ids": ((2, 3, 7), torch.int64),
        "token_type_ids": ((2, 3, 7), torch.int64),
        "attention_mask": ((2, 3, 7), torch.int64),
        "labels": ((2, 3), torch.float32),
        "mask": ((2, 3), torch.int64),
        "lengths": ((2, 3), np.int64),
    }
    assert batch["lengths"].tolist() == batch["attention_mask"].sum(dim=-1).tolist() == [[5, 7, 5], [6, 0, 0]]
    assert batch["mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[1, 0, 0], [1, 0, 0]]
    assert tokenizer.decode(batch["input_ids"][0, 1]) == "[CLS] red [SEP] a blue fish [SEP]"
    assert batch["token_type_ids"][0, 1].tolist() == [0, 0, 0, 1, 1, 1, 1]
    assert batch["attention_mask"][1, 1:].sum() == 0


@settings(max_examples=60, deadline=None)
@given(query=st.text(max_size=300), document=st.text(max_size=300))
def test_a_query_limit_is_kept_and_then_the_tokenizer_s_truncation(tokenizer, query, document):
    encoder = PairEncoder(tokenizer, max_length=20, max_query_length=6)
    first = encode(tokenizer, [query])[0][:6]
    encoded = encoder([query], [document])
    types = encoded["token_type_ids"][0]
    assert len(types) <= 20 and types.count(0) == len(first) + 2  # [CLS] query [SEP]
    assert encoder([first], [document]) == encoded


def test_limits_that_leave_no_room_are_refused(tokenizer):
    for options, message in (
        ({"max_length": 4}, "max_length is 4, but must be at least 5 to hold two texts"),
        ({"max_query_length": 0}, "max_query_length is 0, but must be at least 1"),
    ):
        with pytest.raises(InputError, match=message):
            PairEncoder(tokenizer, **options)
    tokenizer = AutoTokenizer.from_pretrained(tokenizer.name_or_path)
    tokenizer.pad_token = None
    with pytest.raises(InputError, match="padding token"):
        PairEncoder(tokenizer)


def _tokenizers(tokenizer):
    """A tokenizer of each kind that the supported architectures have: BERT's, RoBERTa's and XLM-R's."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    words = ["the red cat and a blue fish", "stone house", "what is the river water", "ünï cödé 漢字 ٣"] * 3
    named = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "mask_token": "<mask>",
    }
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    # XLM-R: pieces with a mark before each word
    unigram = Tokenizer(models.Unigram())
    unigram.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    unigram.train_from_iterator(
        words, trainers.UnigramTrainer(vocab_size=120, special_tokens=special, unk_token="<unk>", show_progress=False)
    )
    unigram.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    # RoBERTa, ModernBERT: bytes
    bpe = Tokenizer(models.BPE(unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    bpe.train_from_iterator(
        words,
        trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    bpe.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    inputs = {"model_input_names": ["input_ids", "attention_mask"]}
    left = AutoTokenizer.from_pretrained(tokenizer.name_or_path, truncation_side="left")
    return {
        "bert": tokenizer,
        "bert, left": left,
        "roberta": PreTrainedTokenizerFast(tokenizer_object=bpe, **named, **inputs),
        "xlm-roberta": PreTrainedTokenizerFast(tokenizer_object=unigram, **named, **inputs),
    }


@pytest.fixture(scope="module", params=["bert", "bert, left", "roberta", "xlm-roberta"])
def any_tokenizer(request, tokenizer):
    return _tokenizers(tokenizer)[request.param]


def check_pair(tokenizer, query, document, max_length):
    encoder = PairEncoder(tokenizer, max_length)
    expected = dict(tokenizer([query], [document], truncation=True, max_length=max_length))
    tokens = [np.array(part, dtype=np.int64) for part in encode(tokenizer, [query, document])]
    sizes = [np.array([len(part)]) for part in tokens]
    limit = encoder.document_limit(sizes[0])
    stored = tokens[1][-limit:] if tokenizer.truncation_side == "left" else tokens[1][:limit]
    for pair in (([query], [document]), ([tokens[0]], [tokens[1]]), ([tokens[0]], [stored])):
        assert encoder(*pair) == expected
    assert encoder.lengths(*sizes).tolist() == [len(expected["input_ids"][0])]


@settings(max_examples=60, deadline=None)
@given(query=st.text(max_size=20), document=st.text(max_size=80))
def test_tokens_of_texts_make_the_tokenizer_s_own_pairs(any_tokenizer, query, document):
    check_pair(any_tokenizer, query, document, 40)


@settings(max_examples=40, deadline=None)
@example(query=200, document=150, max_length=128, same=False)  # an odd token of room goes to the longer text,
@example(query=150, document=200, max_length=128, same=False)
@example(query=150, document=150, max_length=128, same=True)  # and of equal ones to the document
@example(query=88, document=5, max_length=128, same=False)
@given(query=st.integers(0, 200), document=st.integers(0, 400), max_length=st.integers(8, 160), same=st.booleans())
def test_long_pairs_are_cut_where_the_tokenizer_cuts_them(any_tokenizer, query, document, max_length, same):
    words = "the cat and a dog what is red".split()
    texts = [" ".join(words[n % 8] for n in range(count)) for count in (query, query if same else document)]
    check_pair(any_tokenizer, *texts, max_length)


def test_tokens_lie_on_disk_and_are_written_once(tokenizer, tmp_path, monkeypatch):
    texts = ["the cat", "", "stone house " * 20, "[SEP] dog"]
    monkeypatch.setattr("r2anker_hf.models.tokens.TEXTS_AT_ONCE", 3)
    first = Tokens.build(list("abcd"), texts, tokenizer, tmp_path / "tokens", limit=7)
    monkeypatch.setattr("r2anker_hf.models.tokens.encode", None)  # nothing may be tokenised
    again = Tokens.build(list("abcd"), iter(texts), tokenizer, tmp_path / "tokens", limit=7)
    for tokens in (first, again, Tokens.read(list("abcd"), tmp_path / "tokens")):
        assert isinstance(tokens.values, np.memmap) and tokens.values.dtype == np.uint16
        assert [tokens[name].tolist() for name in "abcd"] == [part[:7] for part in encode(tokenizer, texts)]
        assert tokens.lengths().tolist() == [2, 0, 7, 2]
        assert tokens.fingerprint == first.fingerprint
    monkeypatch.undo()
    left = AutoTokenizer.from_pretrained(tokenizer.name_or_path, truncation_side="left")
    kept = Tokens.build(["c"], texts[2:3], left, tmp_path / "left", limit=3)["c"]
    assert kept.tolist() == encode(tokenizer, texts[2:3])[0][-3:]


@pytest.mark.parametrize("stated", [None, "false"])
def test_texts_are_tokenised_on_all_cores_and_the_environment_is_as_before(tokenizer, tmp_path, monkeypatch, stated):
    seen = []

    def watched(*arguments):
        seen.append(os.environ["TOKENIZERS_PARALLELISM"])
        return encode(*arguments)

    monkeypatch.delenv("TOKENIZERS_PARALLELISM", raising=False)
    if stated:
        monkeypatch.setenv("TOKENIZERS_PARALLELISM", stated)
    monkeypatch.setattr("r2anker_hf.models.tokens.encode", watched)
    Tokens.build((), ["the cat", "a dog"], tokenizer, tmp_path / "tokens")
    assert seen == ["true"] and os.environ.get("TOKENIZERS_PARALLELISM") == stated


OTHERS = {
    "texts": {"texts": ["the cat", "a dog", "red"]},
    "a text in a later block": {"texts": ["the cat", "stone house", "fish"]},
    "one text more": {"texts": ["the cat", "stone house", "red", "blue"]},
    "one block less": {"texts": ["the cat", "stone house"]},
    "no text": {"texts": []},
    "limit": {"limit": 1},
    "tokenizer": {"tokenizer": "learnt"},
    "side": {"tokenizer": "left"},
}


@pytest.mark.parametrize("other", OTHERS)
def test_tokens_of_anything_else_are_made_anew(tokenizer, tmp_path, monkeypatch, other):
    monkeypatch.setattr("r2anker_hf.models.tokens.TEXTS_AT_ONCE", 2)
    tokenizers = {
        "learnt": lambda: learn_vocabulary(tokenizer, lambda: [["the cat", "stone red house"]], 40),
        "left": lambda: AutoTokenizer.from_pretrained(tokenizer.name_or_path, truncation_side="left"),
    }
    given = {"texts": ["the cat", "stone house", "red"], "tokenizer": tokenizer, "limit": 2}
    folder = tmp_path / "tokens"
    first = Tokens.build((), **given, folder=folder)
    (folder / "notes.txt").write_text("mine")
    given |= OTHERS[other]
    if isinstance(given["tokenizer"], str):
        given["tokenizer"] = tokenizers[given["tokenizer"]]()
    found = Tokens.build((), **{**given, "texts": iter(given["texts"])}, folder=folder)
    fresh = Tokens.build((), **given, folder=tmp_path / "fresh")
    assert np.array_equal(found.values, fresh.values) and np.array_equal(found.ends, fresh.ends)
    assert found.fingerprint == fresh.fingerprint != first.fingerprint
    assert (folder / "notes.txt").read_text() == "mine" and len(list(tmp_path.iterdir())) == 2


def test_a_learnt_vocabulary_is_the_texts_own_and_always_the_same(tokenizer, tmp_path):
    random = np.random.default_rng(0)
    words = ["".join(random.choice(list("abcdeé"), random.integers(2, 9))) for _ in range(300)]
    texts = [" ".join(random.choice(words, 12)) for _ in range(200)] + ["##b and [MASK]"]
    learnt = [learn_vocabulary(tokenizer, lambda: [texts[:90], texts[90:]], 400) for _ in range(4)]
    assert len(learnt[0]) == 400
    assert sum(len(learnt[0].tokenize(word)) for word in words) < 2 * len(words)  # words, and halves of them
    assert all(other.get_vocab() == learnt[0].get_vocab() for other in learnt[1:])  # the trainer's own order varies
    learnt[0].save_pretrained(tmp_path)
    for made in (learnt[0], AutoTokenizer.from_pretrained(tmp_path)):
        assert made.special_tokens_map == tokenizer.special_tokens_map and len(made) == 400
        ids = made("##b and [MASK]")["input_ids"]
        assert made.unk_token_id not in ids and ids.count(made.mask_token_id) == 1  # pieces are no special tokens
        first, second = (word.replace("é", "e") for word in words[:2])  # as an uncased tokenizer reads them
        assert made.decode(made(first, second)["input_ids"]) == f"[CLS] {first} [SEP] {second} [SEP]"
        assert list(made("a", "b")) == list(tokenizer("a", "b"))
    with pytest.raises(InputError, match="WordPiece tokenizers alone, not BPE"):
        learn_vocabulary(_tokenizers(tokenizer)["roberta"], lambda: [texts], 400)
