"""The decoder gets nothing but the bottleneck, masks are a matter of (seed, epoch, position), nothing is padded."""

import json
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from pretrain_toy import gradient_norms, losses, model_of, passages, tokens, trainer
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils.data import DataLoader
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoTokenizer, PreTrainedTokenizerFast

from r2anker_hf.models.loading import positions
from r2anker_hf.records import InputError
from r2anker_hf.retrievers.pretraining import (
    BottleneckModel,
    PassageCollator,
    Passages,
    PretrainingConfig,
    load_encoder,
    masked_places,
    save_encoder,
)
from r2anker_hf.retrievers.whole_words import Words

BATCHES = {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 1, "dropout": 0.0}


def config(**options):
    return PretrainingConfig(output_dir="unused", use_cpu=True, mixed_precision="no", **options)


def dataset_of(model, **options):
    """The toy passages, tokenised by a model's tokenizer."""
    return Passages(tokens(str(model)), config(**options), AutoTokenizer.from_pretrained(model))


@pytest.fixture(scope="module")
def batch(tiny_model):
    """Seven passages of uneven length, all tensors."""
    dataset, collate = dataset_of(tiny_model), PassageCollator(AutoTokenizer.from_pretrained(tiny_model))
    return {name: torch.as_tensor(values) for name, values in collate([dataset[(0, i)] for i in range(7)]).items()}


def as_collated(batch):
    """The batch as the model gets it: on the host what says where things are."""
    return {name: values if name == "input_ids" else values.numpy() for name, values in batch.items()}


@pytest.mark.parametrize("bottleneck", ["cls", "lexicon"])
def test_the_decoder_sees_the_encoder_through_the_bottleneck_alone(tiny_model, batch, bottleneck):
    model = model_of(str(tiny_model), bottleneck).eval()
    lengths, real = batch["lengths"], torch.arange(batch["input_ids"].shape[1]) < batch["lengths"][:, None]
    text = batch["text"][real]
    seen = batch["input_ids"].masked_fill(batch["encoder_masked"], model.mask_token_id)
    row, place = 0, int((batch["text"] & ~batch["encoder_masked"])[0].nonzero()[0])
    other = seen.clone()
    other[row, place] += 1  # a token that was not masked becomes another one

    given = lengths.numpy(), text.numpy()
    vectors, changed = (model.vectors(model.encode(ids, given[0]), *given) for ids in (seen, other))
    assert not torch.allclose(vectors[row], changed[row], atol=1e-4)
    torch.testing.assert_close(vectors[1:], changed[1:])  # passages do not see each other
    ids = batch["input_ids"].masked_fill(batch["decoder_masked"], model.mask_token_id)
    decoded, decoded_after = (model.decode(one, ids, lengths.numpy()) for one in (vectors, changed))
    inside = slice(0, int(lengths[0]))
    assert not torch.allclose(decoded[inside], decoded_after[inside], atol=1e-4)

    # the whole forward pass: with the bottleneck held fast, the encoder's input changes nothing for the decoder
    whole = model(**as_collated(batch))["decoder_loss"]
    edited = {**batch, "encoder_masked": batch["encoder_masked"].clone()}
    edited["encoder_masked"][row, place] = True
    assert abs(model(**as_collated(edited))["decoder_loss"] - whole) > 1e-4
    model.vectors = lambda *_: vectors
    assert model(**as_collated(edited))["decoder_loss"] == model(**as_collated(batch))["decoder_loss"]
    model.vectors = lambda *_: torch.zeros_like(vectors)  # cut
    assert abs(model(**as_collated(batch))["decoder_loss"] - whole) > 1e-2


