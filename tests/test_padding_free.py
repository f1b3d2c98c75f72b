"""Without padding every model gives the logits and the gradients that it gives with padding."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoConfig, AutoModelForSequenceClassification

from r2anker_hf.models.attention import by_length, nested
from r2anker_hf.models.padding_free import (
    BUILT_AS_BERT,
    LAYERS,
    batches,
    forward,
    is_padding_free,
    use_first_tokens,
    use_padding_free,
)

SIZES = {"vocab_size": 50, "num_hidden_layers": 3, "num_attention_heads": 2, "max_position_embeddings": 80}
OWN = {
    "distilbert": {"vocab_size": 50, "n_layers": 3, "n_heads": 2, "dim": 16, "hidden_dim": 32, "dropout": 0.0},
    "modernbert": {**SIZES, "local_attention": 8, "attention_dropout": 0.0, "mlp_dropout": 0.0, "eos_token_id": 2},
}
BERT = {**SIZES, "intermediate_size": 32, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def tiny(kind: str, **options) -> torch.nn.Module:
    own = OWN.get(kind, BERT | ({"embedding_size": 16} if kind == "electra" else {}))
    sizes = own | {"hidden_size": 16, "intermediate_size": 32, "pad_token_id": 1, "num_labels": 1} | options
    if kind == "distilbert":
        del sizes["hidden_size"], sizes["intermediate_size"]
        sizes |= {"attention_dropout": 0.0, "seq_classif_dropout": 0.0}
    if kind == "modernbert":
        sizes |= {"bos_token_id": 2, "cls_token_id": 2, "sep_token_id": 2}
    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, **sizes))
    for weights in model.parameters():
        if weights.dim() > 1:
            torch.nn.init.normal_(weights, std=0.3)  # the initial ones give nearly equal logits to all pairs
    return model


@pytest.fixture(scope="module", params=sorted(LAYERS))
def both(request):
    """The same weights with padding and without."""
    padded, unpadded = tiny(request.param), tiny(request.param)
    assert use_padding_free(unpadded) and use_padding_free(unpadded)
    return padded, unpadded


def pairs_of(model, lengths):
    lengths = torch.tensor(lengths)
    inputs = {"input_ids": torch.randint(3, 50, (len(lengths), int(lengths.max())))}
    inputs["input_ids"][torch.arange(inputs["input_ids"].shape[1]) >= lengths[:, None]] = 1
    if getattr(model.config, "type_vocab_size", 1) > 1:
        inputs["token_type_ids"] = torch.randint(0, 2, inputs["input_ids"].shape)
    return inputs, lengths


@settings(max_examples=15, deadline=None)
@given(lengths=st.lists(st.integers(1, 40), min_size=1, max_size=7))
def test_logits_and_gradients_are_those_of_the_padded_model(both, lengths):
    padded, unpadded = both
    inputs, lengths = pairs_of(padded, lengths)
    gradients = []
    for model in (padded, unpadded):
        model.zero_grad()
        logits = forward(model, inputs, lengths)
        (logits * torch.linspace(1, 2, len(logits))).sum().backward()
        gradients.append([weights.grad for _, weights in sorted(model.named_parameters())])
        if model is padded:
            expected = logits.detach()
    assert logits.shape == lengths.shape
    assert torch.allclose(logits, expected, atol=1e-5)
    for ours, theirs in zip(*gradients, strict=True):
        assert ours is theirs is None or torch.allclose(ours, theirs, atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("kind", sorted(LAYERS))
def test_an_export_computes_no_other_row_of_the_last_layer_than_the_first_tokens(kind):
    padded, exported = tiny(kind, attn_implementation="eager"), tiny(kind, attn_implementation="eager")
    use_first_tokens(exported)
    inputs, lengths = pairs_of(padded, [3, 30, 12])
    logits = [forward(model.eval(), inputs, lengths.numpy()) for model in (padded, exported)]
    assert torch.allclose(*logits, atol=1e-5)
    hidden = exported(inputs["input_ids"], output_hidden_states=True).hidden_states[-1]
    assert hidden.shape[1] == (1 if kind in BUILT_AS_BERT else 30)


def test_a_plain_padded_call_stays_what_it_was(both):
    padded, unpadded = both
    inputs, lengths = pairs_of(padded, [3, 30, 12])
    mask = (torch.arange(30) < lengths[:, None]).long()
    expected = padded.eval()(**inputs, attention_mask=mask).logits
    assert expected.std() > 1e-3
    assert torch.allclose(unpadded.eval()(**inputs, attention_mask=mask).logits, expected, atol=1e-5)
    inputs, _ = pairs_of(padded, [30, 30])
    assert torch.allclose(unpadded(**inputs).logits, padded(**inputs).logits, atol=1e-5)


def test_gradient_checkpointing_changes_nothing(both):
    _, model = both
    inputs, lengths = pairs_of(model, [5, 20, 9])
    model.train()
    kind = "activation" if hasattr(model, "activation_checkpointing_enable") else "gradient"  # before 5.23
    gradients = []
    for checkpointing in (False, True):
        if checkpointing:
            getattr(model, f"{kind}_checkpointing_enable")({"use_reentrant": False})
        model.zero_grad()
        forward(model, inputs, lengths).sum().backward()
        gradients.append([weights.grad for weights in model.parameters()])
    getattr(model, f"{kind}_checkpointing_disable")()
    for ours, theirs in zip(*gradients, strict=True):
        assert ours is theirs is None or torch.allclose(ours, theirs, atol=1e-6)


def test_other_models_are_padded_and_say_so():
    model = tiny("modernbert", classifier_pooling="mean")
    with pytest.warns(UserWarning, match="pools by the mean"):
        assert not use_padding_free(model)
    model = tiny("bert")
    model.config.model_type = "albert"
    with pytest.warns(UserWarning, match="model_type is 'albert'; without: bert, ernie"):
        assert not use_padding_free(model)
    assert not is_padding_free(model)


def test_nested_attention_is_that_of_pairs_of_equal_length():
    starts_k = torch.tensor([0, 3, 10, 17], dtype=torch.int32)
    starts_q = torch.arange(4, dtype=torch.int32)
    for starts in (starts_k, starts_q):
        query, key, value = (torch.randn(int(s[-1]), 2, 8) for s in (starts, starts_k, starts_k))
        lengths = starts.diff().numpy(), starts_k.diff().numpy()
        theirs = nested(query, key, value, starts, starts_k, *lengths)
        packed = [part.transpose(0, 1)[None] for part in (query, key, value)]
        ours = by_length(*packed, *lengths)
        assert torch.allclose(ours[0], theirs, atol=1e-6)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", sorted(LAYERS))
@pytest.mark.parametrize("dropout", [0.0, 1e-9])  # the second takes the kernels for dropped attention weights
def test_one_kernel_on_cuda_is_the_padded_model(kind, dropout):
    if kind == "modernbert" and dropout:
        pytest.skip("falls back to products by length")
    padded, unpadded = tiny(kind).cuda().train(), tiny(kind).cuda().train()
    assert use_padding_free(unpadded)
    for module in unpadded.modules():
        if dropout and hasattr(module, "attention_head_size"):
            module.dropout.p = dropout
    inputs, lengths = pairs_of(padded, [3, 30, 12, 12, 1])
    inputs = {name: values.cuda() for name, values in inputs.items()}
    with torch.autocast("cuda", torch.bfloat16):
        ours, theirs = (forward(model, inputs, lengths) for model in (unpadded, padded))
    assert torch.allclose(ours.float(), theirs.float(), atol=0.1)
    ours.float().sum().backward()
    theirs.float().sum().backward()
    for (name, mine), other in zip(unpadded.named_parameters(), padded.parameters(), strict=True):
        if other.grad is not None:
            assert torch.allclose(mine.grad, other.grad, atol=0.1, rtol=0.1), name


@settings(max_examples=50, deadline=None)
@given(lengths=st.lists(st.integers(1, 60), min_size=1, max_size=50), tokens=st.integers(1, 300))
def test_batches_hold_every_pair_once_and_keep_to_the_budget(lengths, tokens):
    lengths = np.array(lengths)
    parts = batches(lengths, tokens)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(lengths)))
    assert all(len(part) == 1 or len(part) * lengths[part].max() <= tokens for part in parts)
