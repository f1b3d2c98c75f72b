"""Exports are what the other libraries read, hold the trainer's own draws, and come back as they went."""

import copy
import gzip
import json
from pathlib import Path

import datasets
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from published_toy import recipe
from scripts import script

from r2anker_hf.collection.collection import Collection, Corpus, load_collection
from r2anker_hf.names import checked_id
from r2anker_hf.negatives.candidates import Candidates, Mining, load_candidates, mine, write_candidates
from r2anker_hf.negatives.converters import FORMS, READERS, export_groups, export_pool, export_runs, import_negatives
from r2anker_hf.negatives.sampling import Sampling, draw_group, fused_scores
from r2anker_hf.records import Document, InputError
from r2anker_hf.run import Run

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    documents = [Document(f"d{i}", "The", f"list of {'value ' * (i % 3)}number {i}") for i in range(30)]
    qrels = {f"q{i}": {f"d{i}": 1} for i in range(8)} | {"q8": {"d8": 1, "d9": 1}}
    queries = {query_id: f"what is the number of {query_id}" for query_id in qrels}
    collection = Collection("toy", "0", "train", Corpus.from_documents(documents), queries, qrels)
    runs = {
        name: Run({q: [(f"d{(i + step * j) % 30}", 1 / (1 + j)) for j in range(6)] for i, q in enumerate(qrels)}, name)
        for name, step in (("bm25", 1), ("dense", 7))
    }
    folder = tmp_path_factory.mktemp("negatives")
    write_candidates(folder, collection, runs)
    return folder


@pytest.fixture(scope="module")
def candidates(folder):
    return load_candidates(folder)


def read(path):
    if path.suffix == ".parquet":
        return list(datasets.Dataset.from_parquet(str(path), cache_dir=str(path.parent / "cache")))
    return [json.loads(line) for line in path.read_text().splitlines()]


def drawn(candidates, index, count=4, sampling=None):
    return draw_group(candidates.rows[index], count, 42, 0, sampling)


def test_every_form_has_a_way_back():
    assert FORMS.keys() <= READERS.keys()


def test_labeled_lists_are_the_trainer_s_groups(candidates, tmp_path):
    rows = read(export_groups(candidates, tmp_path, "labeled_list", 4)[0])
    text = candidates.corpus.text
    for index, row in enumerate(rows):
        positive, negatives = drawn(candidates, index)
        assert row["query"] == candidates.rows[index]["query"] and row["docs"][0] == text(positive)
        assert row["docs"][1:] == [text(doc_id) for doc_id in negatives] and row["labels"] == [1.0, 0.0, 0.0, 0.0, 0.0]
    other = read(export_groups(candidates, tmp_path / "other", "labeled_list", 4, epoch=1)[0])
    assert len(rows) == 9 and other != rows


def test_tuples_and_triplets(candidates, tmp_path):
    sampling = Sampling("single", retrievers=["dense"])
    path, written = export_groups(candidates, tmp_path, "n_tuple", 3, sampling=sampling)
    assert written == 9
    first = read(path)[0]
    assert list(first) == ["query", "positive", "negative_1", "negative_2", "negative_3"]
    _, negatives = drawn(candidates, 0, 3, sampling)
    assert [first[f"negative_{n}"] for n in (1, 2, 3)] == [candidates.corpus.text(doc_id) for doc_id in negatives]
    path, written = export_groups(candidates, tmp_path, "triplet", 3)
    assert written == 27 and list(read(path)[0]) == ["query", "positive", "negative"]
    # the five others of six listed: only these can fill a tuple of five
    assert export_groups(candidates, tmp_path / "five", "n_tuple", 5, sampling=sampling)[1] < 10
    with pytest.raises(InputError, match="no query has 6 negatives; ask for fewer"):
        export_groups(candidates, tmp_path / "six", "n_tuple", 6, sampling=sampling)