@pytest.mark.parametrize("bottleneck", ["cls", "lexicon"])
def test_the_decoder_s_gradient_reaches_the_encoder_through_the_bottleneck(tiny_model, batch, bottleneck):
    model = model_of(str(tiny_model), bottleneck)
    real = torch.arange(batch["input_ids"].shape[1]) < batch["lengths"][:, None]
    given = {}
    encode = model.encode

    def watched(*args):
        given["hidden"] = encode(*args)
        given["hidden"].retain_grad()
        return given["hidden"]

    model.encode = watched
    model(**as_collated(batch))["decoder_loss"].backward()
    reached = given["hidden"].grad.abs().sum(dim=1) > 0
    first = torch.zeros_like(real)
    first[:, 0] = True
    if bottleneck == "cls":
        assert torch.equal(reached, first[real])
    else:
        assert reached.any() and not (reached & ~batch["text"][real]).any()


def padded_losses(model, batch):
    """The same two sums by transformers' own padded forward passes, with the vector put in by a hook."""
    encoder, real = model.encoder, torch.arange(batch["input_ids"].shape[1]) < batch["lengths"][:, None]
    encoder.set_attn_implementation("eager")
    ids, mask = batch["input_ids"], real.long()

    def loss(output, masked):
        logits = output.logits[masked]
        return torch.nn.functional.cross_entropy(logits, ids[masked], reduction="sum")

    seen = ids.masked_fill(batch["encoder_masked"], model.mask_token_id)
    output = encoder(seen, attention_mask=mask, output_hidden_states=True)
    if model.bottleneck == "cls":
        vectors = output.hidden_states[-1][:, 0]
    else:
        weights = output.logits.masked_fill(~batch["text"][..., None], -1e9).max(dim=1).values.softmax(dim=-1)
        vectors = weights @ encoder.get_input_embeddings().weight
    put_in = encoder.base_model.embeddings.register_forward_hook(
        lambda module, given, made: torch.cat([vectors[:, None], made[:, 1:]], dim=1)
    )
    own, encoder.base_model.encoder.layer = encoder.base_model.encoder.layer, model.decoder
    seen = ids.masked_fill(batch["decoder_masked"], model.mask_token_id)
    decoded = encoder(seen, attention_mask=mask)
    encoder.base_model.encoder.layer = own
    put_in.remove()
    return {
        "encoder_loss": loss(output, batch["encoder_masked"]),
        "decoder_loss": loss(decoded, batch["decoder_masked"]),
    }


@pytest.mark.parametrize("bottleneck", ["cls", "lexicon"])
def test_packed_passages_have_the_losses_of_padded_ones(tiny_model, batch, bottleneck):
    model = model_of(str(tiny_model), bottleneck).eval()
    assert len(set(batch["lengths"].tolist())) > 2
    with torch.no_grad():
        packed, padded = model(**as_collated(batch)), padded_losses(model, batch)
    for name, value in packed.items():
        assert value.item() == pytest.approx(padded[name].item(), rel=1e-5), name


@pytest.mark.parametrize("kind", ["bert", "ernie", "roberta", "xlm-roberta"])
def test_each_architecture_has_losses_and_gradients(kind, batch):
    sizes = {"vocab_size": 250, "num_attention_heads": 2, "max_position_embeddings": 40, "pad_token_id": 1}
    settings = AutoConfig.for_model(kind, **sizes, hidden_size=16, intermediate_size=32, num_hidden_layers=2)
    encoder = AutoModelForMaskedLM.from_config(settings)
    assert positions(encoder) == (38 if "roberta" in kind else 40)
    model = BottleneckModel(encoder, mask_token_id=4)
    both = model(**as_collated(batch))
    sum(both.values()).backward()
    assert all(value > 0 for value in both.values())
    assert all(weights.grad is not None for weights in model.parameters())


def test_other_architectures_and_deep_decoders_are_refused(tiny_model):
    settings = AutoConfig.for_model("distilbert", vocab_size=50, n_layers=1, n_heads=2, dim=16, hidden_dim=32)
    with pytest.raises(InputError, match="model_type is 'distilbert'; choices: bert, ernie"):
        BottleneckModel(AutoModelForMaskedLM.from_config(settings), mask_token_id=4)
    with pytest.raises(InputError, match="decoder_layers is 3, but the encoder has 2"):
        BottleneckModel(load_encoder(tiny_model), 4, "cls", decoder_layers=3)


