"""Pairs are what the tokenizer's own template makes of them, and groups of any sizes make one batch."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer

from r2anker_hf.collator import GroupedListwiseCollator, PairEncoder
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
    }
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