def test_json_lines_of_tevatron_and_flag_embedding(candidates, tmp_path):
    rows = read(export_groups(candidates, tmp_path, "tevatron", 2)[0])
    positive, negatives = drawn(candidates, 8, 2)
    assert list(rows[8]) == ["query_id", "query", "positive_passages", "negative_passages"]
    assert {one["docid"] for one in rows[8]["positive_passages"]} == {"d8", "d9"}
    assert rows[8]["positive_passages"][0] == {
        "docid": positive,
        "title": "",
        "text": candidates.corpus.text(positive),
    }
    assert [one["docid"] for one in rows[8]["negative_passages"]] == negatives
    rows = read(export_groups(candidates, tmp_path, "flag_embedding", 2)[0])
    assert rows[8]["pos"] == [candidates.corpus.text(positive)] and list(rows[8]) == ["query", "pos", "neg"]


@pytest.mark.parametrize("form", FORMS)
def test_what_was_exported_comes_back(candidates, form, tmp_path):
    path, _ = export_groups(candidates, tmp_path, form, 3)
    back = import_negatives(path, form, tmp_path / "back")
    collection = load_collection(back, "train")
    run = Run.read_trec(back / "runs/negatives.trec")
    assert len(collection.queries) == len(run) == 9
    for index, query_id in enumerate(collection.queries):
        positive, negatives = drawn(candidates, index, 3)
        assert collection.queries[query_id] == candidates.rows[index]["query"]
        relevant = {collection.corpus.text(doc_id) for doc_id in collection.positives(query_id)}
        assert candidates.corpus.text(positive) in relevant
        texts = [collection.corpus.text(document.doc_id) for document in run[query_id]]
        assert texts == list(dict.fromkeys(candidates.corpus.text(doc_id) for doc_id in negatives))
    manifest = write_candidates(tmp_path / "mined", collection, {"negatives": run})
    assert manifest["splits"]["train"]["queries"] == 9


def test_lists_and_pool_as_runs(candidates, folder, tmp_path):
    paths = export_runs(candidates, tmp_path)
    assert [path.name for path in paths] == ["bm25.trec", "dense.trec"]
    lists = {name: Run.read_trec(tmp_path / f"{name}.trec") for name in ("bm25", "dense")}
    row = candidates.rows[3]
    for ranked in row["candidates"]:
        assert [d.doc_id for d in lists[ranked["retriever"]]["q3"]] == ranked["doc_ids"]
        assert [d.score for d in lists[ranked["retriever"]]["q3"]] == ranked["scores"]
    export_pool(candidates, tmp_path / "pool.trec", depth=4)
    pool = Run.read_trec(tmp_path / "pool.trec")["q3"]
    cut = {one["retriever"]: (one["doc_ids"][:4], one["scores"][:4]) for one in row["candidates"]}
    assert {d.doc_id: d.score for d in pool} == fused_scores(cut) and len(pool) == 7


