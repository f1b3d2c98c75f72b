"""Protects studies: tables of rankers over several first stages and seeds, and that no stage is done twice."""

import json
import re
import shutil
import statistics
import sys

import pytest
import yaml
from browser import needs_browser, seen
from published_toy import RECIPES, arguments, recipe, write_collection

from r2anker_hf import cli
from r2anker_hf.collection.collection import load_collection
from r2anker_hf.config import configs_of, parse_config
from r2anker_hf.evaluation.evaluation import Settings
from r2anker_hf.evaluation.fusion import fuse
from r2anker_hf.evaluation.measures import evaluate_run
from r2anker_hf.evaluation.study import ALL, detectable_difference, make_table, query_means
from r2anker_hf.evaluation.study_plan import Plan, Study
from r2anker_hf.records import InputError
from r2anker_hf.run import Run

QUERIES = [f"q{number}" for number in range(8)]


def values(*seeds):
    """One mapping of query values per seed, from a mean that every query has."""
    return [dict.fromkeys(QUERIES, mean) for mean in seeds]


def test_a_row_says_mean_worst_and_distance_over_the_first_stages_of_each_seed():
    rows = {"joint": {"bm25": values(0.5, 0.7), "dense": values(0.6, 0.6)}}
    (row,) = make_table(rows, "joint", "nDCG@10").rows
    assert row.columns["bm25"].mean == pytest.approx(0.6) and row.columns["bm25"].deviation == pytest.approx(0.02**0.5)
    assert row.mean.mean == pytest.approx((0.55 + 0.65) / 2)
    assert row.worst.mean == pytest.approx((0.5 + 0.6) / 2)  # the worst differs from seed to seed
    assert row.distance.mean == pytest.approx(0.1) and row.seeds == 2


def test_one_seed_has_no_deviation():
    (row,) = make_table({"one": {"bm25": values(0.5)}}, "one", "nDCG@10").rows
    assert row.mean.deviation is None and row.distance.mean == 0


def test_tests_are_of_query_means_over_seeds_and_corrected_over_all_columns():
    better = [{q: 0.5 + 0.1 * (place > 0) for place, q in enumerate(QUERIES)}, values(0.6)[0]]
    rows = {
        "one": {"bm25": values(0.5, 0.5), "dense": values(0.4, 0.4)},
        "joint": {"bm25": better, "dense": values(0.4, 0.4)},
    }
    table = make_table(rows, "one", "nDCG@10", Settings(resamples=2000))
    over = table.comparisons["joint"]
    assert list(over) == ["bm25", "dense", ALL] and "one" not in table.comparisons
    assert over["bm25"].difference == pytest.approx((7 * 0.1 + 0.05) / 8) and over["bm25"].wins == 8
    assert over[ALL].difference == pytest.approx(over["bm25"].difference / 2)
    assert over["dense"].p_value == 1 and over["bm25"].p_corrected > over["bm25"].p_value
    differences = [better_by - 0.5 for better_by in query_means(rows["joint"])["bm25"].values()]
    assert table.detectable["joint"]["bm25"] == pytest.approx(detectable_difference(differences, tests=3))


def test_a_difference_that_is_detectable_is_detected_in_four_studies_of_five():
    import numpy as np
    from scipy.stats import ttest_1samp

    generator = np.random.default_rng(0)
    true = detectable_difference(generator.normal(0, 0.3, 100_000).tolist(), queries=60)
    found = [ttest_1samp(generator.normal(true, 0.3, 60), 0).pvalue < 0.05 for _ in range(1500)]
    assert 0.76 < np.mean(found) < 0.84
    assert detectable_difference([0.5]) is None
    assert detectable_difference([0.0, 1.0], tests=24) > detectable_difference([0.0, 1.0])


@pytest.mark.parametrize(
    ("rows", "reference", "told"),
    [
        ({"a": {"bm25": values(1)}}, "b", "no row is called 'b'; there are a"),
        ({"a": {"bm25": values(1)}, "b": {"dense": values(1)}}, "a", "row 'b' has first stages dense, but 'a' bm25"),
        ({"a": {"bm25": values(1), "dense": values(1, 1)}}, "a", "not the same number of seeds"),
        ({"a": {"bm25": values(1), "dense": [{"q0": 1.0}]}}, "a", "measured on other queries"),
    ],
)
def test_tables_that_cannot_be_compared_are_refused(rows, reference, told):
    with pytest.raises(InputError, match=told):
        make_table(rows, reference, "nDCG@10")


