"""Protects the options of a recipe: file and command line give one config, and a mistake is one line that names it."""

import dataclasses
import errno
from enum import Enum
from pathlib import Path
from typing import Literal

import pytest
import yaml
from scripts import script

from r2anker_hf.config import former_names, parse_config, run_recipe, save_config, with_names_of_today
from r2anker_hf.records import InputError

REPOSITORY = Path(__file__).resolve().parents[1]


class Policy(Enum):
    UNION = "union"
    SINGLE = "single"


@dataclasses.dataclass
class MiningConfig:
    """One field of each kind that the recipes use."""

    runs: dict[str, str] = dataclasses.field(metadata={"help": "first stages", "metavar": "NAME=RUN"})
    depth: int = dataclasses.field(default=200, metadata={"help": "documents a query; 95 % lie above it"})
    lr: float = 2e-5
    revision: str | None = None
    retriever: Literal["bm25", "dense"] = "bm25"
    policy: Policy = Policy.UNION
    measures: list[str] = dataclasses.field(default_factory=lambda: ["MRR@10", "nDCG@10"])
    weights: dict[str, float] | None = None
    use_titles: bool = True
    resume: bool = False
    cache: Path | None = None
    hub_token: str | None = None

    def __post_init__(self):
        self.policy = Policy(self.policy)
        if self.depth > 10_000:
            raise ValueError(f"depth: {self.depth} is more than 10000")


@dataclasses.dataclass
class SeedConfig:
    seed: int = 42


RUNS = {"bm25": "A/run.trec", "dense": "B/run.trec"}
TYPED = ["--runs", "bm25=A/run.trec", "dense=B/run.trec"]


def parse(*args: str) -> MiningConfig:
    (config,) = parse_config(MiningConfig, args=args)
    return config


