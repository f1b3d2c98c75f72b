"""Protects the ranges of options: every number of every recipe has one, and none outside it gets past the door."""

import math
from typing import get_args, get_origin

import pytest
from every_recipe import CONFIGS, configs, leaves, numbers, parser, required

from r2anker_hf.ranges import COUNT, LARGEST, POSITIVE, PROBABILITY, RANGES, Range, check, range_of
from r2anker_hf.records import InputError

BAD = ("nan", "inf", "-inf", "-1", "-1e-300", "1e300", str(10**30))


def container(hint):
    """dict or list where a hint is one of them, be it optional; else None."""
    return next((get_origin(part) for part in (hint, *get_args(hint)) if get_origin(part) in (dict, list)), None)


def fields(stage):
    return {field.name: field for config in configs(stage) for field in config.__dataclass_fields__.values()}


@pytest.mark.parametrize("stage", CONFIGS)
def test_every_number_has_a_range_that_holds_its_default(stage):
    for field, _ in numbers(stage):
        allowed = range_of(field)
        assert allowed is not None, f"{stage}: give {field.name} a range, in ranges.RANGES or in its metadata"
        if isinstance(field.default, int | float) and field.default is not None:
            assert field.default in allowed, field.name


@pytest.mark.parametrize("stage", CONFIGS)
def test_no_number_out_of_range_gets_past_the_door(stage, tmp_path):
    """By the command line and by a file; the one line names option, value and range."""
    door, file, tried = parser(stage), tmp_path / "options.yaml", 0
    for field, hint in numbers(stage):
        kind, allowed = float if float in leaves(hint) else int, range_of(field)
        for text in BAD:
            if kind is int and not text.lstrip("-").isdigit() or kind(text) in allowed:
                continue
            tried += 1
            typed = [f"--{field.name}", f"a={text}"] if container(hint) is dict else [f"--{field.name}={text}"]
            with pytest.raises(InputError) as refused:
                door.parse_known_args([*required(door, field.name), *typed])
            assert field.name in str(refused.value) and f"must be {allowed}" in str(refused.value)
            assert str(kind(text)) in str(refused.value)
            value = {"nan": ".nan", "inf": ".inf", "-inf": "-.inf"}.get(text, text)
            value = {dict: f"{{a: {value}}}", list: f"[{value}]"}.get(container(hint), value)
            file.write_text(f"# options\n{field.name}: {value}\n")
            with pytest.raises(InputError, match=rf"options.yaml, line 2: {field.name}.*, but must be "):
                door.use_file(str(file))
    assert tried or not list(numbers(stage))


@pytest.mark.parametrize("stage", CONFIGS)
def test_what_is_no_number_is_refused_with_the_range(stage):
    door = parser(stage)
    for field, hint in numbers(stage):
        prefix = "a=" if container(hint) is dict else ""
        for text in ("seven", "nan" if int in leaves(hint) else "1,5", "0x10"):
            with pytest.raises(InputError, match=rf"--{field.name}\b.*'{text}', must be "):
                door.parse_known_args([*required(door, field.name), f"--{field.name}", f"{prefix}{text}"])


def test_the_table_names_numbers_only_and_none_that_nobody_has():
    known = {field.name for stage in CONFIGS for field, _ in numbers(stage)}
    assert RANGES.keys() <= known
    for stage in CONFIGS:
        texts = fields(stage).keys() - {field.name for field, _ in numbers(stage)}
        assert not RANGES.keys() & texts, f"{stage}: these are no numbers"


@pytest.mark.parametrize(
    ("allowed", "inside", "outside", "text"),
    [
        (COUNT, (1, LARGEST), (0, -1, LARGEST + 1), "at least 1"),
        (POSITIVE, (1e-300, 1), (0, -0.0, -1e-300), "above 0"),
        (PROBABILITY, (0, 0.999), (1, -1e-9), "at least 0 and below 1"),
        (Range(above=0, most=1), (1e-9, 1), (0, 1.001), "above 0 and at most 1"),
        (Range(least=1, also=(-1,)), (-1, 1), (-2, 0), "-1, or at least 1"),
    ],
)
def test_bounds_and_their_words(allowed, inside, outside, text):
    assert all(value in allowed for value in inside)
    assert not any(value in allowed for value in (*outside, math.nan, math.inf, -math.inf))
    assert str(allowed) == text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"bm25": 1, "dense": 0}, r"^x\[dense\] is 0, but must be at least 1$"),
        ([1, -1], "^x is -1, but must be at least 1$"),
        ("7", "^x is '7', but must be a number, at least 1$"),
        (LARGEST + 1, f"^x is {LARGEST + 1}, but must be at least 1 and at most {LARGEST}$"),
    ],
)
def test_what_check_says(value, message):
    check("x", None, COUNT)
    with pytest.raises(InputError, match=message):
        check("x", value, COUNT)


@pytest.mark.parametrize("stage", CONFIGS)
def test_no_launcher_takes_an_option_for_its_own(stage):
    """Neither torch.distributed.run nor accelerate launch, whose options may be abbreviated."""
    import torch.distributed.run
    from accelerate.commands.launch import launch_command_parser

    launchers = torch.distributed.run.get_args_parser(), launch_command_parser()
    former = {f"--{name}" for name in parser(stage).formerly}
    for action in parser(stage)._actions:
        for option in {*action.option_strings} - former - {"-h", "--help"}:
            for launcher in launchers:
                found = launcher.parse_args(["recipe.py", option, "value"])
                assert found.training_script_args == [option, "value"], option
