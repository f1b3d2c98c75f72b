"""Study: many rankers by many first stages over several collections and seeds, as one table that answers a question.

    python recipes/study.py --study studies/apidocs.yaml --output_dir D --dry_run
    python recipes/study.py --study studies/apidocs.yaml --output_dir D --jobs 2

Every cell is the folder of an ordinary recipe, made by a command that commands.txt lists. Stages that are finished are
not done twice, so a study that was stopped goes on, and one that grew does only what is new. The study names its
collections, retrievers, rankers, seeds and first stages; studies/apidocs.yaml shows all keys. Rows that are not
trained stand under rerankers: a ranker's folder or Hub id, or the name of a retriever, which then reranks.

D/tables holds study.json, study.md and study.html: each ranker over each first stage, its mean, its worst first
stage, and paired tests against the reference. Before anything is trained, the study says which difference it can see.
"""

from __future__ import annotations

import dataclasses
import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from r2anker_hf.collection.collection import Collection, load_collection
from r2anker_hf.config import file_of, run_recipe
from r2anker_hf.evaluation.measures import evaluate_run, parse_measures
from r2anker_hf.evaluation.report import Texts
from r2anker_hf.evaluation.study import detectable_difference, make_table, query_means
from r2anker_hf.evaluation.study_page import Measured, write_study
from r2anker_hf.files import read_json, read_yaml
from r2anker_hf.names import checked_name
from r2anker_hf.records import InputError
from r2anker_hf.run import Run
from r2anker_hf.stage import PROVENANCE_FILE

RECIPES = Path(__file__).parent
FUSED = "fused"
SPLITS = {"train": "train", "dev": "dev", "test": "test"}


@dataclass
class StudyConfig:
    study: str = field(metadata={"help": "YAML file that names the study's parts; such as studies/apidocs.yaml."})
    output_dir: str = field(metadata={"help": "Folder for all stages and the tables."})
    dry_run: bool = field(default=False, metadata={"help": "Print what would be done and its cost, and do nothing."})
    jobs: int = field(default=1, metadata={"help": "Stages that run at the same time, each a process."})
    launch: str = field(
        default="", metadata={"help": "Words before each recipe: 'accelerate launch --config_file F'; default python."}
    )


@dataclass(frozen=True)
class Study:
    """What a study's YAML file says; each mapping of options is handed to its recipe as it stands."""

    collections: dict[str, dict[str, Any]]
    retrievers: dict[str, dict[str, Any]]
    first_stages: list[str]
    rankers: dict[str, dict[str, Any]]
    reference: str
    seeds: list[int] = field(default_factory=lambda: [42])
    rerankers: dict[str, str] = field(default_factory=dict)
    fuse: dict[str, Any] = field(default_factory=dict)
    mine: dict[str, Any] = field(default_factory=dict)
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
        for kind in ("collections", "retrievers", "rankers", "rerankers"):
            for name in getattr(self, kind):
                checked_name(name, kind)
        for name, options in self.collections.items():
            if "collection" not in options:
                raise InputError(f"collections: {name} says no collection: a folder, a Hub id or apidocs")
        choices = [*self.retrievers, FUSED]
        for name in self.first_stages:
            if name not in choices:
                raise InputError(f"first_stages: {name!r} is no retriever; choose among {', '.join(choices)}")
        for name, options in self.rankers.items():
            for retriever in options.get("retrievers", ()):
                if retriever not in self.retrievers:
                    raise InputError(
                        f"rankers: {name} draws from {retriever!r}; there are {', '.join(self.retrievers)}"
                    )
        for name, ranker in self.rerankers.items():
            if ranker in self.retrievers and "model" not in self.retrievers[ranker]:
                raise InputError(f"rerankers: {name} is {ranker!r}, which has no model that could rerank")
        if self.rankers.keys() & self.rerankers.keys():
            raise InputError("rankers and rerankers share a name; each row of the table needs its own")
        if self.reference not in {*self.rankers, *self.rerankers}:
            rows = ", ".join([*self.rankers, *self.rerankers])
            raise InputError(f"reference: {self.reference!r} is no ranker; choose among {rows}")
        parse_measures(self.measures)


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


