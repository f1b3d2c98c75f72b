"""A ranker of several collections states each of them with its share, and another share or collection is caught."""

import json
import re
import shutil

import pytest
from huggingface_hub import ModelCard
from test_verify import forge

from r2anker_hf.publishing import cards, licences, mixtures
from r2anker_hf.publishing.preparing import Stated, data_licences, prepare
from r2anker_hf.publishing.verify import check_folder, parse_tables
from r2anker_hf.records import InputError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def reports_of(folder):
    return [folder / "report", folder / "on_toy" / "report"]


@pytest.fixture(scope="module")
def prepared(mixed, tmp_path_factory):
    folder, _ = mixed
    into = tmp_path_factory.mktemp("mixture") / "ranker"
    return prepare("ranker", folder / "ranker", "me/mix", into=into, report=reports_of(folder)).folder


@pytest.fixture
def copy(prepared, tmp_path):
    return shutil.copytree(prepared, tmp_path / "copy")


def provenance_of(folder):
    return json.loads((folder / "provenance.json").read_text())


def test_shares_are_those_of_the_training(prepared, mixed):
    (((sizes, weights, temperature), counts),) = mixed[1]
    sets = mixtures.sets_of(provenance_of(prepared))
    # 33 training queries less 5 held out, but 20 at most; 12; weights 3 and 1
    assert [one["training_queries"] for one in sets] == sizes == [20, 12] and (weights, temperature) == ([3, 1], 1)
    assert [one["epoch_queries"] for one in sets] == counts == [24, 8]
    assert [one["share"] for one in sets] == [0.75, 0.25]


def test_the_card_states_each_collection(prepared):
    card = (prepared / "README.md").read_text()
    (table,) = (table for table in parse_tables(card) if table.header[0] == "set")
    assert [row[1:] for row in table.rows] == [
        ("toy", "`train`", "cc-by-4.0", "20", "24", "75.00%"),
        ("other", "`train`", "cc-by-nc-4.0", "12", "8", "25.00%"),
    ]
    for said in ("### 1: toy", "### 2: other", "| mixture_weights | \\[3.0, 1.0\\] |", "like that of toy and other,"):
        assert said in card, said
    assert (prepared / "plots/negatives_1_agreement.png").is_file() and "plots/negatives_1_agreement.png" in card
    assert "negatives_2" not in card and "None" not in card and "\n\n\n\n" not in card
    assert ModelCard(card).data.license == "cc-by-nc-4.0" and "datasets" not in ModelCard(card).data.to_dict()
    assert check_folder(prepared) == []


@pytest.mark.parametrize(
    "known, stated, carried",
    [
        (("mit", "cc-by-nc-4.0"), None, "cc-by-nc-4.0"),
        (("cc-by-nc-4.0", "mit"), None, "cc-by-nc-4.0"),
        (("mit", None), None, "mit"),
        ((None, None), "apache-2.0", "apache-2.0"),
        (
            (None, "cc-by-nc-4.0"),
            "mit",
            "licence mit: clashes with cc-by-nc-4.0, that of training data 2, b: it forbids",
        ),
    ],
)
def test_the_strictest_licence_holds(known, stated, carried):
    sources = data_licences({"mixture": [{"name": "a", "licence": known[0]}, {"name": "b", "licence": known[1]}]})
    if carried.startswith("licence "):
        with pytest.raises(InputError, match=carried):
            licences.carried(stated, sources, derived=False)
    else:
        assert licences.carried(stated, sources, derived=False) == carried


def first(provenance):
    return provenance["negatives"]["mixture"][0]


@pytest.mark.parametrize(
    "change, failure",
    [
        (lambda p: first(p).update(share=0.8), "toy: share is stated as 0.8, but the settings give 0.75"),
        (lambda p: first(p).update(training_queries=28), "training_queries is stated as 28, but the settings give 20"),
        (lambda p: first(p).update(epoch_queries=25), "epoch_queries is stated as 25, but the settings give 24"),
        (lambda p: first(p).update(split="dev"), "split is stated as dev, but the settings give train"),
        (lambda p: p["stages"][-1]["settings"].update(mixture_weights=[1, 1]), "share is stated as 0.75, but .* 0.5"),
        (lambda p: first(p).update(revision="sha256:" + 64 * "0"), "is stated, but the training recorded sha256:"),
        (lambda p: p["negatives"]["mixture"].reverse(), "is stated, but the training recorded sha256:"),
        (lambda p: p["negatives"]["mixture"].pop(), "1 are stated, but the training recorded 2"),
        (lambda p: p["stages"][-1]["inputs"].pop("negatives 2"), "2 are stated, but the training recorded 1"),
    ],
)
def test_another_share_or_collection_is_caught(prepared, change, failure):
    provenance = provenance_of(prepared)
    assert mixtures.differences(provenance) == []
    change(provenance)
    assert re.search(failure, "\n".join(mixtures.differences(provenance)))