def test_query_means_hold_every_query_once():
    assert query_means({"bm25": values(0.2, 0.4)})[ALL] == dict.fromkeys(QUERIES, pytest.approx(0.3))


RETRIEVER = {"retriever": "dense", "rounds": 1, "num_negatives": 1, "per_device_train_batch_size": 4}
RETRIEVER |= {"num_train_epochs": 1, "max_queries": 4, "max_length": 32}


@pytest.fixture(scope="module")
def toy(tmp_path_factory, tiny_model):
    """The YAML of a study: rows that learn, are taught by another, or do not learn; two seeds, three first stages."""
    folder = tmp_path_factory.mktemp("study")
    write_collection(folder / "toy")
    options = {"max_steps": 1, "num_negatives": 2, "per_device_train_batch_size": 2, "max_length": 32}
    written = {
        "collections": {"toy": {"collection": str(folder / "toy"), "dev": None}},
        "trained": {"own": {**RETRIEVER, "model": str(tiny_model)}},
        "retrievers": {"bm25": {"depth": 20}, "dense": {"trained": "own/D1", "depth": 20}},
        "first_stages": ["bm25", "fused"],
        "rankers": {"bm25": {"retrievers": ["bm25"]}, "joint": {}, "taught": {"taught_by": "bm25"}},
        "start": {"objective": "ranker", "teacher_ranking": "fused"},
        "rerankers": {"untrained": str(tiny_model), "dense": "dense", "unlabelled": "start"},
        "reference": "bm25",
        "seeds": [1, 2],
        "added": ["fused"],
        "train_queries": 6,
        "mine": {"depth": 10, "audit_queries": 0},
        "train": {**options, "model": str(tiny_model), "mixed_precision": "no", "report_to": "none"},
        "rerank": {"depth": 5},
        "measures": ["nDCG@10", "MRR@10"],
        "published": {"joint": {"bm25": 0.4}},
    }
    path = folder / "study.yaml"
    path.write_text(yaml.safe_dump(written))
    return path, written


def study(path, folder, **options):
    module = recipe("study")
    done = []

    def in_this_process(words):
        done.append(words)
        argv = sys.argv
        try:
            cli.run(words[1].rpartition("/")[2].removesuffix(".py").replace("_", "-"), words[2:])
        finally:
            sys.argv = argv
        return 0

    module.exit_code = in_this_process
    module.main(*parse_config(module.StudyConfig, args=arguments(study=path, output_dir=folder, **options)))
    return done


@pytest.fixture(scope="module")
def finished(toy, tmp_path_factory):
    folder = tmp_path_factory.mktemp("studied") / "out"
    return folder, study(toy[0], folder)


def test_every_stage_is_done_once_and_leaves_an_ordinary_folder(finished):
    folder, done = finished
    recipes = [words[1].rpartition("/")[2] for words in done]
    # 2 retrievers x 2 splits; fused test and train; 1 set of candidates; 2 rows x 2 seeds; 1 teacher x 2 seeds
    # for 1 more row; 1 start of all; 9 rankers x 2 first stages x 2 splits
    counts = {"train_retriever.py": 1, "retrieve.py": 4, "fuse.py": 2, "mine.py": 1, "train_ranker.py": 7}
    counts |= {"teach.py": 2, "rerank.py": 36}
    assert {name: recipes.count(name) for name in dict.fromkeys(recipes)} == counts
    assert sum("--scored" in words for words in done) == 18  # over the second first stage
    assert all((folder / words[-1] / "provenance.json").is_file() for words in done)
    commands = (folder / "tables/commands.txt").read_text().splitlines()
    assert len(commands) == len(done) and all(line.startswith("python recipes/") for line in commands)


def test_rows_draw_from_the_retrievers_that_they_name(finished):
    folder, _ = finished
    told = {
        row: yaml.safe_load((folder / f"toy/rankers/{row}.1/config.yaml").read_text()).get("retrievers")
        for row in ("bm25", "joint")
    }
    assert told == {"bm25": ["bm25"], "joint": []}  # [] draws from all


