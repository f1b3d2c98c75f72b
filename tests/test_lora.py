"""Adapters learn, everything else stays, and what is merged is an ordinary model with the same scores."""

import torch
from transformers import AutoModelForSequenceClassification

from r2anker_hf.rankers.lora import merged, with_lora
from r2anker_hf.rankers.ranker import CrossEncoderRanker

PAIRS = [("cat", "the cat"), ("river water", "stone house"), ("what is it", "a list of values")]


def test_adapters_learn_and_are_merged(tiny_model, tmp_path):
    ranker = CrossEncoderRanker.from_pretrained(tiny_model, device="cpu")
    before = ranker.score(PAIRS)
    original = {name: weights.clone() for name, weights in ranker.model.state_dict().items()}
    ranker.model = with_lora(ranker.model, rank=2)
    assert abs(ranker.score(PAIRS) - before).max() < 1e-6  # fresh adapters add 0; a sum may round otherwise
    learning = [weights for weights in ranker.model.parameters() if weights.requires_grad]
    assert sum(weights.numel() for weights in learning) < 0.2 * ranker.model.num_parameters()
    torch.manual_seed(0)
    with torch.no_grad():
        for weights in learning:
            weights += 0.1 * torch.randn_like(weights)
    changed = ranker.score(PAIRS)
    assert abs(changed - before).max() > 1e-3
    ranker.model = merged(ranker.model)
    ranker.save_pretrained(tmp_path)
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert plain.state_dict().keys() == original.keys()
    assert torch.equal(
        plain.bert.embeddings.word_embeddings.weight, original["bert.embeddings.word_embeddings.weight"]
    )
    assert abs(CrossEncoderRanker.from_pretrained(tmp_path, device="cpu").score(PAIRS) - changed).max() < 1e-5
    assert merged(plain) is plain