def test_a_forger_who_makes_card_and_hashes_fit_is_caught(copy):
    provenance = provenance_of(copy)
    first(provenance).update(share=0.8)
    (copy / "provenance.json").write_text(json.dumps(provenance))
    (copy / "README.md").write_text(cards.render("ranker", *cards.read(copy)))
    forge(copy)
    (failure,) = check_folder(copy)
    assert failure.endswith("toy: share is stated as 0.8, but the settings give 0.75")


def test_a_share_edited_in_the_card_is_caught_whatever_the_template(copy):
    card = copy / "README.md"
    card.write_text(card.read_text().replace("| 75.00% |", "| 85.00% |"))
    publication = json.loads((copy / "publication.json").read_text())
    (copy / "publication.json").write_text(json.dumps(publication | {"template_sha256": "another"}))
    forge(copy)
    assert check_folder(copy) == ["README.md: 1, share of the training: the card says '85.00%', not '75.00%'"]


def test_each_set_that_moved_is_stated(mixed, finished, tmp_path):
    folder, _ = mixed
    moved = shutil.copytree(folder / "negatives", tmp_path / "moved")

    def prepare_again(*negatives):
        stated = Stated(negatives=[str(one) for one in negatives])
        return prepare("ranker", folder / "ranker", "me/mix", into=tmp_path / "prepared", stated=stated)

    assert check_folder(prepare_again("-", moved).folder) == []
    with pytest.raises(InputError, match="negatives: 1 are given, but .*ranker was trained on 2"):
        prepare_again(moved)
    with pytest.raises(InputError, match="moved: has changed since .*ranker was trained on it"):
        prepare_again(moved, moved)


@pytest.mark.parametrize("one, holds", [(f"me/a@{COMMIT}", True), ("me/a@" + 40 * "1", False), ("sha256:0", False)])
def test_a_set_from_the_hub_is_the_commit_that_was_recorded(one, holds):
    inputs = {"negatives": f"owner/before@{COMMIT}", "model": "m"}
    provenance = {
        "negatives": {"name": "x", "revision": one.rpartition("@")[2]},
        "stages": [{"inputs": inputs, "settings": {}}],
    }
    assert (mixtures.differences(provenance) == []) == holds


def test_each_report_has_its_tables_and_its_entries(prepared):
    card = (prepared / "README.md").read_text()
    for said in ("### other, test", "### toy, test", "measured on other and toy only", "plots/results_2.png"):
        assert said in card, said
    assert (prepared / "plots/results_2.png").is_file() and (prepared / "eval/2/runs/dense.trec.gz").is_file()
    tables = [table for table in parse_tables(card) if table.header[0] == "system" and "MRR@10" in table.header]
    assert [len(table.rows) for table in tables] == [2, 3] and card.count("Intervals: percentile bootstrap") == 1
    measured = cards.read(prepared)[1]
    for one, table in zip(measured, tables, strict=True):
        assert f"{one.report.system('ranker').scores['MRR@10'].mean:.4f}" in table.rows[-1][1]
    results = {(one.dataset_name, one.metric_type): one.metric_value for one in ModelCard(card).data.eval_results}
    assert results == {
        (f"{one.report.collection.name}, test", name): round(one.report.system("ranker").scores[measure].mean, 4)
        for one in measured
        for name, measure in (("mrr_at_10", "MRR@10"), ("ndcg_at_10", "nDCG@10"))
    }


@pytest.mark.parametrize("place", ["eval", "eval/2"])
def test_a_figure_of_either_report_is_derived_again(copy, place):
    path = copy / place / "report.json"
    report = json.loads(path.read_text())
    report["systems"][-1]["scores"]["MRR@10"]["mean"] = 0.99
    path.write_text(json.dumps(report))
    forge(copy)
    assert any("ranker: MRR@10 (mean) is stated as 0.99" in failure for failure in check_folder(copy))


def test_tables_of_two_reports_cannot_change_places(copy):
    card = (copy / "README.md").read_text()
    places = [match.start() for match in re.finditer(r"\| system \| MRR@10", card)]
    one, two = (card[place : card.index("\n\n", place)] for place in places)
    card = card.replace(one, "ONE").replace(two, one).replace("ONE", two)
    (copy / "README.md").write_text(card)
    forge(copy)
    assert "README.md: table system: other rows than the 2 derived" in check_folder(copy)


@pytest.mark.parametrize(
    "reports, options, reason",
    [
        (("report", "report"), {}, "report: is a second report of other, split test; give one of them"),
        (("report",), {"collection": ["-", "-"]}, "collection: 2 are given for 1 reports"),
        (("report",), {"systems": ["nobody"]}, "nobody"),
    ],
)
def test_reports_that_make_no_sense(mixed, tmp_path, reports, options, reason):
    folder, _ = mixed
    with pytest.raises(InputError, match=reason):
        given = [folder / report for report in reports]
        prepare("ranker", folder / "ranker", "me/x", into=tmp_path / "x", report=given, stated=Stated(**options))