def test_rows_go_on_from_one_start_that_learned_from_the_fused_ranking(finished):
    folder, _ = finished
    start = folder / "toy/start"
    told = yaml.safe_load((start / "config.yaml").read_text())
    assert (told["objective"], told["teacher_ranking"], told["seed"]) == ("ranker", "fused", 1)
    for row in ("bm25.1", "joint.2", "taught.2"):
        told = yaml.safe_load((folder / f"toy/rankers/{row}/config.yaml").read_text())
        assert (told["model"], told["objective"]) == (str(start), "labels")


def test_a_row_is_taught_by_the_ranker_of_its_own_seed(finished):
    folder, _ = finished
    for seed in (1, 2):
        told = yaml.safe_load((folder / f"toy/rankers/taught.{seed}/config.yaml").read_text())
        assert (told["policy"], told["negatives_ranking"]) == ("redistributed", "bm25")
        assert told["negatives"] == [str(folder / f"toy/taught/bm25.{seed}")]
        teaching = yaml.safe_load((folder / f"toy/taught/bm25.{seed}/config.yaml").read_text())
        assert teaching["ranker"] == str(folder / f"toy/rankers/bm25.{seed}")


def test_what_a_ranker_loses_from_its_own_queries_to_others_is_told(finished):
    folder, _ = finished
    whole = json.loads((folder / "tables/study.json").read_text())
    assert (
        list(whole["tables"]) == ["toy", "toy.train", "toy.added"] and whole["tables"]["toy.train"][0]["queries"] == 6
    )
    (gap,) = (gap for gap in whole["gaps"] if gap["measure"] == "MRR@10")
    means = {
        name: {row["name"]: row["columns"]["fused"]["mean"] for row in table["rows"]}
        for name, tables in whole["tables"].items()
        for table in tables
        if table["measure"] == "MRR@10"
    }
    for row in ("bm25", "joint", "taught"):
        assert gap["rows"][row]["fused"] == [means["toy.train"][row], means["toy"][row]]
    assert "MRR@10: queries learned from, and others" in (folder / "tables/study.md").read_text()


def test_what_each_ranker_adds_to_its_first_stage_is_told_and_tested(toy, finished):
    folder, _ = finished
    whole = json.loads((folder / "tables/study.json").read_text())
    table = next(table for table in whole["tables"]["toy.added"] if table["measure"] == "nDCG@10")
    means = {row["name"]: row["columns"] for row in table["rows"]}
    assert means.pop("first stage only")["fused"]["mean"] == whole["free"]["toy"]["nDCG@10"]["fused"]
    assert means.keys() == table["comparisons"].keys() == {row["name"] for row in whole["tables"]["toy"][0]["rows"]}
    qrels = load_collection(toy[1]["collections"]["toy"]["collection"], "test").qrels
    first = Run.read_trec(folder / "toy/runs/test/fused/run.trec")
    found = []
    for seed in (1, 2):
        run = Run.read_trec(folder / f"toy/reranked/test/fused/bm25.{seed}/run.trec")
        joined = evaluate_run(qrels, fuse([run, first], "standardise", within=run), ["nDCG@10"])
        found.append(statistics.mean(joined["nDCG@10"].values()))
    expected = statistics.mean(found)
    assert means["bm25"]["fused"]["mean"] == pytest.approx(expected)
    compared = table["comparisons"]["bm25"]
    assert compared.keys() == {"fused"}  # one first stage: no mean over them
    free = whole["free"]["toy"]["nDCG@10"]["fused"]
    assert compared["fused"]["difference"] == pytest.approx(expected - free)
    text = (folder / "tables/study.md").read_text().partition("added to its first stage")[2]
    assert "| ranker | seeds | fused |\n" in text and text.count("| first stage only |") == 2


def test_the_tables_hold_every_row_and_their_figures_agree(finished):
    folder, _ = finished
    whole = json.loads((folder / "tables/study.json").read_text())
    by_measure = {table["measure"]: table for table in whole["tables"]["toy"]}
    assert list(by_measure) == ["nDCG@10", "MRR@10"]
    table = by_measure["nDCG@10"]
    assert [(row["name"], row["seeds"]) for row in table["rows"]] == [
        ("bm25", 2),
        ("joint", 2),
        ("taught", 2),
        ("dense", 1),
        ("unlabelled", 1),
        ("untrained", 1),
    ]
    for row in table["rows"]:
        assert row["worst"]["mean"] <= row["mean"]["mean"] <= row["worst"]["mean"] + row["distance"]["mean"]
    text = (folder / "tables/study.md").read_text()
    assert f"{table['rows'][1]['columns']['fused']['mean']:.4f}" in text and "first stage only" in text
    assert "| joint | bm25 | 0.4000 |" in text


