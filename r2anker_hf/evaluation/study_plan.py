"""A study's plan: what its YAML file says, and every command that its tables need, in their order."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from ..collection.collection import Collection, load_collection
from ..collection.subset import named, only
from ..config import file_of
from ..draws import evenly_spaced
from ..files import read_json, read_yaml, write_whole
from ..names import checked_name
from ..records import InputError
from ..stage import PROVENANCE_FILE
from .measures import parse_measures

FUSED = "fused"
TAUGHT_BY = "taught_by"
START = "start"
MADE_FILE = "made.json"
SPLITS = {"train": "train", "dev": "dev", "test": "test"}


@dataclass(frozen=True)
class Study:
    """What a study's YAML file says; each mapping of options is handed to its recipe as it stands.

    Attributes:
        collections: name -> options of the collection; train, dev and test may name its splits.
        retrievers: name -> options of `retrieve`; `trained: KEY/D2` takes what `trained` makes.
        first_stages: the table's columns: retrievers, or fused.
        rankers: row -> options of its training; `taught_by: ROW` draws from that row's ranker (R2ANKER, Table 7).
        reference: the row that the others are tested against.
        seeds: of each training.
        start: options of one training per collection, of the first seed, from which every ranker goes on.
        rerankers: row -> a folder or Hub id, `start`, or a retriever, which then reranks.
        trained: key -> options of `train_retriever`, once per collection (R2ANKER, 4.2).
        added: first stages to whose scores each ranker's are also added, in a table of its own.
        train_queries: so many training queries are measured too (R2ANKER, Table 6); 0: none.
        fuse, mine, teach, train, rerank: further options of these recipes.
        measures: of the tables.
        published: row -> first stage -> a figure of other data, for a column of its own.
    """

    collections: dict[str, dict[str, Any]]
    retrievers: dict[str, dict[str, Any]]
    first_stages: list[str]
    rankers: dict[str, dict[str, Any]]
    reference: str
    seeds: list[int] = field(default_factory=lambda: [42])
    start: dict[str, Any] = field(default_factory=dict)
    rerankers: dict[str, str] = field(default_factory=dict)
    trained: dict[str, dict[str, Any]] = field(default_factory=dict)
    added: list[str] = field(default_factory=list)
    train_queries: int = 0
    fuse: dict[str, Any] = field(default_factory=dict)
    mine: dict[str, Any] = field(default_factory=dict)
    teach: dict[str, Any] = field(default_factory=dict)
    train: dict[str, Any] = field(default_factory=dict)
    rerank: dict[str, Any] = field(default_factory=dict)
    measures: list[str] = field(default_factory=lambda: ["nDCG@10"])
    published: dict[str, dict[str, float]] = field(default_factory=dict)

    @classmethod
    def read(cls, path: str) -> Study:
        """The study of a YAML file, or one line that says what is wrong with it; shipped ones go by their names."""
        known = [one.name for one in dataclasses.fields(cls)]
        needed = [
            one.name for one in dataclasses.fields(cls) if one.default is one.default_factory is dataclasses.MISSING
        ]
        found = read_yaml(file_of(path), *needed)
        for key in found.keys() - set(known):
            raise InputError(f"{path}: unknown key {key!r}; choose among {', '.join(known)}")
        try:
            study = cls(**found)
            study.check()
        except (AttributeError, TypeError) as error:
            raise InputError(f"{path}: a value has a wrong form ({error})") from None
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        return study

    def check(self) -> None:
        """Refuse names that do not resolve and parts that are missing."""
        for kind in ("collections", "retrievers", "rankers", "rerankers", "trained"):
            for name in getattr(self, kind):
                checked_name(name, kind)
        for name, options in self.collections.items():
            if "collection" not in options:
                raise InputError(f"collections: {name} says no collection: a folder, a Hub id or apidocs")
        self._check_retrievers()
        self._check_rankers()
        parse_measures(self.measures)
        if len(set(self.seeds)) < len(self.seeds):
            raise InputError(f"seeds: {', '.join(map(str, self.seeds))} name one seed twice")
        for row, columns in self.published.items():
            for first_stage, figure in columns.items():
                if isinstance(figure, bool) or not isinstance(figure, int | float):
                    raise InputError(f"published: {row} over {first_stage} is {figure!r}, but must be a number")

    def _check_retrievers(self) -> None:
        for name, options in self.retrievers.items():
            key, _, folder = str(options.get("trained", "")).partition("/")
            if "trained" in options and not (key in self.trained and folder):
                known = ", ".join(f"{key}/D2" for key in self.trained) or "nothing: add the section trained"
                raise InputError(f"retrievers: {name} takes {options['trained']!r}; there is {known}")
        choices = [*self.retrievers, FUSED]
        for name in self.first_stages:
            if name not in choices:
                raise InputError(f"first_stages: {name!r} is no retriever; choose among {', '.join(choices)}")
        for name in self.added:
            if name not in self.first_stages:
                raise InputError(f"added: {name!r} is not reranked; choose among {', '.join(self.first_stages)}")
        if taken := {FUSED, START} & self.retrievers.keys():
            raise InputError(f"retrievers: {min(taken)!r} already names something of a study; choose another name")

    def _check_rankers(self) -> None:
        for name, options in self.rankers.items():
            within = [options["within"]] if "within" in options else []
            for retriever in [*options.get("retrievers", ()), *within]:
                if retriever not in self.retrievers:
                    raise InputError(f"rankers: {name} names {retriever!r}; there are {', '.join(self.retrievers)}")
            teacher = options.get(TAUGHT_BY)
            untaught = [row for row, given in self.rankers.items() if TAUGHT_BY not in given]
            if teacher is not None and teacher not in untaught:
                raise InputError(f"rankers: {name} is taught by {teacher!r}; choose among {', '.join(untaught)}")
        for name, ranker in self.rerankers.items():
            if ranker == START and not self.start:
                raise InputError(f"rerankers: {name} is the rankers' start, and the section start says none")
            if ranker in self.retrievers and not {"model", "trained"} & self.retrievers[ranker].keys():
                raise InputError(f"rerankers: {name} is {ranker!r}, which has no model that could rerank")
        if self.rankers.keys() & self.rerankers.keys():
            raise InputError("rankers and rerankers share a name; each row of the table needs its own")
        if self.reference not in {*self.rankers, *self.rerankers}:
            rows = ", ".join([*self.rankers, *self.rerankers])
            raise InputError(f"reference: {self.reference!r} is no ranker; choose among {rows}")


class Task(NamedTuple):
    """One stage: a recipe, its options, and the folder that it writes."""

    recipe: str
    options: dict[str, Any]
    folder: Path

    @property
    def done(self) -> bool:
        return (self.folder / PROVENANCE_FILE).is_file()

    def command(self, launch: Sequence[str] = ("python",)) -> list[str]:
        """What one types to make the folder.

        >>> import shlex
        >>> shlex.join(Task("mine", {"depth": 7, "runs": {"bm25": "A"}, "use_titles": False}, Path("D")).command())
        'python recipes/mine.py --depth 7 --runs bm25=A --use_titles false --output_dir D'
        """
        words = [*launch, f"recipes/{self.recipe}.py"]
        for name, value in self.options.items():
            words += [f"--{name}", *_words(value)]
        return [*words, "--output_dir", str(self.folder)]


def _words(value: Any) -> list[str]:
    if isinstance(value, Mapping):
        return [f"{name}={one}" for name, one in value.items()]
    if isinstance(value, list | tuple):
        return [str(one) for one in value]
    return [str(value).lower() if isinstance(value, bool) else str(value)]


Chain = list[Task]
"""Tasks in their order; a layer's chains do not wait for each other."""