@pytest.mark.parametrize("count", [1, 2, 3, 10, 29, 142])
def test_masks_of_pieces_have_their_rates_and_the_decoder_s_holds_the_encoder_s(count):
    drawn = [masked_places(np.arange(count), 42, epoch, 3, 0.3, 0.5) for epoch in range(400)]
    for encoder, decoder in drawn:
        assert encoder.sum() == max(1, round(0.3 * count)) and decoder.sum() == max(1, round(0.5 * count))
        assert (encoder <= decoder).all()
    # every place alike, within five standard deviations
    share = drawn[0][0].sum() / count
    places = np.mean([encoder for encoder, _ in drawn], axis=0)
    assert np.abs(places - share).max() <= 5 * np.sqrt(share * (1 - share) / 400)


@pytest.mark.parametrize("shares", [(0.3, 0.5), (0.15, 0.15), (0.5, 0.3), (1.0, 1.0)])
@pytest.mark.parametrize("sizes", [[4], [1], [3, 3], [1, 2, 3, 4], [5, 1, 1, 1, 2, 7, 1, 3] * 6])
def test_whole_words_are_masked_up_to_the_share(sizes, shares):
    words = np.repeat(np.arange(len(sizes)), sizes)
    for epoch in range(200):
        masks = masked_places(words, 42, epoch, 3, *shares)
        for mask, share in zip(masks, shares, strict=True):
            whole = [set(mask[words == word]) for word in range(len(sizes))]
            assert all(len(one) == 1 for one in whole)
            room, left = (
                max(1, round(share * len(words))) - mask.sum(),
                np.array(sizes)[[one == {False} for one in whole]],
            )
            assert mask.any() and (left > room).all()  # nothing that would still have fitted
            assert room >= 0 or np.unique(words[mask]).size == 1  # one word, where none is short enough
        smaller, larger = sorted(masks, key=np.sum)
        assert (smaller <= larger).all()


TEXTS = [
    "don't stop, really: it's 3.14!! naïve café (foo_bar) hello,world ABC123def",
    "the unbelievable hello  world of things that cats do; re-entrant",
    "",
]


def trained_tokenizer(model, before, decoder, trainer):
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    backend = Tokenizer(model)
    backend.pre_tokenizer, backend.decoder = before, decoder
    backend.train_from_iterator(TEXTS * 5, trainer(special_tokens=special, show_progress=False))
    return PreTrainedTokenizerFast(tokenizer_object=backend, mask_token="<mask>", pad_token="<pad>", unk_token="<unk>")


def byte_level():
    """As RoBERTa's."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = partial(trainers.BpeTrainer, vocab_size=290, initial_alphabet=alphabet)
    before = pre_tokenizers.ByteLevel(add_prefix_space=False)
    return trained_tokenizer(models.BPE(), before, decoders.ByteLevel(), trainer)


def sentence_piece():
    """As XLM-R's."""
    before = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace()])
    trainer = partial(trainers.UnigramTrainer, vocab_size=80, unk_token="<unk>")
    return trained_tokenizer(models.Unigram(), before, decoders.Metaspace(), trainer)


TOKENIZERS = {"word_piece": AutoTokenizer.from_pretrained, "byte_level": byte_level, "sentence_piece": sentence_piece}


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_words_are_the_tokenizer_s_own(kind, tiny_model):
    tokenizer = TOKENIZERS[kind](*[tiny_model] if kind == "word_piece" else [])
    words = Words(tokenizer)
    for text in TEXTS:
        encoded = tokenizer(text, add_special_tokens=False)
        assert words(np.array(encoded["input_ids"], dtype=int)).tolist() == encoded.word_ids(), encoded.tokens()
    assert len(encoded.word_ids()) == 0 and len(set(tokenizer(TEXTS[1]).word_ids())) < len(
        tokenizer(TEXTS[1]).tokens()
    )


