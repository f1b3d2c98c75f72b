"""A ranker of several collections states each of them with its share, and another share or collection is caught."""

import json
import re
import shutil

import pytest
from huggingface_hub import ModelCard
from test_verify import forge

from r2anker_hf.publishing import mixtures
from r2anker_hf.publishing.staging import Stated, stage
from r2anker_hf.publishing.verify import check_folder, parse_tables
from r2anker_hf.records import InputError

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def staged(mixed, tmp_path_factory):
    folder, _ = mixed
    into = tmp_path_factory.mktemp("mixture") / "ranker"
    return stage("ranker", folder / "ranker", "me/mix", into=into, report=folder / "report").folder


@pytest.fixture
def copy(staged, tmp_path):
    return shutil.copytree(staged, tmp_path / "copy")


def provenance_of(folder):
    return json.loads((folder / "provenance.json").read_text())


def edit(folder, change):
    """Change a provenance; card and hashes are made to fit, so that only what is derived can tell."""
    from r2anker_hf.publishing.cards import write_card

    provenance = provenance_of(folder)
    change(provenance)
    (folder / "provenance.json").write_text(json.dumps(provenance))
    write_card(folder, "ranker")
    forge(folder)


def test_shares_are_those_of_the_training(staged, mixed):
    (((sizes, weights, temperature), counts),) = mixed[1]
    sets = mixtures.sets_of(provenance_of(staged))
    # 33 training queries less 5 held out, but 20 at most; 12; weights 3 and 1
    assert [one["training_queries"] for one in sets] == sizes == [20, 12] and (weights, temperature) == ([3, 1], 1)
    assert [one["epoch_queries"] for one in sets] == counts == [24, 8]
    assert [one["share"] for one in sets] == [0.75, 0.25]


def test_the_card_states_each_collection(staged):
    card = (staged / "README.md").read_text()
    (table,) = (table for table in parse_tables(card) if table.header[0] == "set")
    assert [row[1:] for row in table.rows] == [
        ("toy", "`train`", "cc-by-4.0", "20", "24", "75.00%"),
        ("other", "`train`", "cc-by-nc-4.0", "12", "8", "25.00%"),
    ]
    for said in ("### 1: toy", "### 2: other", "| mixture_weights | \\[3.0, 1.0\\] |", "like that of toy and other,"):
        assert said in card, said
    assert (staged / "plots/negatives_1_agreement.png").is_file() and "plots/negatives_1_agreement.png" in card
    assert "negatives_2" not in card and "None" not in card and "\n\n\n\n" not in card
    assert ModelCard(card).data.license == "cc-by-nc-4.0" and "datasets" not in ModelCard(card).data.to_dict()
    assert check_folder(staged) == []


@pytest.mark.parametrize(
    "licences, stated, carried",
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
def test_the_strictest_licence_holds(licences, stated, carried):
    from r2anker_hf.publishing import licences as rule
    from r2anker_hf.publishing.staging import data_licences

    sources = data_licences(
        {"mixture": [{"name": "a", "licence": licences[0]}, {"name": "b", "licence": licences[1]}]}
    )
    if carried.startswith("licence "):
        with pytest.raises(InputError, match=carried):
            rule.carried(stated, sources, derived=False)
    else:
        assert rule.carried(stated, sources, derived=False) == carried


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
        (lambda p: p["stages"][-1]["settings"].pop("held_out"), None),  # 28 or 33 queries: max_queries takes 20
        (lambda p: first(p).update(revision="sha256:" + 64 * "0"), "is stated, but the training recorded sha256:"),
        (lambda p: p["negatives"]["mixture"].reverse(), "is stated, but the training recorded sha256:"),
        (lambda p: p["negatives"]["mixture"].pop(), "1 are stated, but the training recorded 2"),
        (lambda p: p["stages"][-1]["inputs"].pop("negatives 2"), "2 are stated, but the training recorded 1"),
    ],
)
def test_another_share_or_collection_is_caught(copy, change, failure):
    edit(copy, change)
    failures = check_folder(copy)
    if failure is None:
        assert failures == []
    else:
        assert re.search(failure, "\n".join(failures))


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

    def restage(*negatives):
        stated = Stated(negatives=[str(one) for one in negatives])
        return stage("ranker", folder / "ranker", "me/mix", into=tmp_path / "staged", stated=stated)

    assert check_folder(restage("-", moved).folder) == []
    with pytest.raises(InputError, match="negatives: 1 are given, but .*ranker was trained on 2"):
        restage(moved)
    with pytest.raises(InputError, match="moved: has changed since .*ranker was trained on it"):
        restage(moved, moved)


@pytest.mark.parametrize("one, holds", [(f"me/a@{COMMIT}", True), ("me/a@" + 40 * "1", False), ("sha256:0", False)])
def test_a_set_from_the_hub_is_the_commit_that_was_recorded(one, holds):
    inputs = {"negatives": f"owner/before@{COMMIT}", "model": "m"}
    provenance = {
        "negatives": {"name": "x", "revision": one.rpartition("@")[2]},
        "stages": [{"inputs": inputs, "settings": {}}],
    }
    assert (mixtures.differences(provenance) == []) == holds
