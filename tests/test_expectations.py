"""Protects expected figures: a miss is said in one line and by the exit code, and no check passes by being empty."""

import pytest
import yaml
from published_toy import RECIPES, arguments, recipe, run, write_collection

from r2anker_hf.config import parse_config
from r2anker_hf.evaluation.expectations import Expected, misses, read_expected
from r2anker_hf.evaluation.measures import parse_measures
from r2anker_hf.records import InputError

ONE = Expected("nDCG@10", "bm25", 0.5, 0.01)


@pytest.mark.parametrize(
    ("found", "told"),
    [(0.5, None), (0.51, None), (0.49, None), (0.511, "0.0110 too high"), (0.4899, "0.0101 too low")],
)
def test_a_figure_may_be_as_far_away_as_the_tolerance(found, told):
    line = ONE.missed_by(found)
    assert line is None if told is None else line.endswith(told) and "expected 0.5000 ± 0.0100" in line


def test_only_what_was_measured_is_checked_and_something_must_be():
    other = Expected("nDCG@10", "dense", 0.5, 0.01)
    assert len(misses([ONE, other], {"nDCG@10": {"bm25": 0.6, "splade": 0.1}}, "F")) == 1
    with pytest.raises(InputError, match=r"F: the report has none of its figures \(nDCG@10 of dense\)"):
        misses([other], {"nDCG@10": {"bm25": 0.6}, "MRR@10": {"dense": 0.6}}, "F")


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ({"dev": {}}, "expects nothing of split 'test'; there are dev"),
        ({"test": {"nDGC@10": {"a": [0.5, 0.01]}}}, "nDGC@10"),
        ({"test": 7}, "test: is 7, but must be a mapping"),
        ({"test": {"nDCG@10": [0.5, 0.01]}}, r"test, nDCG@10: is \[0.5, 0.01\], but must be a mapping"),
        ({"test": {"nDCG@10": {"a": 0.5}}}, r"nDCG@10, a: is 0.5, but must be \[figure, tolerance\]"),
        ({"test": {"nDCG@10": {"a": [0.5]}}}, "must be .figure, tolerance"),
        ({"test": {"nDCG@10": {"a": [0.5, -0.1]}}}, "must be .figure, tolerance"),
        ({"test": {"nDCG@10": {"a": [0.5, float("inf")]}}}, "must be .figure, tolerance"),
    ],
)
def test_a_file_of_another_form_is_refused(tmp_path, content, told):
    (tmp_path / "e.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises(InputError, match=told):
        read_expected(tmp_path / "e.yaml", "test")


def test_measures_are_told_apart_without_regard_to_case(tmp_path):
    (tmp_path / "e.yaml").write_text(yaml.safe_dump({"test": {"ndcg@10": {"bm25": [0.9, 0.01]}}}))
    expected = read_expected(tmp_path / "e.yaml", "test")
    assert len(misses(expected, {"nDCG@10": {"bm25": 0.1}, "MRR@10": {"bm25": 0.9}}, "F")) == 1


def test_a_report_is_checked_when_it_is_made_and_later(tmp_path, capsys):
    write_collection(tmp_path / "toy")
    common = {"collection": tmp_path / "toy"}
    run("retrieve", "RetrievalConfig", **common, depth=9, output_dir=tmp_path / "bm25")
    runs = {"runs": f"bm25={tmp_path / 'bm25/run.trec'}", "measures": ["MRR@10", "R@9"], "resamples": 10}
    scoring = recipe("score")

    def score(**expected):
        (tmp_path / "e.yaml").write_text(yaml.safe_dump({"test": expected}))
        options = arguments(**common, **runs, expect=tmp_path / "e.yaml", output_dir=tmp_path / "report")
        scoring.main(*parse_config(scoring.ScoringConfig, args=options))

    with pytest.raises(SystemExit) as ended:
        score(**{"MRR@10": {"bm25": [7, 0.1]}, "R@9": {"bm25": [0, 0.1]}})
    lines = capsys.readouterr().out.splitlines()
    assert ended.value.code == 1 and (tmp_path / "report/report.html").exists()
    assert [line.split(" is ")[0] for line in lines if line.startswith("missed")] == [
        "missed: MRR@10 of bm25",
        "missed: R@9 of bm25",
    ]
    score(**{"MRR@10": {"bm25": [0.5, 0.5]}})  # the same report
    assert "finished before" in (printed := capsys.readouterr().out) and "e.yaml expects" in printed


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*/expected.yaml")), ids=str)
def test_shipped_expectations_are_measured_by_their_recipe(path):
    """Each split's measures stand in the settings that score it, and its figures are shares."""
    splits = yaml.safe_load(path.read_text())
    settings = {one.stem: yaml.safe_load(one.read_text()) for one in path.parent.glob("score*.yaml")}
    for split in splits:
        expected = read_expected(path, split)
        parse_measures(list({one.measure for one in expected}))
        chosen = settings.get(f"score_{split.partition('.')[0]}", settings["score"])
        assert {one.measure for one in expected} <= set(chosen["measures"])
        assert all(0 < one.tolerance < 0.05 < one.figure < 1 for one in expected)