class Made:
    """What a study's finished stages were made with, so that a study that changed takes over no stage of another one.

    Stages of which nothing is noted, such as copied ones, are taken as they are.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan, self.path = plan, plan.root / MADE_FILE
        self.noted: dict[str, dict[str, list[str]]] = read_json(self.path) if self.path.exists() else {}

    def note(self, tasks: Sequence[Task]) -> None:
        """Keep the options of stages that are about to begin."""
        for task in tasks:
            self.noted[self._name(task)] = self._options(task)
        if tasks:
            self.plan.root.mkdir(parents=True, exist_ok=True)
            write_whole(self.path, lambda path: path.write_text(json.dumps(self.noted, indent=1), encoding="utf-8"))

    def check(self) -> None:
        """Refuse a finished stage that the study would make otherwise now.

        Raises:
            InputError: a stage had other options, or stands on one that is to be made again.
        """
        missing = {str(task.folder) for task in self.plan.tasks() if not task.done}
        for task in self.plan.tasks():
            if not task.done or self._name(task) not in self.noted:
                continue
            before, now = self.noted[self._name(task)], self._options(task)
            if other := [name for name in {**before, **now} if before.get(name) != now.get(name)]:
                raise InputError(
                    f"{task.folder}: was made with other values of {', '.join(other)}; "
                    "remove the folder and those made from it, or choose another output_dir"
                )
            sources = {str(folder) for value in now.values() for word in value for folder in self._folders(word)}
            if gone := sorted(sources & missing):
                raise InputError(f"{task.folder}: was made from {gone[0]}, which is missing; remove this folder, too")

    def _name(self, task: Task) -> str:
        return task.folder.relative_to(self.plan.root).as_posix()

    def _options(self, task: Task) -> dict[str, list[str]]:
        """Option -> its words, without the study's own folder, which may move. Taken-over pairs change no result."""
        root = f"{self.plan.root}{os.sep}"
        return {
            name: [word.replace(root, "") for word in _words(value)]
            for name, value in task.options.items()
            if name != "scored"
        }

    def _folders(self, word: str) -> list[Path]:
        """The stages that a word may name: NAME=FOLDER/run.trec, FOLDER, FOLDER/D2."""
        path = self.plan.root / word.rpartition("=")[2]
        return [path, *path.parents]


