"""Protects what a card says of a training: the options that decide its numbers, by today's names, none forgotten."""

import json
from dataclasses import fields

import pytest
import yaml
from every_recipe import configs

from r2anker_hf.negatives.sampling import Sampling
from r2anker_hf.publishing.provenance import SETTINGS, Stage, base_model, read_stage
from r2anker_hf.records import InputError

TRAININGS = ("train_ranker", "train_retriever", "distil", "pretrain")


def published(folder, config):
    """The settings that a stage with this `config.yaml` publishes."""
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "provenance.json").write_text(json.dumps({"inputs": {}, "recipe": "train_ranker.py"}))
    return read_stage(folder).public()["settings"]


def test_every_option_of_sampling_is_published_where_it_is_set(tmp_path):
    given = {"policy": "redistributed", "depth": 9, "retrievers": ["bm25"], "rank_from": 2, "rank_to": 8}
    given |= {"max_score": {"bm25": 3.0}, "min_score": {"bm25": 1.0}, "absolute_margin": 0.5, "relative_margin": 0.1}
    given |= {"sampling_temperature": 2.0, "standardise": False, "shares": {"bm25": 1.0}, "within": "dense"}
    given |= {"negatives_ranking": "fused", "leave_out_suspects": True, "judged_by": "fused"}
    assert given.keys() == {field.name for field in fields(Sampling)}
    assert published(tmp_path, given) == given


def test_options_at_their_defaults_say_nothing_but_policy_and_depth(tmp_path):
    plain = Sampling()
    config = {field.name: getattr(plain, field.name) for field in fields(Sampling)}
    assert published(tmp_path, config) == {"policy": "union", "depth": 200}


def test_a_stage_with_former_names_is_published_under_todays(tmp_path):
    config = {"policy": "redistributed", "depth": 200, "negatives_ranker": "fused", "sampling_temperature": 2.0}
    found = published(tmp_path, config)
    assert found == {
        "policy": "redistributed",
        "depth": 200,
        "negatives_ranking": "fused",
        "sampling_temperature": 2.0,
    }


@pytest.mark.parametrize(
    "recorded, stated, found",
    [
        ("them/small@" + "1" * 40, None, ("them/small", "1" * 40)),
        ("them/small@" + "1" * 40, "them/small@" + "1" * 40, ("them/small", "1" * 40)),
        ("small@" + "1" * 40, "them/small@" + "1" * 40, ("them/small", "1" * 40)),
        ("them/small@main", "them/small@" + "1" * 40, ("them/small", "1" * 40)),
        ("sha256:" + "0" * 64, "them/small@" + "1" * 40, ("them/small", "1" * 40)),
        ("sha256:" + "0" * 64, None, ("small", "sha256:" + "0" * 64)),
        ("them/small@" + "1" * 40, "them/big@" + "2" * 40, None),
        ("them/small@" + "1" * 40, "them/small@" + "2" * 40, None),
        ("small@" + "1" * 40, "them/small@" + "2" * 40, None),
    ],
)
def test_a_recorded_commit_of_the_base_model_wins_over_what_is_stated(recorded, stated, found, tmp_path):
    stage = Stage(tmp_path, {"model": str(tmp_path / "small")}, {"inputs": {"model": recorded}})
    if found:
        base = base_model([stage], stated)
        assert (base["name"], base["revision"]) == found
    else:
        with pytest.raises(InputError, match=f"base_model: {stated} is stated, but .* was trained from {recorded}"):
            base_model([stage], stated)


# The options of teachers as they were called before, and as a card states them; other options leave them alone.
FORMER = {
    "a ranker taught by a ranker": (
        {"freeze_embeddings": True, "objective": "ranker", "teacher": "big", "temperature": 0.25},
        {"objective": "ranker", "freeze_embeddings": True, "teacher_ranking": "big", "teacher_temperature": 0.25},
    ),
    "a warm start": (
        {"freeze_embeddings": True, "objective": "retrievers", "teacher": "teacher", "temperature": 0.5},
        {"objective": "retrievers", "freeze_embeddings": True, "teacher_temperature": 0.5},
    ),
    "a ranker of judgements": (
        {"freeze_embeddings": True, "objective": "labels", "teacher": "teacher", "temperature": 0.5},
        {"objective": "labels", "freeze_embeddings": True},
    ),
    "a distilled retriever": (
        {
            **{"contrastive_weight": 0.5, "objective": "kl", "teacher": "/home/me/ranker", "teacher_name": "big"},
            **{"temperature": 0.05, "teacher_temperature": 2.0},
        },
        {
            **{"loss": "kl", "temperature": 0.05, "teacher_ranking": "big", "teacher_temperature": 2.0},
            "contrastive_weight": 0.5,
        },
    ),
    "a retriever without a teacher": (
        {
            **{"contrastive_weight": 0.0, "objective": "contrastive", "teacher": None, "teacher_name": "teacher"},
            **{"temperature": 0.05, "teacher_temperature": 1.0},
        },
        {"loss": "contrastive", "temperature": 0.05},
    ),
    "a retriever of one round": ({"retriever": "dense", "stages": 1}, {"retriever": "dense", "rounds": 1}),
    "a retriever from the model of round 1": ({"stage2_from": "stage1"}, {}),
    "a retriever from the base model again": ({"stage2_from": "base"}, {"round2_from": "base"}),
    "a retriever": (
        {"head_steps": 300, "temperature": 0.05, "bf16": False},
        {"head_steps": 300, "temperature": 0.05, "mixed_precision": "no"},
    ),
}


@pytest.mark.parametrize("kind", FORMER)
def test_a_training_of_a_former_version_is_published_in_the_words_of_today(kind, tmp_path):
    config, expected = FORMER[kind]
    assert published(tmp_path, config) == expected
    assert (
        published(tmp_path, {**expected, **{key: config[key] for key in ("contrastive_weight",) if key in config}})
        == expected
    )


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_published_is_an_option_of_a_training(name):
    assert name in {field.name for stage in TRAININGS for config in configs(stage) for field in fields(config)}
