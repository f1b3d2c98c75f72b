"""Pairs are what the tokenizer's own template makes of them, and groups of any sizes make one batch."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from r2anker_hf.collator import GroupedListwiseCollator, PairEncoder
from r2anker_hf.records import InputError
from r2anker_hf.tokens import Tokens, encode, learn_vocabulary


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
@given(query=st.text(min_size=1, max_size=20), document=st.text(max_size=200))
def test_a_query_within_its_limit_is_encoded_as_the_tokenizer_does(tokenizer, query, document):
    encoder = PairEncoder(tokenizer, max_length=48)
    if len(tokenizer(query, add_special_tokens=False)["input_ids"]) <= encoder.max_query_length:
        expected = tokenizer([query], [document], truncation="only_second", max_length=48)
        assert dict(encoder([query], [document])) == dict(expected)
        # up to half a pair, the default truncation of other loaders shortens the document alone, as ours does
        other = tokenizer([query], [document], truncation=True, max_length=48)
        assert dict(encoder([query], [document])) == dict(other)


@settings(max_examples=60, deadline=None)
@given(query=st.text(max_size=300), document=st.text(max_size=300))
def test_every_pair_fits_and_keeps_room_for_the_document(tokenizer, query, document):
    encoder = PairEncoder(tokenizer, max_length=20, max_query_length=6)
    encoded = encoder([query], [document])
    types = encoded["token_type_ids"][0]
    assert len(types) <= 20
    assert types.count(0) <= 6 + 2  # [CLS] query [SEP]


def test_a_query_longer_than_the_pair_is_shortened(tokenizer):
    query = "river " * 300
    with pytest.raises(Exception, match="(?i)truncat"):  # the tokenizer alone gives up on such a pair
        tokenizer([query], ["stone"], truncation="only_second", max_length=16)
    encoded = PairEncoder(tokenizer, max_length=16, max_query_length=4)([query], ["stone house"])
    assert tokenizer.decode(encoded["input_ids"][0]) == "[CLS] river river river river [SEP] stone house [SEP]"


def test_limits_that_leave_no_room_are_refused(tokenizer):
    with pytest.raises(InputError, match="choose 1 to 12"):
        PairEncoder(tokenizer, max_length=16, max_query_length=13)
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


@settings(max_examples=100, deadline=None)
@given(query=st.text(max_size=20), document=st.text(max_size=80))
def test_tokens_of_texts_make_the_tokenizer_s_own_pairs(any_tokenizer, query, document):
    encoder = PairEncoder(any_tokenizer, max_length=40, max_query_length=30)
    tokens = encode(any_tokenizer, [query, document])
    if len(tokens[0]) <= 30:
        expected = dict(any_tokenizer([query], [document], truncation="only_second", max_length=40))
        assert encoder([query], [document]) == expected == encoder(tokens[:1], tokens[1:])
        lengths = encoder.lengths(*(np.array([len(part)]) for part in tokens))
        assert lengths.tolist() == [len(expected["input_ids"][0])]


def test_tokens_lie_on_disk_and_are_written_once(tokenizer, tmp_path, monkeypatch):
    texts = ["the cat", "", "stone house " * 20, "[SEP] dog"]
    monkeypatch.setattr("r2anker_hf.tokens.TEXTS_AT_ONCE", 3)
    first = Tokens.build(list("abcd"), texts, tokenizer, tmp_path / "tokens", limit=7)
    again = Tokens.build(list("abcd"), None, tokenizer, tmp_path / "tokens", limit=7)  # nothing may be read
    for tokens in (first, again):
        assert isinstance(tokens.values, np.memmap) and tokens.values.dtype == np.uint16
        assert [tokens[name].tolist() for name in "abcd"] == [part[:7] for part in encode(tokenizer, texts)]
        assert tokens.length("b") == 0
    left = AutoTokenizer.from_pretrained(tokenizer.name_or_path, truncation_side="left")
    kept = Tokens.build(["c"], texts[2:3], left, tmp_path / "left", limit=3)["c"]
    assert kept.tolist() == encode(tokenizer, texts[2:3])[0][-3:]


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