class Plan:
    """Where every stage of a study lies, and which stages come before which."""

    def __init__(self, study: Study, root: Path) -> None:
        self.study, self.root = study, root
        self._loaded: dict[tuple[str, str], Collection] = {}

    def preparation(self) -> list[list[Chain]]:
        """What all rankers share: retrievers, first stages, their fusion, the candidates and the start."""
        names, study = list(self.study.collections), self.study
        return [
            [[self.retriever_training(name, key)] for name in names for key in study.trained],
            [self.retrievals(name, retriever) for name in names for retriever in study.retrievers],
            [self.fusions(name) + [self.mining(name)] for name in names],
            [[self.starting(name)] for name in names if study.start],
        ]

    def rankings(self) -> list[list[Chain]]:
        """Trainings, those that other rankers teach, and rerankings."""
        trained = [
            (name, row, seed) for name in self.study.collections for row, seed in self.rows() if seed is not None
        ]
        taught = [one for one in trained if TAUGHT_BY in self.study.rankers[one[1]]]
        return [
            [[self.training(*one)] for one in trained if one not in taught],
            [[self.teaching(*one), self.training(*one)] for one in taught],
            [
                self.rerankings(name, row, seed, kind)
                for name in self.study.collections
                for row, seed in self.rows()
                for kind in self.measured()
            ],
        ]

    def tasks(self) -> list[Task]:
        """All stages in their order, each once."""
        layers = [*self.preparation(), *self.rankings()]
        return list({task.folder: task for layer in layers for chain in layer for task in chain}.values())

    def retriever_training(self, name: str, key: str) -> Task:
        options = {**self._options(name), "split": self.splits(name)["train"], **self.study.trained[key]}
        return Task("train_retriever", options, self.root / name / "trained" / key)

    def retrievals(self, name: str, retriever: str) -> Chain:
        """One retriever's runs; they share its index, so they wait for each other."""
        options = {**self._options(name), **self.searched(name, retriever), "index": self._index(name, retriever)}
        return [
            Task("retrieve", {**options, "split": split}, self.run(name, kind, retriever).parent)
            for kind, split in self.splits(name).items()
        ]

    def searched(self, name: str, retriever: str) -> dict[str, Any]:
        """A retriever's options of `retrieve`; of a trained one with its model."""
        options = dict(self.study.retrievers[retriever])
        key, _, folder = options.pop("trained", "").partition("/")
        if key:
            model = self.retriever_training(name, key).folder / folder
            options = {"retriever": self.study.trained[key].get("retriever", "dense"), "model": model, **options}
        return options

    def fusions(self, name: str) -> Chain:
        """The fused runs of every split, by the choice of dev where there is a dev split."""
        if not self._needs_fused():
            return []
        splits = self.splits(name)
        test = {"runs": self._lists(name, "test"), **self.study.fuse}
        if "dev" in splits:
            chooser = {"dev_split": splits["dev"], "dev_runs": self._lists(name, "dev")}
            test = {**self._options(name), **chooser, **test}
        else:
            test = {"method": "standardise", **test}
        chosen = self.run(name, "test", FUSED).parent
        others = [
            Task("fuse", {"runs": self._lists(name, kind), "reuse": chosen}, self.run(name, kind, FUSED).parent)
            for kind in splits
            if kind != "test"
        ]
        return [Task("fuse", test, chosen), *others]

    def mining(self, name: str) -> Task:
        """The candidates of all retrievers; each ranker draws from those that it names."""
        options = {**self._options(name), "split": self.splits(name)["train"], "runs": self._lists(name, "train")}
        if self._needs_fused():
            options["rankings"] = {FUSED: self.run(name, "train", FUSED)}
        deeper = {row["within"] for row in self.study.rankers.values() if "within" in row}
        if deeper:  # whole, where the mined lists are cut (Table 6)
            options["constraints"] = {one: self.run(name, "train", one) for one in sorted(deeper)}
        return Task("mine", {**options, **self.study.mine}, self.root / name / "negatives")

    def teaching(self, name: str, row: str, seed: int) -> Task:
        """The scores of the ranker that a row is taught by, of the same seed."""
        teacher = self.study.rankers[row][TAUGHT_BY]
        options = {"negatives": self.mining(name).folder, "ranker": self.training(name, teacher, seed).folder}
        folder = self.root / name / "taught" / f"{teacher}.{seed}"
        return Task("teach", {**options, "teacher_ranking": teacher, **self.study.teach}, folder)

    def starting(self, name: str) -> Task:
        options = {"negatives": self.mining(name).folder, **self.study.train, **self.study.start}
        return Task("train_ranker", {"seed": self.study.seeds[0], **options}, self.root / name / START)

    def training(self, name: str, row: str, seed: int) -> Task:
        own = dict(self.study.rankers[row])
        negatives = self.mining(name).folder
        if teacher := own.pop(TAUGHT_BY, None):
            negatives = self.teaching(name, row, seed).folder
            own = {"policy": "redistributed", "negatives_ranking": teacher, **own}
        options = {"negatives": negatives, **self.study.train, **own}
        if self.study.start:
            options["model"] = self.starting(name).folder
        return Task("train_ranker", {**options, "seed": seed}, self.root / name / "rankers" / f"{row}.{seed}")

    def rerankings(self, name: str, row: str, seed: int | None, kind: str) -> Chain:
        """One ranker over each first stage; later ones take over the pairs of earlier ones."""
        options = {**self._options(name), "split": self.splits(name)[kind], **self._ranker(name, row, seed)}
        if kind == "train":
            options["query_ids"] = self.query_file(name)
        chain: Chain = []
        for first_stage in self.study.first_stages:
            own = {"first_stage": self.run(name, kind, first_stage), "scored": [task.folder for task in chain]}
            own = {key: value for key, value in own.items() if value}
            chain.append(Task("rerank", {**options, **own}, self.reranked(name, row, seed, kind, first_stage).parent))
        return chain

    def _ranker(self, name: str, row: str, seed: int | None) -> dict[str, Any]:
        """A row's options of `rerank`; a retriever has those of its search, and its index."""
        if seed is not None:
            return {"ranker": self.training(name, row, seed).folder, **self.study.rerank}
        ranker = self.study.rerankers[row]
        if ranker == START:
            return {"ranker": self.starting(name).folder, **self.study.rerank}
        if ranker not in self.study.retrievers:
            return {"ranker": ranker, **self.study.rerank}
        searched = {"dtype": "float32", **self.searched(name, ranker)}
        options = {"ranker": searched["model"], "retriever": searched["retriever"], "dtype": searched["dtype"]}
        options["index"] = self._index(name, ranker)
        if "model_revision" in searched:
            options["ranker_revision"] = searched["model_revision"]
        if "depth" in self.study.rerank:
            options["depth"] = self.study.rerank["depth"]
        return options

    def rows(self) -> Iterator[tuple[str, int | None]]:
        """The rows of a table with each of their seeds; None where nothing is trained."""
        for row in self.study.rankers:
            for seed in self.study.seeds:
                yield row, seed
        for row in self.study.rerankers:
            yield row, None

    def measured(self) -> list[str]:
        """Kinds of split whose queries are reranked."""
        return ["test", "train"] if self.study.train_queries else ["test"]

    def run(self, name: str, kind: str, system: str) -> Path:
        return self.root / name / "runs" / kind / system / "run.trec"

    def reranked(self, name: str, row: str, seed: int | None, kind: str, first_stage: str) -> Path:
        ranker = row if seed is None else f"{row}.{seed}"
        return self.root / name / "reranked" / kind / first_stage / ranker / "run.trec"

    def query_file(self, name: str) -> Path:
        """The training queries that are measured: ids, one per line."""
        return self.root / name / f"train_queries-{self.study.train_queries}.txt"

    def choose_queries(self, name: str) -> None:
        """Write which training queries are measured: evenly spaced ones, as many as the study says."""
        queries = list(self._whole(name, "train").queries)
        chosen = [queries[place] for place in evenly_spaced(len(queries), self.study.train_queries)]
        self.query_file(name).write_text("\n".join(chosen) + "\n", encoding="utf-8")

    def collection(self, name: str, kind: str) -> Collection:
        """A split as it is measured."""
        whole = self._whole(name, kind)
        if kind != "train":
            return whole
        return only(whole, named(self.query_file(name), whole.queries, whole.split))

    def splits(self, name: str) -> dict[str, str]:
        """train, dev, test -> what the collection calls them; `dev: null` says that there is none."""
        called = {**SPLITS, **self.study.collections[name]}
        return {kind: called[kind] for kind in SPLITS if called[kind] is not None}

    def _whole(self, name: str, kind: str) -> Collection:
        if (name, kind) not in self._loaded:  # a collection may take seconds to make
            options = self._options(name)
            sizes = options.pop("collection_options", {})
            found = load_collection(options.pop("collection"), self.splits(name)[kind], **options, **sizes)
            self._loaded[name, kind] = found
        return self._loaded[name, kind]

    def _index(self, name: str, retriever: str) -> Path:
        return self.root / name / "index" / retriever

    def _options(self, name: str) -> dict[str, Any]:
        return {key: value for key, value in self.study.collections[name].items() if key not in SPLITS}

    def _lists(self, name: str, kind: str) -> dict[str, Path]:
        return {retriever: self.run(name, kind, retriever) for retriever in self.study.retrievers}

    def _needs_fused(self) -> bool:
        return FUSED in [*self.study.first_stages, *self.study.train.values(), *self.study.start.values()]