class Plan:
    """Where every stage of a study lies, and which stages come before which."""

    def __init__(self, study: Study, root: Path) -> None:
        self.study, self.root = study, root

    def layers(self) -> list[list[Chain]]:
        """First stages, their fusion and the candidates, trainings, rerankings."""
        return [
            [
                self.retrievals(name, retriever)
                for name in self.study.collections
                for retriever in self.study.retrievers
            ],
            [self.fusions(name) + [self.mining(name)] for name in self.study.collections],
            [[self.training(name, row, seed)] for name, row, seed in self._trained()],
            [[self.reranking(*cell)] for cell in self.cells()],
        ]

    def retrievals(self, name: str, retriever: str) -> Chain:
        """One retriever's runs; they share its index, so they wait for each other."""
        index = self.root / name / "index" / retriever
        options = {**self._options(name), **self.study.retrievers[retriever], "index": index}
        return [
            Task("retrieve", {**options, "split": split}, self.run(name, kind, retriever).parent)
            for kind, split in self._splits(name).items()
        ]

    def fusions(self, name: str) -> Chain:
        """The fused runs of every split, by the choice of dev where there is a dev split."""
        if not self._needs_fused():
            return []
        splits = self._splits(name)
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
        options = {**self._options(name), "split": self._splits(name)["train"], "runs": self._lists(name, "train")}
        if self._needs_fused():
            options["rankings"] = {FUSED: self.run(name, "train", FUSED)}
        return Task("mine", {**options, **self.study.mine}, self.root / name / "negatives")

    def training(self, name: str, row: str, seed: int) -> Task:
        options = {"negatives": self.root / name / "negatives", **self.study.train, **self.study.rankers[row]}
        return Task("train_ranker", {**options, "seed": seed}, self.root / name / "rankers" / f"{row}.{seed}")

    def reranking(self, name: str, row: str, seed: int | None, kind: str, first_stage: str) -> Task:
        options = {**self._options(name), "split": self._splits(name)[kind]}
        options |= {"first_stage": self.run(name, kind, first_stage), **self._ranker(name, row, seed)}
        return Task("rerank", options, self.reranked(name, row, seed, kind, first_stage).parent)

    def _ranker(self, name: str, row: str, seed: int | None) -> dict[str, Any]:
        """A row's options of `rerank`; a retriever has those of its search, and its index."""
        if seed is not None:
            return {"ranker": self.training(name, row, seed).folder, **self.study.rerank}
        ranker = self.study.rerankers[row]
        if ranker not in self.study.retrievers:
            return {"ranker": ranker, **self.study.rerank}
        searched = {"dtype": "float32", **self.study.retrievers[ranker]}
        options = {"ranker": searched["model"], "retriever": searched["retriever"], "dtype": searched["dtype"]}
        options["index"] = self.root / name / "index" / ranker
        if "model_revision" in searched:
            options["ranker_revision"] = searched["model_revision"]
        if "depth" in self.study.rerank:
            options["depth"] = self.study.rerank["depth"]
        return options

    def cells(self, names: Iterable[str] | None = None) -> Iterator[tuple[str, str, int | None, str, str]]:
        """Collection, row, seed (None: not trained here), kind of split and first stage of every reranking."""
        for name in names or self.study.collections:
            for row, seed in self.rows():
                for first_stage in self.study.first_stages:
                    yield name, row, seed, "test", first_stage

    def rows(self) -> Iterator[tuple[str, int | None]]:
        """The rows of a table with each of their seeds; None where nothing is trained."""
        for row in self.study.rankers:
            for seed in self.study.seeds:
                yield row, seed
        for row in self.study.rerankers:
            yield row, None

    def run(self, name: str, kind: str, system: str) -> Path:
        return self.root / name / "runs" / kind / system / "run.trec"

    def reranked(self, name: str, row: str, seed: int | None, kind: str, first_stage: str) -> Path:
        ranker = row if seed is None else f"{row}.{seed}"
        return self.root / name / "reranked" / kind / first_stage / ranker / "run.trec"

    def collection(self, name: str, kind: str) -> Collection:
        options = self._options(name)
        sizes = options.pop("collection_options", {})
        return load_collection(options.pop("collection"), self._splits(name)[kind], **options, **sizes)

    def _trained(self) -> Iterator[tuple[str, str, int]]:
        for name in self.study.collections:
            for row, seed in self.rows():
                if seed is not None:
                    yield name, row, seed

    def _options(self, name: str) -> dict[str, Any]:
        return {key: value for key, value in self.study.collections[name].items() if key not in SPLITS}

    def _splits(self, name: str) -> dict[str, str]:
        """train, dev, test -> what the collection calls them; `dev: null` says that there is none."""
        named = {**SPLITS, **self.study.collections[name]}
        return {kind: named[kind] for kind in SPLITS if named[kind] is not None}

    def _lists(self, name: str, kind: str) -> dict[str, Path]:
        return {retriever: self.run(name, kind, retriever) for retriever in self.study.retrievers}

    def _needs_fused(self) -> bool:
        return FUSED in self.study.first_stages or FUSED in self.study.train.values()


def main(config: StudyConfig) -> None:
    study = Study.read(config.study)
    plan = Plan(study, Path(config.output_dir))
    layers = plan.layers()
    launch = shlex.split(config.launch) or ["python"]
    if config.dry_run:
        print("\n".join(shlex.join(task.command(launch)) for task in _tasks(layers) if not task.done))
        print("\n".join(costs(_tasks(layers))))
        return
    for layer in layers:
        if layer is layers[2]:
            print("\n".join(power(plan)))
        work(layer, launch, config.jobs)
    folder = plan.root / "tables"  # told anew each time: a study grows
    folder.mkdir(exist_ok=True)
    write(plan, launch, folder)
    print((folder / "study.md").read_text(encoding="utf-8"))
    print(f"page: {folder / 'study.html'}")


def _tasks(layers: list[list[Chain]]) -> list[Task]:
    return [task for layer in layers for chain in layer for task in chain]