def test_published_negatives_of_sentence_transformers(tmp_path):
    rows = [
        {"qid": 1, "pos": [10], "neg": {"bm25": [11, 12], "tas-b": [12, 13]}},
        {"qid": 2, "pos": [{"pid": 20, "ce-score": 9.5}], "neg": {"bm25": [{"pid": 21, "ce-score": 1.0}]}},
    ]
    with gzip.open(tmp_path / "hard.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)
    folder = import_negatives(tmp_path / "hard.jsonl.gz", "sentence_transformers", tmp_path / "out")
    assert sorted(path.name for path in folder.rglob("*.*")) == ["bm25.trec", "tas-b.trec", "train.tsv"]
    bm25 = Run.read_trec(folder / "runs/bm25.trec")
    assert {q: [d.doc_id for d in bm25[q]] for q in bm25} == {"1": ["11", "12"], "2": ["21"]}
    assert (folder / "qrels/train.tsv").read_text().splitlines()[1:] == ["1\t10\t1", "2\t20\t1"]


def test_a_teacher_s_scores_become_a_ranking(tmp_path):
    row = {"query": "q", "pos": ["a"], "neg": ["b", "c"], "pos_scores": [0.5], "neg_scores": [0.9, -1.0]}
    (tmp_path / "bge.jsonl").write_text(json.dumps(row))
    folder = import_negatives(tmp_path / "bge.jsonl", "flag_embedding", tmp_path / "out")
    (ranked,) = Run.read_trec(folder / "runs/teacher.trec").values()
    corpus = load_collection(folder, "train").corpus
    assert [(corpus.text(d.doc_id), d.score) for d in ranked] == [("b", 0.9), ("a", 0.5), ("c", -1.0)]


@pytest.mark.parametrize(
    ("name", "content", "form", "message"),
    [
        ("x.jsonl", '{"query": "q"}', "flag_embedding", "row 1: no flag_embedding row .*'pos'.*; it has: query"),
        ("x.jsonl", "[1]", "tevatron", "row 1: no tevatron row .*; it has: list"),
        ("x.jsonl", '{"qid": 1', "sentence_transformers", "line 1: not JSON"),
        ("x.jsonl", "", "tevatron", "holds no rows"),
        ("x.jsonl", '{"qid":1,"pos":[],"neg":{}}\n' * 2, "sentence_transformers", "row 2: a second row for query '1'"),
        ("x.jsonl.gz", "plain", "tevatron", "cannot be read as gzipped text"),
        ("x.jsonl", "", "onion", "no import form 'onion'; choices: sentence_transformers, tevatron"),
    ],
)
def test_a_broken_file_is_refused_in_one_line(tmp_path, name, content, form, message):
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=message):
        import_negatives(tmp_path / name, form, tmp_path / "out")
    for gone in ("gone.jsonl", "gone.jsonl.gz", "gone.parquet"):
        with pytest.raises(InputError, match="no such file"):
            import_negatives(tmp_path / gone, "triplet", tmp_path / gone.replace(".", "_"))