def test_a_finished_study_does_nothing_twice_and_a_grown_one_only_what_is_new(toy, finished, tmp_path):
    folder, _ = finished
    path, written = toy
    assert study(path, folder) == []
    less = {
        "rerankers": {},
        "first_stages": ["bm25"],
        "added": [],
        "train_queries": 0,
        "rankers": {"bm25": {"retrievers": ["bm25"]}, "joint": {}},
    }
    grown = tmp_path / "study.yaml"
    grown.write_text(yaml.safe_dump({**written, **less, "seeds": [1, 2, 3]}))
    tasks = Plan(Study.read(str(grown)), folder).tasks()
    assert [task.folder.name for task in tasks if not task.done] == ["bm25.3", "joint.3", "bm25.3", "joint.3"]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"mine": {"depth": 9, "audit_queries": 0}}, r"toy/negatives: was made with other values of depth; remove"),
        ({"rankers": {"bm25": {}, "joint": {}}}, r"rankers/bm25.1: was made with other values of retrievers"),
        ({"train_queries": 5}, "reranked/train/bm25/.*: was made with other values of query_ids"),
    ],
)
def test_a_study_that_changed_takes_over_no_stage_of_the_former_one(toy, finished, tmp_path, change, told):
    folder, _ = finished
    changed = tmp_path / "study.yaml"
    changed.write_text(yaml.safe_dump({**toy[1], **change}))
    with pytest.raises(InputError, match=told):
        study(changed, folder)


def test_what_stands_on_a_missing_stage_is_not_taken_over(toy, finished, tmp_path):
    folder = shutil.copytree(finished[0], tmp_path / "moved")  # a study may move
    assert study(toy[0], folder) == []
    shutil.rmtree(folder / "toy/start")
    with pytest.raises(InputError, match="rankers/bm25.1: was made from .*toy/start, which is missing"):
        study(toy[0], folder)


def test_a_dry_run_prints_commands_and_costs_and_does_nothing(toy, tmp_path, capsys):
    assert study(toy[0], tmp_path / "out", dry_run="true") == [] and not (tmp_path / "out").exists()
    printed = capsys.readouterr().out
    assert printed.count("python recipes/train_ranker.py") == 7 and "rerank: 36 to do, 0 done" in printed


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rankers": {"a": {"retrievers": ["xyz"]}}}, "rankers: a names 'xyz'; there are bm25, dense"),
        ({"first_stages": ["xyz"]}, "first_stages: 'xyz' is no retriever; choose among bm25, dense, fused"),
        ({"added": ["dense"]}, "added: 'dense' is not reranked; choose among bm25, fused"),
        (
            {"reference": "xyz"},
            "reference: 'xyz' is no ranker; choose among bm25, joint, taught, dense, unlabelled, untrained",
        ),
        ({"retrievers": {"bm25": {}, "D2": {"trained": "x/D2"}}}, "D2 takes 'x/D2'; there is own/D2"),
        ({"retrievers": {"D2": {"trained": "x/D2"}}, "trained": {}}, "there is nothing: add the section trained"),
        ({"rankers": {"bm25": {}, "a": {"taught_by": "a"}}}, "rankers: a is taught by 'a'; choose among bm25"),
        ({"rerankers": {"joint": "M"}}, "share a name"),
        ({"retrievers": {"bm25": {}, "start": {}}}, "retrievers: 'start' already names something of a study"),
        ({"start": {}}, "unlabelled is the rankers' start, and the section start says none"),
        ({"rerankers": {"x": "bm25"}}, "rerankers: x is 'bm25', which has no model that could rerank"),
        ({"collections": {"toy": {}}}, "toy says no collection"),
        ({"measures": ["xyz"]}, "xyz"),
        ({"seeds": [1, 2, 1]}, "seeds: 1, 2, 1 name one seed twice"),
        ({"published": {"joint": {"bm25": ".4"}}}, "published: joint over bm25 is '.4', but must be a number"),
        ({"xyz": 1}, "unknown key 'xyz'; choose among collections"),
        ({"rankers": 7}, "a value has a wrong form"),
    ],
)
def test_a_study_that_does_not_resolve_is_refused_with_its_file(toy, tmp_path, change, told):
    path = tmp_path / "study.yaml"
    path.write_text(yaml.safe_dump({**toy[1], **change}))
    with pytest.raises(InputError, match=told) as error:
        Study.read(str(path))
    assert str(error.value).startswith(f"{path}: ")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("studies/*.yaml")), ids=lambda path: path.name)