def costs(tasks: Sequence[Task]) -> list[str]:
    """One line per recipe: stages to do, stages done, and the time that the former take if they take as long."""
    lines = []
    for recipe in dict.fromkeys(task.recipe for task in tasks):
        of_recipe = [task for task in tasks if task.recipe == recipe]
        seconds = [_seconds(task) for task in of_recipe if task.done]
        left = len(of_recipe) - len(seconds)
        known = f"{left * statistics.median(seconds) / 3600:.1f} h on one process" if seconds else "not known yet"
        lines.append(f"{recipe}: {left} to do, {len(seconds)} done; time left: {known if left else 'none'}")
    return lines


def _seconds(task: Task) -> float:
    return float(read_json(task.folder / PROVENANCE_FILE, "seconds_of_last_launch")["seconds_of_last_launch"])


def work(layer: Sequence[Chain], launch: Sequence[str], jobs: int) -> None:
    """Do a layer's stages, `jobs` at the same time. The first that fails ends the study, with its command."""
    left = [chain for chain in ([task for task in chain if not task.done] for chain in layer) if chain]
    with ThreadPoolExecutor(jobs) as pool:
        for done in [pool.submit(_do, chain, launch) for chain in left]:
            try:
                done.result()
            except InputError:
                pool.shutdown(cancel_futures=True)
                raise


def _do(chain: Chain, launch: Sequence[str]) -> None:
    for task in chain:
        print(f"== {shlex.join(task.command(launch))}", flush=True)
        words = task.command([sys.executable] if list(launch) == ["python"] else launch)
        words = [str(RECIPES.parent / word) if word == f"recipes/{task.recipe}.py" else word for word in words]
        if code := exit_code(words):
            raise InputError(f"a stage ended with exit code {code}: {shlex.join(task.command(launch))}")


def exit_code(words: Sequence[str]) -> int:
    """Of a process of its own, so that no stage keeps memory."""
    return subprocess.run(words).returncode


def power(plan: Plan) -> list[str]:
    """What the study can see, by the deviation of the dev queries' differences between two first stages.

    Rankers over one pool differ less from each other than first stages do, so the study will see smaller ones.
    """
    lines = []
    measure = plan.study.measures[0]
    one, other = list(plan.study.retrievers)[0], plan.study.first_stages[-1]
    for name in plan.study.collections:
        if one == other or "dev" not in plan._splits(name):
            continue
        qrels = plan.collection(name, "dev").qrels
        here, there = (
            evaluate_run(qrels, Run.read_trec(plan.run(name, "dev", system)), [measure])[measure]
            for system in (one, other)
        )
        queries = len(plan.collection(name, "test").qrels)
        seen = detectable_difference([here[q] - there[q] for q in qrels], queries)
        lines.append(
            f"{name}: {queries} test queries show a difference of {seen:.4f} {measure} in four studies of five, "
            f"if it varies as {other} against {one} does on {len(qrels)} dev queries"
        )
    return lines


def write(plan: Plan, launch: Sequence[str], folder: Path) -> None:
    """Measure every cell and write the tables and the page."""
    commands = "\n".join(shlex.join(task.command(launch)) for task in _tasks(plan.layers()))
    (folder / "commands.txt").write_text(commands + "\n", encoding="utf-8")
    write_study(folder, [measured(plan, name) for name in plan.study.collections], plan.study.published)


def measured(plan: Plan, name: str) -> Measured:
    """One collection's tables, and what the page shows beside them."""
    study, collection = plan.study, plan.collection(name, "test")
    runs: dict[str, dict[str, list[Run]]] = {}
    for _, row, seed, kind, first_stage in plan.cells([name]):
        run = Run.read_trec(plan.reranked(name, row, seed, kind, first_stage))
        runs.setdefault(row, {}).setdefault(first_stage, []).append(run)
    values = _by_measure(runs, lambda run: evaluate_run(collection.qrels, run, study.measures))
    lists = {first: Run.read_trec(plan.run(name, "test", first)) for first in study.first_stages}
    free = {first: evaluate_run(collection.qrels, run, study.measures) for first, run in lists.items()}
    return Measured(
        name=name,
        title=f"{name}, {collection.split}",
        tables=[make_table(of, study.reference, measure) for measure, of in values.items()],
        free={one: {first: statistics.mean(free[first][one].values()) for first in free} for one in values},
        runs=runs,
        values={one: {row: query_means(columns) for row, columns in of.items()} for one, of in values.items()},
        qrels=collection.qrels,
        texts=Texts(collection.queries, collection.corpus.text),
    )


def _by_measure(runs: Mapping[str, Mapping[str, list[Run]]], measured: Callable[[Run], Any]) -> dict[str, Any]:
    """Measure -> row -> first stage -> query values, once per seed."""
    found: dict[str, Any] = {}
    for row, columns in runs.items():
        for first_stage, seeds in columns.items():
            for run in seeds:
                for name, values in measured(run).items():
                    found.setdefault(name, {}).setdefault(row, {}).setdefault(first_stage, []).append(values)
    return found


if __name__ == "__main__":
    run_recipe(main)