def test_a_tokenizer_whose_words_are_unknown_is_refused(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    tokenizer.backend_tokenizer.decoder = decoders.Fuse()
    with pytest.raises(InputError, match="known for WordPiece, ByteLevel and Metaspace tokenizers, not Fuse"):
        Passages(tokens(str(tiny_model)), config(), tokenizer)
    assert len(Passages(tokens(str(tiny_model)), config(whole_words=False), tokenizer)[(0, 0)]["tokens"])


def test_special_tokens_and_padding_are_never_masked(tiny_model, batch):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    special = torch.isin(batch["input_ids"], torch.tensor(tokenizer.all_special_ids))
    assert special.sum() == batch["text"].numel() - batch["text"].sum()
    for name in ("encoder_masked", "decoder_masked"):
        assert not (batch[name] & special).any() and batch[name].any(dim=1).all()
    assert batch["lengths"].tolist() == sorted(batch["lengths"].tolist(), reverse=True)


def test_a_batch_holds_the_tokenizer_s_own_ids(tiny_model):
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    dataset = dataset_of(tiny_model)
    assert len(dataset) == len(passages()) - 1  # the empty one is left out
    texts = [text for text in passages() if text]
    for index in (0, 4, 5, 20):
        collated = PassageCollator(tokenizer)([dataset[(0, index)]])
        assert collated["input_ids"].tolist() == [tokenizer(texts[index])["input_ids"]]


@pytest.mark.parametrize("workers", [0, 2])
def test_masks_depend_on_epoch_and_position_alone(tiny_model, workers):
    dataset = dataset_of(tiny_model)
    items = [(epoch, index) for epoch in (0, 1) for index in (3, 9, 9)]
    loaded = list(DataLoader(dataset, sampler=items, batch_size=None, num_workers=workers, collate_fn=dict))
    masks = [feature["decoder_masked"].tolist() for feature in loaded]
    assert masks == [dataset[item]["decoder_masked"].tolist() for item in items]
    assert masks[1] == masks[2]
    other = dataset_of(tiny_model, seed=7)
    assert any((dataset[(0, n)]["decoder_masked"] != dataset[(1, n)]["decoder_masked"]).any() for n in range(9))
    assert any((dataset[(0, n)]["decoder_masked"] != other[(0, n)]["decoder_masked"]).any() for n in range(9))


@pytest.fixture(scope="module")
def reference(tiny_model, tmp_path_factory):
    """A training in batches of 8."""
    trained = trainer(str(tiny_model), str(tmp_path_factory.mktemp("reference")), **BATCHES)
    trained.train()
    return trained


def test_training_learns_and_logs_both_losses(reference):
    line = next(entry for entry in reference.state.log_history if "loss" in entry)
    assert line["loss"] == pytest.approx(line["encoder_loss"] + line["decoder_loss"], rel=1e-4)
    assert line["tokens_per_second"] > 0
    assert len(losses(reference)) == 6 and losses(reference)[-1] < losses(reference)[0] - 0.2


@pytest.mark.parametrize(("size", "steps"), [(1, 8), (4, 2)])
def test_batch_size_and_accumulation_can_be_exchanged(tiny_model, tmp_path, reference, size, steps):
    options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "dropout": 0.0}
    trained = trainer(str(tiny_model), str(tmp_path), **options)
    trained.train()
    assert losses(trained) == pytest.approx(losses(reference), abs=2e-4)
    assert gradient_norms(trained) == pytest.approx(gradient_norms(reference), rel=1e-3)