def test_a_study_of_ours_resolves_and_its_published_figures_have_their_cells(path):
    study = Study.read(str(path))
    assert set(study.published) <= {*study.rankers, *study.rerankers}
    assert all(set(columns) <= set(study.first_stages) for columns in study.published.values())
    plan = Plan(study, path.parent)
    for task in plan.tasks():  # every option is one of its recipe's, and has a value that it takes
        module = recipe(task.recipe)
        parse_config(*configs_of(module.main), args=task.command()[2:])


def test_what_a_row_must_stand_within_is_mined_whole_and_is_a_retriever(tmp_path):
    study = Study.read("studies/paper.yaml")
    plan = Plan(study, tmp_path)
    assert plan.mining("nfcorpus").options["constraints"] == {"bm25": plan.run("nfcorpus", "train", "bm25")}
    study.rankers["constrained"]["within"] = "xyz"
    with pytest.raises(InputError, match="constrained names 'xyz'; there are bm25, D2, L2"):
        study.check()


def test_a_stage_that_fails_ends_the_study_with_its_command(toy, tmp_path):
    module = recipe("study")
    module.exit_code = lambda words: 2
    with pytest.raises(InputError, match=r"exit code 2: python recipes/train_retriever.py --collection"):
        module.main(
            *parse_config(module.StudyConfig, args=arguments(study=toy[0], output_dir=tmp_path / "out", jobs=2))
        )


@needs_browser
def test_the_page_compares_two_systems_query_by_query(finished, tmp_path):
    folder, _ = finished
    shown = seen(folder / "tables/study.html", tmp_path)
    (told,) = re.findall(r'id="told" role="status">([^<]*)<', shown)
    assert re.fullmatch(r"0\.\d{4} → 0\.\d{4}: \d+ gain, \d+ equal, \d+ lose", told)
    assert sum(map(int, re.findall(r"(\d+) (?:gain|equal|lose)", told))) == 22
    assert shown.count('class="passage"') == 20 and "which function of the" in shown


@needs_browser
@pytest.mark.parametrize("collection, system, passages", [("toy", ["joint", "mean"], 10), ("toy.added", None, 20)])
def test_any_collection_and_any_mean_can_be_compared(finished, tmp_path, collection, system, passages):
    choose = f"""const pick = (id, value) => {{ const one = document.getElementById(id); one.value = value;
      one.dispatchEvent(new Event("change", {{ bubbles: true }})); }};
    pick("collection", {json.dumps(collection)});
    if ({json.dumps(system)}) pick("after", JSON.stringify({json.dumps(system)}));"""
    shown = seen(finished[0] / "tables/study.html", tmp_path, choose)
    cases = shown[shown.index('<div id="cases">') : shown.index('id="more"')]
    assert cases.count('class="passage"') == 20 and cases.count("has no passages of its own") == 20 - passages
    assert " over mean" not in cases or system


@needs_browser
def test_the_page_sorts_its_tables(finished, tmp_path):
    folder, _ = finished
    click = "document.querySelectorAll('table.sortable thead button')[3].click();"  # over fused, largest first
    shown = seen(folder / "tables/study.html", tmp_path, click)
    rows = re.findall(r"<tr>.*?</tr>", shown[shown.index("<tbody>") : shown.index("</tbody>")], re.DOTALL)
    values = [float(re.findall(r'data-value="([^"]*)"', row)[-4]) for row in rows]
    assert len(values) == 7 and values == sorted(values, reverse=True) and len(set(values)) > 1


def test_a_text_cannot_leave_the_script_that_holds_it():
    from r2anker_hf.templates import embedded

    assert "<" not in str(embedded({"text": "</script><b>"}))
    assert json.loads(str(embedded({"text": "</script>&"}))) == {"text": "</script>&"}