@pytest.fixture
def yaml_file(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def test_command_line_alone_gives_defaults_and_what_is_typed():
    assert parse(*TYPED, "--lr", "1e-5") == MiningConfig(runs=RUNS, lr=1e-5)


def test_file_alone_satisfies_a_required_option(yaml_file):
    path = yaml_file("runs: {bm25: A/run.trec, dense: B/run.trec}\ndepth: 50\n")
    assert parse("--config", path) == MiningConfig(runs=RUNS, depth=50)


@pytest.mark.parametrize(
    ("args", "field", "value"),
    [
        (["--depth", "7"], "depth", 7),
        (["--depth=7"], "depth", 7),
        (["--retriever", "dense"], "retriever", "dense"),
        (["--policy", "union"], "policy", Policy.UNION),
        (["--measures", "R@50"], "measures", ["R@50"]),
        (["--runs", "splade=C"], "runs", {"splade": "C"}),
        (["--weights", "bm25=1e-1", "dense=2"], "weights", {"bm25": 0.1, "dense": 2.0}),
        (["--use_titles"], "use_titles", True),
        (["--use-titles", "true"], "use_titles", True),
        (["--resume", "no"], "resume", False),
        (["--cache", "there"], "cache", Path("there")),
    ],
)
def test_command_line_wins_over_the_file(yaml_file, args, field, value):
    path = yaml_file(
        "runs: {bm25: A}\ndepth: 50\nretriever: bm25\npolicy: single\nmeasures: [MRR@10]\nweights: {bm25: 1}\n"
        "use_titles: false\nresume: true\ncache: here\n"
    )
    expected = dataclasses.replace(parse("--config", path), **{field: value})
    assert parse("--config", path, *args) == parse(*args, "--config", path) == expected != parse("--config", path)


def test_a_flag_that_is_on_by_default_has_its_opposite():
    assert parse(*TYPED, "--no_use_titles").use_titles is parse(*TYPED, "--use_titles", "false").use_titles is False


@dataclasses.dataclass
class RenamedConfig:
    first_stage: str = dataclasses.field(metadata={"help": "a run", "formerly": "run"})


def test_an_option_s_former_name_still_works_and_tells_the_new_one(yaml_file, capsys):
    path = yaml_file("run: a.trec\n")
    for args, told in (
        (["--run", "a.trec"], "--run: is called --first_stage now\n"),
        (["--config", path], f"{path}, line 1: run: is called first_stage now\n"),
        (["--first-stage", "a.trec"], ""),
    ):
        assert parse_config(RenamedConfig, args=args) == (RenamedConfig("a.trec"),)
        assert capsys.readouterr().err == told
    with pytest.raises(InputError, match="required: --first_stage"):
        parse_config(RenamedConfig, args=[])
    for given in ("first_stage: a.trec\nrun: b.trec\n", "run: a.trec\nfirst_stage: b.trec\n"):
        with pytest.raises(InputError, match=r"line 2: first_stage is given under two names$"):
            parse_config(RenamedConfig, args=["--config", yaml_file(given)])


@dataclasses.dataclass
class RenamedValues:
    computed_in: str = dataclasses.field(
        default="auto", metadata={"formerly": {"half": {"true": "bf16", "false": "no"}}}
    )


@pytest.mark.parametrize(("former", "today"), [("true", "bf16"), ("False", "no"), ("fp16", "fp16")])
def test_a_former_value_is_that_of_today_where_the_name_is_a_former_one(former, today, yaml_file, capsys):
    for args in (["--half", former], ["--config", yaml_file(f"half: {former}\n")]):
        assert parse_config(RenamedValues, args=args) == (RenamedValues(today),)
        assert capsys.readouterr().err.endswith("computed_in now\n")
    assert with_names_of_today({"half": yaml.safe_load(former)}, RenamedValues) == {"computed_in": today}
    assert parse_config(RenamedValues, args=["--computed_in", "true"]) == (RenamedValues("true"),)


@dataclasses.dataclass
class RenamedChoice:
    starts_from: Literal["round1", "base"] = dataclasses.field(
        default="round1", metadata={"formerly": {"stage2_from": {"stage1": "round1"}}}
    )


def test_a_former_choice_is_one_of_today_only_under_the_former_name(yaml_file):
    for args in (["--stage2_from", "stage1"], ["--config", yaml_file("stage2_from: stage1\n")]):
        assert parse_config(RenamedChoice, args=args) == (RenamedChoice("round1"),)
    for name in ("starts_from", "stage2_from"):
        with pytest.raises(InputError, match="invalid choice: 'stage3' .choose from 'round1', 'base'"):
            parse_config(RenamedChoice, args=[f"--{name}", "stage3"])
    with pytest.raises(InputError, match="invalid choice: 'stage1'"):
        parse_config(RenamedChoice, args=["--starts_from", "stage1"])


def test_a_renamed_mapping_too(capsys):
    shares = dataclasses.field(default_factory=dict, metadata={"formerly": "parts"})
    config = dataclasses.make_dataclass("Renamed", [("shares", dict[str, float], shares)])
    assert parse_config(config, args=["--parts", "a=1", "b=2"])[0].shares == {"a": 1.0, "b": 2.0}
    assert capsys.readouterr().err == "--parts: is called --shares now\n"


@dataclasses.dataclass
class RenamedTwice(RenamedConfig):
    kind: str = dataclasses.field(default="x", metadata={"help": "a kind", "formerly": ("run", "sort")})


def test_a_former_name_that_is_an_option_today_means_that_one_and_of_two_the_last_one_has_it():
    assert former_names(RenamedConfig) == {"run": "first_stage"}
    assert former_names(RenamedTwice) == {"run": "kind", "sort": "kind"}
    taken = dataclasses.make_dataclass("Taken", [("sort", int, 3)])
    assert former_names(RenamedTwice, taken) == {"run": "kind"}
    typed = ["--first_stage", "a", "--sort", "5", "--run", "y"]
    assert parse_config(RenamedTwice, taken, args=typed) == (RenamedTwice("a", "y"), taken(5))


def test_a_finished_stage_s_options_are_read_by_today_s_names():
    old = {"run": "a.trec", "depth": 7}
    assert with_names_of_today(old, RenamedConfig) == {"first_stage": "a.trec", "depth": 7}
    both = {"run": "a.trec", "first_stage": "b.trec"}
    assert with_names_of_today(both, RenamedConfig) == both


def test_several_configs_share_file_and_command_line(yaml_file):
    path = yaml_file("runs: {bm25: A}\nseed: 1\n")
    mining, seed = parse_config(MiningConfig, SeedConfig, args=["--config", path, "--depth", "3"])
    assert (mining, seed) == (MiningConfig(runs={"bm25": "A"}, depth=3), SeedConfig(seed=1))


@pytest.mark.parametrize("written", ["1e-5", "1.0e-5", "0.00001", "'1e-5'"])
def test_a_float_may_be_written_without_a_point(yaml_file, written):
    assert parse("--config", yaml_file(f"runs: {{a: A}}\nlr: {written}\n")).lr == 0.00001


def test_an_integer_is_a_float_and_null_is_none(yaml_file):
    config = parse("--config", yaml_file("runs: {a: A}\nlr: 1\nrevision: null\nweights: {a: 1}\n"))
    assert (config.lr, config.revision, config.weights) == (1.0, None, {"a": 1.0})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("runs: {a: A}\ndept: 7\n", r"mine.yaml, line 2: unknown key 'dept', did you mean 'depth'\?; known: .*resume"),
        ("runs: {a: A}\nnum-x: 7\n", r"line 2: unknown key 'num-x'; known: "),
        ("depth: 1\ndepth: 2\n", r"mine.yaml, line 2: the key 'depth' stands twice"),
        ("depth: seven\n", r"mine.yaml, line 1: depth: 'seven' is not a whole number"),
        ("depth: 7.5\n", "7.5 is not a whole number"),
        ("depth: true\n", "True is not a whole number"),
        ("depth: [1, 2]\n", r"\[1, 2\] is not a whole number"),
        ("depth: null\n", "None is not a whole number"),
        ("lr: small\n", "lr: 'small' is not a number"),
        ("lr: true\n", "True is not a number"),
        ("revision: 1234567\n", r"1234567 is not text \(put it in quotes\) or null"),
        ("retriever: bm26\n", "'bm26' is not one of 'bm25', 'dense'"),
        ("policy: all\n", "'all' is not one of 'union', 'single'"),
        ("use_titles: 1\n", "1 is not true or false"),
        ("measures: MRR@10\n", "'MRR@10' is not a list of text"),
        ("measures: [10]\n", "10 is not text"),
        ("runs: A/run.trec\n", "'A/run.trec' is not a mapping of names to text"),
        ("weights: {a: much}\n", "weights: {'a': 'much'} is not a mapping of names to a number or null"),
        ("runs: {a: A}\ndepth: -1\n", "mine.yaml, line 2: depth is -1, but must be at least 1"),
        ("runs: {a: ''}\n", "mine.yaml, line 1: runs is empty"),
        ("- depth\n", "holds no `key: value` lines"),
        ("depth: 7\n  bad: [\n", "mine.yaml, line 2: "),
        ("depth: \x00\n", "mine.yaml: "),
    ],
)
def test_a_mistake_in_the_file_names_file_line_and_choices(yaml_file, text, message):
    with pytest.raises(InputError, match=message):
        parse("--config", yaml_file(text))


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(InputError, match="absent.yaml: No such file"):
        parse("--config", str(tmp_path / "absent.yaml"))
    with pytest.raises(InputError, match="Is a directory"):
        parse("--config", str(tmp_path))
    (tmp_path / "bad.yaml").write_bytes(b"depth: 7 # caf\xe9\n")
    with pytest.raises(InputError, match="bad.yaml: byte 0xe9 at 14 is not UTF-8"):
        parse("--config", str(tmp_path / "bad.yaml"))


