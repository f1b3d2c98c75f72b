"""Means over seeds are of the same queries, and a test is of their means."""

import json
import statistics

import pytest
from published_toy import recipe

from r2anker_hf.records import InputError


def report(path, a, b, queries=("1", "2", "3"), collection=None):
    values = {
        "collection": collection,
        "measures": ["MRR@10"],
        "query_ids": list(queries),
        "per_query": {"MRR@10": {"a": a, "b": b}},
    }
    path.write_text(json.dumps(values))
    return str(path)


def test_means_deviation_and_wins_over_seeds(tmp_path, capsys):
    first = report(tmp_path / "42.json", [0.0, 0.5, 1.0], [1.0, 0.5, 1.0])
    second = report(tmp_path / "43.json", [0.5, 0.5, 1.0], [0.5, 0.0, 0.0])
    over_seeds = recipe("over_seeds")
    over_seeds.main(over_seeds.SeedsConfig([first, second]))
    lines = capsys.readouterr().out.splitlines()
    deviation = statistics.stdev([1.5 / 3, 2 / 3])
    assert lines[0].split() == ["MRR@10", "a", f"{3.5 / 6:.4f}", "±", f"{deviation:.4f}", "over", "2", "seed(s)"]
    assert lines[1].split()[:3] == ["MRR@10", "b", f"{3 / 6:.4f}"]
    # by query: a .25, .5, 1 and b .75, .25, .5
    assert "b against a: -0.0833" in lines[2] and lines[2].endswith("1 wins, 2 losses")


def test_other_queries_are_refused(tmp_path):
    over_seeds = recipe("over_seeds")
    first = report(tmp_path / "42.json", [0.0], [1.0], ["1"])
    second = report(tmp_path / "43.json", [0.0], [1.0], ["2"])
    with pytest.raises(InputError, match=r"43.json: has other measures, queries or systems than .*42.json"):
        over_seeds.main(over_seeds.SeedsConfig([first, second]))
    (tmp_path / "44.json").write_text("no report")
    with pytest.raises(InputError, match=r"44.json: is no report of score.py"):
        over_seeds.main(over_seeds.SeedsConfig([first, str(tmp_path / "44.json")]))


def test_reports_of_other_judgements_or_given_twice_are_refused(tmp_path):
    over_seeds = recipe("over_seeds")
    facts = {"name": "here/toy", "revision": "sha256:1", "split": "test"}
    first, moved, other = (
        report(tmp_path / f"{name}.json", [0.0, 0.5, 1.0], [1.0, 0.5, 1.0], collection={**facts, **change})
        for name, change in (("first", {}), ("moved", {"name": "there/toy"}), ("other", {"split": "dev"}))
    )
    over_seeds.main(over_seeds.SeedsConfig([first, moved]))
    with pytest.raises(InputError, match=r"other.json: was measured on another collection, split or judgements than"):
        over_seeds.main(over_seeds.SeedsConfig([first, other]))
    with pytest.raises(InputError, match="one is given twice"):
        over_seeds.main(over_seeds.SeedsConfig([first, first]))
