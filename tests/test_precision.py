"""`auto` takes the precision that the hardware multiplies in, and a configuration keeps what was taken."""

import os
from itertools import product

import pytest
import torch
from published_toy import recipe

from r2anker_hf.config import parse_config, save_config
from r2anker_hf.models.precision import fastest_precision, scoring_dtype
from r2anker_hf.rankers.listwise import ListwiseConfig
from r2anker_hf.records import InputError
from r2anker_hf.retrievers.pretraining import PretrainingConfig
from r2anker_hf.retrievers.training import RetrieverTraining


@pytest.fixture
def cpu(monkeypatch):
    """A machine without GPU whose CPU has the features named."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")

    def with_features(*features: str) -> None:
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: "amx" in features)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: "avx512_bf16" in features)

    return with_features


@pytest.mark.parametrize(
    ("features", "expected"),
    [([], "no"), (["amx"], "bf16"), (["avx512_bf16"], "bf16"), (["amx", "avx512_bf16"], "bf16")],
)
def test_a_cpu_takes_bfloat16_where_it_multiplies_in_it(cpu, features, expected):
    cpu(*features)
    assert fastest_precision() == expected
    assert RetrieverTraining().bf16 == (expected == "bf16")


@pytest.mark.parametrize(("real", "expected"), [(True, "bf16"), (False, "fp16")])
def test_a_gpu_that_only_emulates_bfloat16_takes_float16(cpu, monkeypatch, real, expected):
    cpu()
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation or real)
    assert fastest_precision() == expected
    assert fastest_precision(use_cpu=True) == "no"
    assert RetrieverTraining().bf16 == real


@pytest.mark.parametrize(
    ("kind", "features"), list(product([ListwiseConfig, PretrainingConfig], [[], ["avx512_bf16"]]))
)
def test_a_configuration_keeps_what_was_chosen_on_another_machine(cpu, tmp_path, capsys, kind, features):
    cpu(*features)
    chosen = kind(output_dir="unused", report_to="none")
    assert capsys.readouterr().out == f"mixed_precision: {fastest_precision()}, the fastest on this machine\n"
    saved = save_config(chosen, tmp_path)
    cpu(*({"avx512_bf16"} - set(features)))
    (again,) = parse_config(kind, args=["--config", str(saved)])
    assert (again.mixed_precision, again.bf16) == (chosen.mixed_precision, chosen.bf16)
    assert again.bf16 == bool(features)
    assert not capsys.readouterr().out  # nothing was chosen


def test_the_option_wins_over_the_launcher_s_configuration(cpu, monkeypatch):
    cpu("avx512_bf16")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    config = ListwiseConfig(output_dir="unused", report_to="none", mixed_precision="no")
    assert (config.mixed_precision, config.bf16) == ("no", False)
    assert os.environ["ACCELERATE_MIXED_PRECISION"] == "bf16"  # other trainings of this process are not meant


@pytest.mark.parametrize("kind", [ListwiseConfig, PretrainingConfig])
@pytest.mark.parametrize("flag", ["bf16", "fp16"])
def test_two_options_that_contradict_each_other_are_refused(cpu, kind, flag):
    cpu()
    assert kind(output_dir="unused", **{flag: True}).mixed_precision == flag
    with pytest.raises(InputError, match=f"mixed_precision is no, but {flag} is true"):
        kind(output_dir="unused", mixed_precision="no", **{flag: True})


@pytest.mark.parametrize(("gpu", "expected"), [(None, "float32"), (True, "bfloat16"), (False, "float16")])
def test_a_reranking_takes_half_precision_on_gpus_only(cpu, tmp_path, monkeypatch, capsys, gpu, expected):
    cpu("avx512_bf16")
    if gpu is not None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: gpu)
    options = ["--ranker", "r", "--collection", "c", "--run", "x.trec", "--output_dir", "d"]
    (config,) = parse_config(recipe("rerank").RerankingConfig, args=options)
    assert f"dtype: {expected}, since auto takes half precision on GPUs only" in capsys.readouterr().out
    saved = save_config(config, tmp_path)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: gpu is None)  # the other kind of machine
    (again,) = parse_config(recipe("rerank").RerankingConfig, args=["--config", str(saved)])
    assert config.dtype == again.dtype == expected
    assert scoring_dtype("bfloat16") == "bfloat16"