GOOD = {
    "sentence_transformers": {"qid": 1, "pos": [10], "neg": {"bm25": [11, {"pid": "12"}]}},
    "tevatron": {
        "query_id": "q",
        "query": "what",
        "positive_passages": [{"docid": "p", "title": "", "text": "one"}],
        "negative_passages": [{"docid": "n", "title": None, "text": ""}],
    },
    "flag_embedding": {"query": "what", "pos": ["one"], "neg": ["two"], "pos_scores": [1.0], "neg_scores": [0]},
    "labeled_list": {"query": "what", "docs": ["one", "two"], "labels": [1, 0.0]},
    "n_tuple": {"query": "what", "positive": "one", "negative_1": "two"},
    "triplet": {"anchor": "what", "positive": "one", "negative": "two"},
}
NO_ID, NO_TEXT, NO_LIST = "without spaces, or an integer, but is", "must be a text", "must be a list"
WRONG = [  # form, where in the row, what stands there, what is said
    *(("sentence_transformers", ["qid"], value, NO_ID) for value in (None, "", " ", "a b", "a\t", 1.5, True, ["q"])),
    *(
        ("sentence_transformers", ["pos", 0], value, NO_ID)
        for value in (None, "", "a\nb", "\ufeffa", "\ud800", {"pid": None})
    ),
    *(("sentence_transformers", ["neg", "bm25", 1], value, NO_ID) for value in (None, "x y", {"pid": ""}, 2.0)),
    *(("sentence_transformers", ["pos"], value, NO_LIST) for value in (None, "10", {"pid": 10}, 10)),
    *(("sentence_transformers", ["neg", "bm25"], value, NO_LIST) for value in (None, "1112", {"pid": 10})),
    *(("sentence_transformers", ["neg"], value, "lists of ids by system") for value in (None, "bm25", [11])),
    *(
        ("sentence_transformers", ["neg", name], [11], "is no name of 1 to 100")
        for name in ("../../../escaped", "/tmp/escaped", "..", "", "a b", "a/b")
    ),
    *(("tevatron", ["query_id"], value, NO_ID) for value in (None, "", "a b")),
    *(("tevatron", ["query"], value, "'query' must be a text") for value in (None, 7, ["what"], "", " ")),
    *(("tevatron", ["negative_passages"], value, NO_LIST) for value in (None, "n", {"docid": "n", "text": "two"})),
    *(("tevatron", ["positive_passages", 0, "docid"], value, NO_ID) for value in (None, "", "a\u2028b")),
    *(("tevatron", ["negative_passages", 0, "text"], value, NO_TEXT) for value in (None, 3, ["two"], "\ud800")),
    *(("tevatron", ["negative_passages", 0, "title"], value, NO_TEXT) for value in (3, ["two"])),
    *(
        (form, ["query"], value, "must be a text")
        for form in ("flag_embedding", "labeled_list")
        for value in (None, "")
    ),
    *(("flag_embedding", [key], value, NO_LIST) for key in ("pos", "neg") for value in (None, "text", {"a": "b"})),
    *(("flag_embedding", [key, 0], value, NO_TEXT) for key in ("pos", "neg") for value in (None, 7, ["text"])),
    *(("flag_embedding", ["neg_scores"], value, "must be a list") for value in ("1", 1, {})),
    *(
        ("flag_embedding", ["pos_scores", 0], value, "must be finite numbers")
        for value in (None, "1", float("nan"), float("inf"), 10**400)
    ),
    ("flag_embedding", ["neg_scores"], [], "'pos_scores' and 'neg_scores' hold 1 scores for 2 texts"),
    *(("labeled_list", [key], value, NO_LIST) for key in ("docs", "labels") for value in (None, "one", {})),
    ("labeled_list", ["docs", 1], None, NO_TEXT),
    ("labeled_list", ["labels", 1], "0", "must be finite numbers"),
    ("labeled_list", ["labels"], [1], "'labels' holds 1 labels for 2 'docs'"),
    *(("n_tuple", [key], value, NO_TEXT) for key in ("positive", "negative_1", "negative_2") for value in (None, 1)),
    *(("triplet", [key], value, NO_TEXT) for key in ("anchor", "negative") for value in (None, ["two"])),
]


def imported(tmp_path, form, row):
    (tmp_path / "in" / "deeper").mkdir(parents=True)
    (tmp_path / "in" / "file.jsonl").write_text("\n" + json.dumps(row))
    return import_negatives(tmp_path / "in" / "file.jsonl", form, tmp_path / "in" / "deeper" / "out")


@pytest.mark.parametrize("form", READERS)
def test_the_rows_that_the_table_changes_are_good(tmp_path, form):
    assert (imported(tmp_path, form, GOOD[form]) / "qrels/train.tsv").read_text().count("\n") == 2


@pytest.mark.parametrize(("form", "place", "value", "message"), WRONG, ids=lambda one: ascii(one)[:40])
def test_a_field_of_another_kind_is_refused_with_file_and_row(tmp_path, form, place, value, message):
    row = copy.deepcopy(GOOD[form])
    *outer, last = place
    parent = row
    for key in outer:
        parent = parent[key]
    parent[last] = value
    with pytest.raises(InputError) as raised:
        imported(tmp_path, form, row)
    said = str(raised.value)
    assert message in said and said.startswith(f"{tmp_path / 'in' / 'file.jsonl'}, row 2: ") and "\n" not in said
    outside = {path for path in tmp_path.rglob("*") if path.is_file() and "out" not in path.parts}
    assert outside == {tmp_path / "in" / "file.jsonl"}


@pytest.mark.parametrize("split", ["../../x", "..", "a/b", "", "a b"])
def test_a_split_that_leaves_the_folder_is_refused(tmp_path, split):
    (tmp_path / "file.jsonl").write_text(json.dumps(GOOD["triplet"]))
    with pytest.raises(InputError, match="split .* is no name"):
        import_negatives(tmp_path / "file.jsonl", "triplet", tmp_path / "out", split)
    assert not (tmp_path / "out").exists()