def test_an_empty_file_gives_nothing(yaml_file):
    assert parse("--config", yaml_file("# nothing yet\n"), *TYPED) == MiningConfig(runs=RUNS)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "required: --runs"),
        ([*TYPED, "--dept", "7"], "unknown argument '--dept', did you mean '--depth'"),
        ([*TYPED, "--dep=7"], "unknown argument '--dep=7', did you mean '--depth'"),
        ([*TYPED, "--depth", "x"], "--depth: invalid int value: 'x'"),
        ([*TYPED, "--depth", "0"], "depth is 0, but must be at least 1"),
        ([*TYPED, "--depth", "20000"], "depth: 20000 is more than 10000"),
        ([*TYPED, "--measures", "R@50", " "], "measures is empty"),
        ([*TYPED, "--use_titles", "maybe"], "--use_titles: .*maybe"),
        ([*TYPED, "--retriever", "bm26"], "invalid choice: 'bm26'.*bm25.*dense"),
        (["--runs", "A/run.trec"], "--runs: 'A/run.trec' is not of the form NAME=VALUE"),
        (["--runs", "=A"], "'=A' is not of the form NAME=VALUE"),
        (["--runs", "a=A", "a=B"], "--runs: the name 'a' is given twice"),
        (["--runs"], "--runs: expected at least one argument"),
        ([*TYPED, "--weights", "a=much"], "--weights: .*'much'"),
        ([*TYPED, "--config"], "--config: expected one argument"),
    ],
)
def test_a_mistake_on_the_command_line_names_the_option(args, message):
    with pytest.raises(InputError, match=message):
        parse(*args)


