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

import shlex
import statistics
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from r2anker_hf.collection.collection import Collection
from r2anker_hf.config import run_recipe
from r2anker_hf.evaluation.fusion import fuse
from r2anker_hf.evaluation.measures import evaluate_run, parse_measure
from r2anker_hf.evaluation.report import Texts
from r2anker_hf.evaluation.study import detectable_difference, make_table, query_means
from r2anker_hf.evaluation.study_page import ONLY, Measured, write_study
from r2anker_hf.evaluation.study_plan import Chain, Made, Plan, Study, Task
from r2anker_hf.files import read_json
from r2anker_hf.records import InputError
from r2anker_hf.run import Run
from r2anker_hf.stage import PROVENANCE_FILE

RECIPES = Path(__file__).parent


@dataclass
class StudyConfig:
    study: str = field(metadata={"help": "YAML file that names the study's parts; such as studies/apidocs.yaml."})
    output_dir: str = field(metadata={"help": "Folder for all stages and the tables."})
    dry_run: bool = field(default=False, metadata={"help": "Print what would be done and its cost, and do nothing."})
    jobs: int = field(default=1, metadata={"help": "Stages that run at the same time, each a process."})
    launch: str = field(
        default="", metadata={"help": "Words before each recipe: 'accelerate launch --config_file F'; default python."}
    )


def main(config: StudyConfig) -> None:
    plan = Plan(Study.read(config.study), Path(config.output_dir))
    launch = shlex.split(config.launch) or ["python"]
    if config.dry_run:
        print("\n".join(shlex.join(task.command(launch)) for task in plan.tasks() if not task.done))
        print("\n".join(costs(plan.tasks())))
        return
    made = Made(plan)
    made.check()
    for layer in plan.preparation():
        work(layer, launch, config.jobs, made)
    for name in plan.study.collections if plan.study.train_queries else ():
        plan.choose_queries(name)
    print("\n".join(power(plan)))
    for layer in plan.rankings():
        work(layer, launch, config.jobs, made)
    folder = plan.root / "tables"  # told anew each time: a study grows
    folder.mkdir(exist_ok=True)
    write(plan, launch, folder)
    print((folder / "study.md").read_text(encoding="utf-8"))
    print(f"page: {folder / 'study.html'}")


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


def work(layer: Sequence[Chain], launch: Sequence[str], jobs: int, made: Made) -> None:
    """Do a layer's stages, `jobs` at the same time. The first that fails ends the study, with its command."""
    left = [chain for chain in ([task for task in chain if not task.done] for chain in layer) if chain]
    made.note([task for chain in left for task in chain])
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
    lines, study = [], plan.study
    measure = str(parse_measure(study.measures[0]))
    columns = len(study.first_stages) + (len(study.first_stages) > 1)  # and their mean
    tests = (len(study.rankers) + len(study.rerankers) - 1) * columns
    one, other = list(study.retrievers)[0], study.first_stages[-1]
    for name in study.collections:
        if one == other or "dev" not in plan.splits(name):
            continue
        qrels = plan.collection(name, "dev").qrels
        here, there = (
            evaluate_run(qrels, Run.read_trec(plan.run(name, "dev", system)), [measure])[measure]
            for system in (one, other)
        )
        queries = len(plan.collection(name, "test").qrels)
        seen = detectable_difference([here[q] - there[q] for q in qrels], queries, tests=max(1, tests))
        if seen is not None:
            lines.append(
                f"{name}: {queries} test queries show a difference of {seen:.4f} {measure} in four studies of five, "
                f"after the correction, if it varies as {other} against {one} does on {len(qrels)} dev queries"
            )
    return lines


def write(plan: Plan, launch: Sequence[str], folder: Path) -> None:
    """Measure every cell and write the tables and the page."""
    commands = "\n".join(shlex.join(task.command(launch)) for task in plan.tasks())
    (folder / "commands.txt").write_text(commands + "\n", encoding="utf-8")
    found = [measured(plan, name, kind) for name in plan.study.collections for kind in plan.measured()]
    found += [added(plan, name) for name in plan.study.collections if plan.study.added]
    write_study(folder, found, plan.study.published)


def measured(plan: Plan, name: str, kind: str) -> Measured:
    """One split's tables, and what the page shows beside them."""
    collection = plan.collection(name, kind)
    told = {"name": name, "title": f"{name}, {collection.split}", "reference": plan.study.reference}
    if kind == "train":
        told |= {"name": f"{name}.train", "title": f"{told['title']}: queries learned from", "unseen": name}
    lists = first_lists(plan, name, kind, collection, plan.study.first_stages)
    return tables_of(plan, collection, lists, reranked(plan, name, kind, plan.study.first_stages), **told)


def added(plan: Plan, name: str) -> Measured:
    """The test queries, each ranker's score joined to its first stage's: both standardised, with equal weights."""
    collection = plan.collection(name, "test")
    lists = first_lists(plan, name, "test", collection, plan.study.added)
    runs = {
        row: {
            first: [fuse([run, lists[first]], "standardise", within=run) for run in seeds]
            for first, seeds in of.items()
        }
        for row, of in reranked(plan, name, "test", plan.study.added).items()
    }
    runs = {ONLY: {first: [run] for first, run in lists.items()}, **runs}
    title = f"{name}, {collection.split}: each ranker added to its first stage"
    return tables_of(plan, collection, lists, runs, name=f"{name}.added", title=title, reference=ONLY)


Runs = Mapping[str, Mapping[str, list[Run]]]
"""Row -> first stage -> one run per seed."""


def reranked(plan: Plan, name: str, kind: str, first_stages: Sequence[str]) -> Runs:
    runs: dict[str, dict[str, list[Run]]] = {}
    for row, seed in plan.rows():
        for first_stage in first_stages:
            run = Run.read_trec(plan.reranked(name, row, seed, kind, first_stage))
            runs.setdefault(row, {}).setdefault(first_stage, []).append(run)
    return runs


def first_lists(
    plan: Plan, name: str, kind: str, collection: Collection, first_stages: Sequence[str]
) -> dict[str, Run]:
    """The first stages' own runs, of the collection's queries."""
    return {first: _of_queries(Run.read_trec(plan.run(name, kind, first)), collection) for first in first_stages}


def tables_of(
    plan: Plan, collection: Collection, lists: Mapping[str, Run], runs: Runs, reference: str, **told: Any
) -> Measured:
    """Rows of runs as tables, one per measure, beside their first stages; `told` names them."""
    measures = plan.study.measures
    values = _by_measure(runs, lambda run: evaluate_run(collection.qrels, run, measures))
    free = {first: evaluate_run(collection.qrels, run, measures) for first, run in lists.items()}
    return Measured(
        tables=[make_table(of, reference, measure) for measure, of in values.items()],
        free={one: {first: statistics.mean(free[first][one].values()) for first in free} for one in values},
        runs=runs,
        values={one: {row: shown_means(columns) for row, columns in of.items()} for one, of in values.items()},
        qrels=collection.qrels,
        texts=Texts(collection.queries, collection.corpus.text),
        **told,
    )


def shown_means(columns: Mapping[str, Any]) -> dict[str, Any]:
    """Each query's mean over the seeds; the mean over first stages only where there are several."""
    means = query_means(columns)
    return means if len(columns) > 1 else {first_stage: means[first_stage] for first_stage in columns}


def _of_queries(run: Run, collection: Collection) -> Run:
    return Run({query_id: run[query_id] for query_id in collection.queries if query_id in run}, run.name)


def _by_measure(runs: Runs, measured: Callable[[Run], Any]) -> dict[str, Any]:
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