def test_a_query_that_was_scored_twice_stands_once_in_the_teacher_s_run(tmp_path):
    rows = [{**GOOD["flag_embedding"], "neg": ["two"]}, {**GOOD["flag_embedding"], "neg": ["three"]}]
    (tmp_path / "bge.jsonl").write_text("\n".join(map(json.dumps, rows)))
    folder = import_negatives(tmp_path / "bge.jsonl", "flag_embedding", tmp_path / "out")
    corpus = load_collection(folder, "train").corpus
    (ranked,) = Run.read_trec(folder / "runs/teacher.trec").values()
    assert {corpus.text(d.doc_id): d.score for d in ranked} == {"one": 1.0, "two": 0.0, "three": 0.0}


def candidates_of(query_id, doc_ids, retriever="bm25"):
    """One query, whose first document is relevant and whose others one retriever listed."""
    corpus = Corpus.from_documents([Document(doc_id, "", f"text {n}") for n, doc_id in enumerate(doc_ids)])
    ranked = {"retriever": retriever, "doc_ids": doc_ids[1:], "scores": [-float(n) for n in range(len(doc_ids) - 1)]}
    row = {"query_id": query_id, "query": "what", "positive_ids": doc_ids[:1], "candidates": [ranked]}
    return Candidates([row], corpus, {})


def accepted(value):
    try:
        return bool(checked_id(value, "id"))
    except InputError:
        return False


