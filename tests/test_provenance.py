"""Protects what a card says of a training: the options that decide its numbers, by today's names, none forgotten."""

import json
from dataclasses import fields

import pytest
import yaml
from every_recipe import configs

from r2anker_hf.negatives.sampling import Sampling
from r2anker_hf.publishing.provenance import SETTINGS, read_stage

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


@pytest.mark.parametrize("name", SETTINGS)
def test_what_is_published_is_an_option_of_a_training(name):
    assert name in {field.name for stage in TRAININGS for config in configs(stage) for field in fields(config)}
