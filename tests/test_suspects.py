"""What a training leaves out is what the audit counts as suspected, for every policy and by every way to draw."""

import random

import pyarrow as pa
import pytest
from test_audit import TEXTS, rows  # noqa: F401
from test_sampling import OPTIONS

from r2anker_hf.collection.collection import Corpus
from r2anker_hf.negatives.audit import audit
from r2anker_hf.negatives.candidates import Candidates
from r2anker_hf.negatives.converters import groups
from r2anker_hf.negatives.sampling import POLICIES, QueryCandidates, RankedList, Sampling, draw_group
from r2anker_hf.negatives.suspects import Examined, Suspicion, with_suspects
from r2anker_hf.rankers.listwise import ListwiseConfig, TrainingGroups
from r2anker_hf.records import Document, InputError
from r2anker_hf.retrievers.training import RetrieverTraining, write_tuples

WORDS = "cat dog bird fish tree river stone house".split()


def text(doc_id: str) -> str:
    """Texts of which every ninth is nearly the same: some negatives copy a positive; 5 of 7 shingles are shared."""
    number = int(doc_id[1:]) % 9
    return " ".join(WORDS[(number * step) % 8] for step in range(1, 7)) + f" {number} {doc_id}"


def random_rows(count: int = 40) -> list[dict]:
    generator, made = random.Random(7), []
    for query in range(count):
        pool = [f"d{number}" for number in generator.sample(range(60), 14)]
        lists = [
            {"doc_ids": (ids := generator.sample(pool, 8)), "scores": [float(-rank) for rank in range(len(ids))]}
            for _ in range(4)
        ]
        made.append(
            {
                "query_id": f"q{query}",
                "query": f"query {query}",
                "positive_ids": generator.sample(pool, 1 + query % 2),
                "candidates": [{"retriever": name, **lists[n]} for n, name in enumerate(("bm25", "dense", "splade"))],
                "constraints": [{"run": "bm25@1000", "doc_ids": pool}],
                "rankings": [{"ranker": "ranker", **lists[3]}],
            }
        )
    return made


def test_who_is_suspected_by_hand(rows):  # noqa: F811
    found = {row["query_id"]: row["suspects"] for row in with_suspects(rows, TEXTS.get)}
    # a stands above p in both lists, same and near are copies of p
    assert found == {"q1": ["a", "near", "same"], "q2": []}


@pytest.mark.parametrize("judged_by", [None, "ranker"])
def test_they_are_those_that_the_audit_counts(judged_by):
    made = random_rows()
    found = audit(made, text, judged_by=judged_by)
    suspects = {row["query_id"]: set(row["suspects"]) for row in with_suspects(made, text, judged_by)}
    for number, name in enumerate(("bm25", "dense", "splade")):
        listed = [suspects[row["query_id"]] & set(row["candidates"][number]["doc_ids"]) for row in made]
        assert sum(map(len, listed)) == found["retrievers"][name]["suspected"] > 0
    assert sum(map(bool, suspects.values())) == found["queries_with_a_suspect"]


@pytest.mark.parametrize("policy", POLICIES)
def test_no_policy_draws_one_and_all_draw_the_rest(policy):
    given = OPTIONS.get(policy, {}) | ({"shares": {"bm25": 1.0, "dense": 1.0}} if policy == "quota" else {})
    window = {"rank_from": 2, "rank_to": 6}  # cut before anything is left out
    for row in with_suspects(random_rows(12), text):
        drawn = [
            set(draw_group(row, 100, 1, 0, Sampling(policy, **given, **window, leave_out_suspects=leave))[1])
            for leave in (False, True)
        ]
        assert drawn[1] == drawn[0] - set(row["suspects"])


def test_a_query_that_keeps_no_negative_is_a_group_of_its_positive():
    lists = {name: RankedList(["a", "p"]) for name in ("bm25", "dense")}
    candidates = QueryCandidates("q", ["p"], lists, suspects=["a"])
    assert draw_group(candidates, 4, 1, 0, Sampling(leave_out_suspects=True)) == ("p", [])