@settings(max_examples=40, deadline=None)
@given(ids=st.lists(st.text(max_size=4).filter(accepted), min_size=4, max_size=4, unique=True))
def test_every_id_that_is_let_in_comes_back(tmp_path_factory, ids):
    folder = tmp_path_factory.mktemp("ids")
    query_id, *doc_ids = ids
    given = candidates_of(query_id, doc_ids)
    (path,) = export_runs(given, folder)
    assert [d.doc_id for d in Run.read_trec(path)[query_id]] == doc_ids[1:]
    path, _ = export_groups(given, folder, "tevatron", 2)
    negatives = [one["docid"] for one in json.loads(path.read_bytes())["negative_passages"]]
    back = import_negatives(path, "tevatron", folder / "back")
    collection, run = load_collection(back, "train"), Run.read_trec(back / "runs/negatives.trec")
    (row,) = mine(collection, {"negatives": run})
    assert (row["query_id"], row["positive_ids"]) == (query_id, doc_ids[:1])
    assert row["candidates"][0]["doc_ids"] == negatives and set(negatives) == set(doc_ids[1:])


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (("q", ["a", "b"], "../escaped"), "retriever '../escaped' is no name"),
        (("q", ["a", "b c"]), "document id must be a string without spaces"),
        (("q\n", ["a", "b"]), "query id must be a string without spaces"),
    ],
)
def test_runs_of_a_dataset_made_elsewhere_stay_in_their_folder(tmp_path, given, message):
    with pytest.raises(InputError, match=message):
        export_runs(candidates_of(*given), tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("use", ["runs", "constraints", "rankings"])
def test_mining_refuses_names_and_ids_at_the_door(candidates, use):
    documents = [Document("a", "", "text"), Document("b c", "", "text")]
    collection = Collection("toy", "0", "train", Corpus.from_documents(documents), {"q": "what"}, {"q": {"a": 1}})
    run = Run({"q": [("b c", 1.0)]})
    with pytest.raises(InputError, match="run '../x' is no name"):
        Mining(collection, **{"runs": {"bm25": run}, use: {"../x": run}})
    with pytest.raises(InputError, match="document id must be a string without spaces, or an integer, but is 'b c'"):
        list(Mining(collection, **{"runs": {"bm25": Run({})}, use: {"bm25": run}}).rows())


@pytest.mark.parametrize(
    ("stage", "options"),
    [
        ("import_negatives", {"file": "x.jsonl", "form": "triplet", "split": "../../x"}),
        ("teach", {"negatives": "n", "ranker": "r", "teacher_ranking": "../x"}),
        *(("mine", {"collection": "apidocs", "runs": {}, use: {"../x": "run.trec"}}) for use in ("runs", "rankings")),
        *(("mine", {"collection": "apidocs", "runs": {}, use: {"a b": "r"}}) for use in ("dev_runs", "constraints")),
    ],
)
def test_recipes_refuse_names_before_they_work(stage, options):
    values = vars(recipe(stage)).items()
    config = next(value for name, value in values if name.endswith("Config") and value.__module__ == stage)
    with pytest.raises(InputError, match="is no name of 1 to 100"):
        config(output_dir="out", **options)


def test_unknown_forms_name_the_choices(candidates, tmp_path):
    with pytest.raises(InputError, match="no export form 'onion'; choices: labeled_list, n_tuple, .*, trec, pool"):
        export_groups(candidates, tmp_path, "onion")


@pytest.mark.parametrize("form", ["labeled_list", "n_tuple"])
def test_cross_encoder_trainer_of_sentence_transformers_trains_on_it(candidates, tiny_model, form, tmp_path):
    from sentence_transformers.cross_encoder import (
        CrossEncoder,
        CrossEncoderTrainer,
        CrossEncoderTrainingArguments,
        losses,
    )

    path, _ = export_groups(candidates, tmp_path, form, 3)
    table = datasets.Dataset.from_parquet(str(path), cache_dir=str(tmp_path / "cache"))
    model = CrossEncoder(str(tiny_model), num_labels=1, device="cpu")
    loss = losses.ListNetLoss(model) if form == "labeled_list" else losses.MultipleNegativesRankingLoss(model)
    settings = {"max_steps": 3, "per_device_train_batch_size": 3, "report_to": "none", "use_cpu": True}
    arguments = CrossEncoderTrainingArguments(str(tmp_path / "ce"), logging_steps=1, disable_tqdm=True, **settings)
    before = {name: weights.clone() for name, weights in model.model.state_dict().items()}
    trainer = CrossEncoderTrainer(model=model, args=arguments, train_dataset=table, loss=loss)
    trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert len(logged) == 3 and all(0 < value < 100 for value in logged)
    assert any(not (weights == before[name]).all() for name, weights in model.model.state_dict().items())


def test_recipes_export_and_import(folder, candidates, tmp_path):
    options = ["--policy", "quota", "--shares", "bm25=1", "dense=2", "--num_negatives", "3"]
    options += ["--form", "tevatron", "--output_dir", tmp_path / "out"]
    done = script("recipes/export.py", "--negatives", folder, *options)
    assert done.returncode == 0, done.stderr[-2000:]
    rows = read(tmp_path / "out/tevatron.jsonl")
    sampling = Sampling("quota", shares={"bm25": 1.0, "dense": 2.0})
    assert [one["docid"] for one in rows[5]["negative_passages"]] == drawn(candidates, 5, 3, sampling)[1]
    options = ["--file", tmp_path / "out/tevatron.jsonl", "--form", "tevatron", "--output_dir", tmp_path / "back"]
    done = script("recipes/import_negatives.py", *options)
    assert done.returncode == 0 and "runs: negatives" in done.stdout, done.stderr[-2000:]
    done = script("recipes/export.py", "--negatives", folder, "--form", "onion", "--output_dir", tmp_path / "x")
    assert done.returncode == 2 and "error: no export form 'onion'" in done.stderr


@pytest.mark.parametrize("name", ["export", "import_negatives"])
def test_a_recipe_names_every_form(name):
    for form in (*FORMS, "trec", "pool") if name == "export" else READERS:
        assert form in recipe(name).__doc__
