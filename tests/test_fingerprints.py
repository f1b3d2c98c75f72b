"""A fingerprint changes with all that decides a result, and with nothing else."""

import copy

import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from r2anker_hf.fingerprints import fingerprint, fingerprint_of, tokenizer_fingerprint, weights_fingerprint
from r2anker_hf.rankers.ranker import CrossEncoderRanker


def test_parts_are_kept_apart():
    found = {
        fingerprint(*parts) for parts in (("ab",), ("a", "b"), ("a\nb",), (["a", "b"],), (1,), ("1",), (None,), ())
    }
    assert len(found) == 8
    assert fingerprint_of(part for part in ("a", "b")) == fingerprint("a", "b")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_changed_number_of_any_tensor_is_noticed(tiny_model, dtype):
    model = AutoModelForSequenceClassification.from_pretrained(tiny_model, dtype=dtype)
    found = [weights_fingerprint(model, "")]
    for values in model.state_dict().values():
        last = values.view(-1)[-1:]
        before = last.clone()
        last.add_(1)
        found.append(weights_fingerprint(model, ""))
        last.copy_(before)
    assert len(set(found)) == len(found) == len(model.state_dict()) + 1
    assert weights_fingerprint(copy.deepcopy(model), "") == found[0] != weights_fingerprint(model, "other")


def test_how_a_tokenizer_was_last_called_plays_no_part(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    before = tokenizer_fingerprint(tokenizer)
    tokenizer(["cat", "the dog"], truncation=True, max_length=3, padding=True)
    assert (
        tokenizer_fingerprint(tokenizer) == before == tokenizer_fingerprint(AutoTokenizer.from_pretrained(tiny_model))
    )
    tokenizer.add_tokens(["stonehouse"])
    assert tokenizer_fingerprint(tokenizer) != before


def test_a_ranker_s_place_and_batch_size_play_no_part(tiny_model, tmp_path):
    ranker = CrossEncoderRanker.from_pretrained(tiny_model, device="cpu")
    before = ranker.fingerprint()
    ranker.score([("cat", "dog")])
    ranker.save_pretrained(tmp_path)
    moved = CrossEncoderRanker.from_pretrained(tmp_path, batch_size=1, device="cpu")
    assert before == ranker.fingerprint() == moved.fingerprint()