def test_where_nobody_looked_for_them_the_draw_is_refused():
    (row,) = random_rows(1)
    with pytest.raises(InputError, match="these candidates do not say who is suspected"):
        draw_group(row, 4, 1, 0, Sampling(leave_out_suspects=True))
    with pytest.raises(InputError, match="judged_by is 'ranker', but nothing is judged"):
        Sampling(judged_by="ranker")
    with pytest.raises(InputError, match="no ranker 'onion'; choices: ranker"):
        next(with_suspects([row], text, "onion"))


def drawn_for_training(made, folder, objective):
    settings = {"num_negatives": 50, "use_cpu": True, "mixed_precision": "no", "report_to": "none"}
    settings |= {"objective": objective, "leave_out_suspects": True}
    settings |= {"teacher_ranking": "ranker"} if objective == "ranker" else {}
    examined = Examined(made, text, None, folder)
    given = TrainingGroups(examined, str, ListwiseConfig(output_dir="unused", **settings))
    return {row["query_id"]: given[(0, index)]["documents"] for index, row in enumerate(made)}


def drawn_for_a_retriever(made, folder):
    from datasets import Dataset

    settings = RetrieverTraining(num_negatives=4, num_train_epochs=3, leave_out_suspects=True, mixed_precision="no")
    write_tuples(made, text, settings, folder / "tuples.arrow")
    found = {row["query_id"]: [] for row in made}
    for row in Dataset.from_file(str(folder / "tuples.arrow")):
        documents = [value.split()[-1] for name, value in row.items() if name.startswith("negative")]
        found[row["query"].replace("query ", "q")] += documents
    return found


def drawn_for_export(made, folder):
    corpus = Corpus.from_documents(Document(f"d{number}", "", text(f"d{number}")) for number in range(60))
    drawn = groups(Candidates(made, corpus, {}), 50, 1, 0, Sampling(leave_out_suspects=True))
    return {group.query_id: group.negatives for group in drawn}


@pytest.mark.parametrize(
    "way",
    [
        lambda made, folder: drawn_for_training(made, folder, "labels"),
        lambda made, folder: drawn_for_training(made, folder, "retrievers"),
        lambda made, folder: drawn_for_training(made, folder, "ranker"),
        drawn_for_a_retriever,
        drawn_for_export,
    ],
    ids=["labels", "retrievers", "ranker", "retriever", "export"],
)
def test_every_way_to_draw_leaves_them_out(way, tmp_path):
    made = [row for row in random_rows() if len(row["positive_ids"]) == 1]
    suspects = {row["query_id"]: set(row["suspects"]) for row in with_suspects(made, text)}
    drawn = way(made, tmp_path)
    assert any(suspects.values()) and drawn.keys() == suspects.keys()
    assert not any(suspects[query_id] & set(documents) for query_id, documents in drawn.items())
    assert sum(map(len, drawn.values())) > 100


def test_examined_rows_go_on_after_a_kill_and_can_be_selected(tmp_path, capsys, monkeypatch):
    from datasets import Dataset

    from r2anker_hf.negatives import suspects

    made = Dataset(pa.Table.from_pylist(random_rows()))
    expected = list(with_suspects(made, text))
    monkeypatch.setattr(suspects, "QUERIES_A_BLOCK", 16)
    asked, of_query = [], Suspicion.suspects

    def killed(self, candidates):
        asked.append(candidates.query_id)
        if len(asked) == 20:
            raise KeyboardInterrupt
        return of_query(self, candidates)

    monkeypatch.setattr(Suspicion, "suspects", killed)
    with pytest.raises(KeyboardInterrupt):
        Examined(made, text, None, tmp_path)
    examined = Examined(made, text, None, tmp_path)
    assert len(asked) == 20 + 40 - 16  # the first block was not done twice
    assert list(examined) == expected and [examined[n] for n in range(len(examined))] == expected
    assert list(examined.select(range(3, 5))) == expected[3:5] and examined["query_id"][1] == "q1"
    assert (
        f"of {sum(bool(row['suspects']) for row in expected)} queries, of 40, are left out" in capsys.readouterr().out
    )