def test_two_processes_have_the_loss_of_one(tiny_model, tmp_path, reference):
    options = {"per_device_train_batch_size": 4, "dropout": 0.0}
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    script = Path(__file__).with_name("pretrain_toy.py")
    command = [*launch, str(script), str(tiny_model), str(tmp_path), json.dumps(options)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads((tmp_path / "losses.json").read_text()) == pytest.approx(losses(reference), abs=2e-4)


def test_resuming_gives_the_weights_of_an_unbroken_run(tiny_model, tmp_path):
    options = {**BATCHES, "dropout": 0.1, "save_strategy": "steps", "save_steps": 4}
    whole = trainer(str(tiny_model), str(tmp_path), **options)
    whole.train()
    again = trainer(str(tiny_model), str(tmp_path), **options)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-4"))  # in the middle of the second epoch
    assert losses(again)[-2:] == losses(whole)[-2:]
    for name, weights in whole.model.state_dict().items():
        assert torch.equal(again.model.state_dict()[name], weights), name
    head = again.model.encoder.get_output_embeddings().weight
    assert head is again.model.encoder.get_input_embeddings().weight  # still tied


def test_without_bottleneck_it_is_masked_language_modelling(tiny_model, tmp_path):
    trained = trainer(str(tiny_model), str(tmp_path), bottleneck="none", max_steps=2, **BATCHES)
    trained.train()
    line = next(entry for entry in trained.state.log_history if "loss" in entry)
    assert len(trained.model.decoder) == 0 and line["decoder_loss"] == 0
    assert line["loss"] == pytest.approx(line["encoder_loss"], rel=1e-4)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_saved_encoder_loads_in_transformers_and_sentence_transformers(tiny_model, tmp_path, pooling):
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.util import cos_sim

    from r2anker_hf.rankers.ranker import CrossEncoderRanker
    from r2anker_hf.retrievers.training import RetrieverTraining, load_splade

    encoder, tokenizer = load_encoder(tiny_model).eval(), AutoTokenizer.from_pretrained(tiny_model)
    BottleneckModel(encoder, tokenizer.mask_token_id)
    save_encoder(encoder, tokenizer, tmp_path / "E", 20, pooling)
    inputs = AutoTokenizer.from_pretrained(tmp_path / "E")("red fish and bird", return_tensors="pt")
    with torch.no_grad():
        hidden = AutoModel.from_pretrained(tmp_path / "E")(**inputs).last_hidden_state[0]
        logits = AutoModelForMaskedLM.from_pretrained(tmp_path / "E")(**inputs).logits
        torch.testing.assert_close(logits, encoder(**inputs).logits)
    expected = hidden[0] if pooling == "cls" else hidden.mean(dim=0)
    model = SentenceTransformer(str(tmp_path / "E"), device="cpu")
    assert model.max_seq_length == 20
    torch.testing.assert_close(torch.from_numpy(model.encode("red fish and bird")), expected)
    assert cos_sim(model.encode("red fish"), model.encode("red fish")).item() == pytest.approx(1)
    assert CrossEncoderRanker.from_pretrained(tmp_path / "E", fresh_head=True, device="cpu").score([("a", "cat")]).size
    # its head needs no teaching
    splade = load_splade(tmp_path / "E", None, RetrieverTraining(mixed_precision="no"))
    head = splade[0].auto_model.get_output_embeddings()
    torch.testing.assert_close(head.bias, encoder.get_output_embeddings().bias)


def test_fresh_sizes_take_no_weight(tiny_model):
    encoder = load_encoder(tiny_model, fresh={"num_hidden_layers": 3, "hidden_size": 16})
    assert len(encoder.base_model.encoder.layer) == 3 and encoder.config.hidden_size == 16
    again = load_encoder(tiny_model, fresh={"num_hidden_layers": 3, "hidden_size": 16})
    assert all(map(torch.equal, encoder.state_dict().values(), again.state_dict().values()))
    with pytest.raises(InputError, match=r"has no size 'layers'; choices: .*num_hidden_layers"):
        load_encoder(tiny_model, fresh={"layers": 3})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bottleneck": "neck"}, "no bottleneck 'neck'; choices: cls, lexicon, none"),
        ({"encoder_mask": 0.0}, "encoder_mask is 0.0, but must be above 0"),
        ({"decoder_mask": 1.5}, "decoder_mask is 1.5"),
        ({"decoder_layers": 0}, "decoder_layers is 0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(InputError, match=message):
        config(**options)


def test_defaults_are_the_paper_s():
    given = PretrainingConfig(output_dir="unused", use_cpu=True)
    assert (given.learning_rate, given.num_train_epochs, given.seed) == (1e-4, 20, 42)
    assert (given.encoder_mask, given.decoder_mask, given.decoder_layers, given.bottleneck) == (0.3, 0.5, 2, "cls")