def test_a_value_may_hold_an_equals_sign():
    assert parse("--runs", "a=x=y.trec").runs == {"a": "x=y.trec"}


def test_help_shows_text_defaults_and_what_is_required(capsys, yaml_file):
    with pytest.raises(SystemExit) as stop:
        parse("--config", yaml_file("depth: 50\n"), "--help")
    text = " ".join(capsys.readouterr().out.split())
    assert stop.value.code == 0
    assert "--runs NAME=RUN [NAME=RUN ...] first stages (required)" in text
    assert "--depth DEPTH documents a query; 95 % lie above it (at least 1; default: 50)" in text
    assert "(default: MRR@10 nDCG@10)" in text
    assert "R2ANKER_TRACEBACK=1 in the environment prints the full trace" in text
    assert "--retriever {bm25,dense}" in text and "--use-titles" not in text


def test_a_saved_config_reads_back_equal_and_holds_no_token(tmp_path):
    config = MiningConfig(runs=RUNS, lr=1e-5, revision="1e5", weights={"a": 1e-7}, cache=Path("x"), hub_token="secret")
    path = save_config(config, tmp_path)
    assert path == tmp_path / "config.yaml" and "secret" not in path.read_text()
    assert parse("--config", str(path)) == dataclasses.replace(config, hub_token=None)


def test_configs_saved_together_read_back_equal(tmp_path):
    configs = (MiningConfig(runs=RUNS, measures=[]), SeedConfig(7))
    path = save_config(configs, tmp_path)
    assert list(yaml.safe_load(path.read_text()))[0] == "runs", "fields keep their order"
    assert parse_config(MiningConfig, SeedConfig, args=["--config", str(path)]) == configs


def test_training_arguments_can_be_a_config(tmp_path, yaml_file):
    from transformers import TrainingArguments

    path = yaml_file("output_dir: o\nlearning_rate: 1e-5\nreport_to: none\nuse_cpu: true\nlr_scheduler_type: cosine\n")
    (config,) = parse_config(TrainingArguments, args=["--config", path, "--seed", "7"])
    assert (config.learning_rate, config.seed, config.lr_scheduler_type) == (1e-5, 7, "cosine")
    (again,) = parse_config(TrainingArguments, args=["--config", str(save_config(config, tmp_path))])
    assert again.to_dict() == config.to_dict()


def test_run_recipe_calls_main_with_the_configs_of_its_annotations():
    called = []

    def main(mining: MiningConfig, seed: "SeedConfig") -> None:
        called.extend([mining, seed])

    run_recipe(main, args=TYPED)
    assert called == [MiningConfig(runs=RUNS), SeedConfig()]


def raising(error: Exception):
    def main(config: SeedConfig):
        raise error

    return main


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (InputError("a.trec, line 3:\nbad"), "error: a.trec, line 3: bad\n"),
        (OSError(errno.ENOSPC, "No space left on device", "out/x"), "error: out/x: No space left on device\n"),
        (PermissionError(errno.EACCES, "Permission denied", "out/x"), "error: out/x: Permission denied\n"),
    ],
)
def test_an_ordinary_failure_is_one_line_and_exit_code_2(capsys, error, line):
    with pytest.raises(SystemExit) as stop:
        run_recipe(raising(error), args=[])
    assert stop.value.code == 2 and capsys.readouterr().err == line


def test_a_recipe_as_a_script(tmp_path):
    path = tmp_path / "recipe.py"
    path.write_text(
        '"""Count to depth."""\n'
        "from dataclasses import dataclass\n"
        "from r2anker_hf.config import run_recipe\n"
        "@dataclass\nclass Counting:\n    depth: int\n"
        "def main(counting: Counting):\n    print(list(range(counting.depth)))\n"
        'if __name__ == "__main__":\n    run_recipe(main)\n'
    )

    good, bad, usage = script(path, "--depth", 3), script(path, "--depth", "x"), script(path, "--help")
    assert (good.returncode, good.stdout) == (0, "[0, 1, 2]\n")
    assert (bad.returncode, bad.stderr) == (
        2,
        "error: argument --depth: invalid int value: 'x', must be at least 1; see --help\n",
    )
    assert "Count to depth." in usage.stdout and "--depth DEPTH" in usage.stdout


@pytest.mark.parametrize(
    "path", sorted((REPOSITORY / "recipes" / "accelerate_configs").glob("*.yaml")), ids=lambda path: path.stem
)
def test_accelerate_reads_its_configs(path):
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.num_processes % config.num_machines == 0
    assert config.use_cpu == (path.stem == "cpu")
