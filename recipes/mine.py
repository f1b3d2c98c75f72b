"""Mine: keep what every retriever ranked for each training query, as a dataset to draw negatives from.

    accelerate launch recipes/mine.py --collection C --split train --runs bm25=A/run.trec dense=B/run.trec \\
        --depth 200 --output_dir D

Tens of thousands of queries a minute and core, in memory that does not grow with them; the audit of 10,000 queries
takes some minutes more. Runs of any origin will do; for those that retrieve.py made, the manifest says how. The folder
loads with datasets.load_dataset(D, "candidates"), holds a card with the audit, and suspicious.md, to be read.

For the policy constrained (Table 6), --constraints bm25=A/run.trec keeps the ids of a deeper run. For redistributed
(Table 7), --rankings NAME=X/run.trec keeps a ranker's scores: pool the runs with export.py --form pool, rerank that
run with rerank.py, and mine with its result.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Literal

from r2anker_hf.collection.collection import Collection
from r2anker_hf.collection.options import CollectionOptions
from r2anker_hf.config import run_recipe
from r2anker_hf.names import checked_name
from r2anker_hf.negatives.audit import audit_with_card
from r2anker_hf.negatives.candidates import Mining, run_facts, write_corpus, write_manifest, write_shards
from r2anker_hf.records import InputError
from r2anker_hf.run import RunFile, check_run
from r2anker_hf.stage import run_stage


@dataclass
class MiningConfig(CollectionOptions):
    runs: dict[str, str] = field(metadata={"help": "First stages over this split: name=path/run.trec ..."})
    output_dir: str = field(metadata={"help": "New folder for the dataset."})
    split: str = field(default="train", metadata={"help": "The split to train on; never the one to measure with."})
    dev_split: str = field(default="dev", metadata={"help": "The split of dev_runs."})
    dev_runs: dict[str, str] = field(
        default_factory=dict, metadata={"help": "The same first stages over the dev split, for a second split."}
    )
    constraints: dict[str, str] = field(
        default_factory=dict, metadata={"help": "Deeper runs kept as ids, for policy constrained (Table 6)."}
    )
    constraint_depth: int = field(default=1000, metadata={"help": "Documents kept of those."})
    rankings: dict[str, str] = field(
        default_factory=dict,
        metadata={
            "help": "Runs kept whole, with scores, for policy redistributed: a ranker's over the pooled documents "
            "(Table 7), or a fused one: fused=FUSED/run.trec."
        },
    )
    depth: int = field(default=200, metadata={"help": "Documents kept of each run (top-N of appendix B)."})
    corpus: Literal["copy", "reference"] = field(
        default="copy",
        metadata={
            "help": "Keep the passages in the dataset, or refer to the Hub collection's where a licence forbids."
        },
    )
    licence: str | None = field(
        default=None, metadata={"help": "Licence of the data for the card, as the Hub names it."}
    )
    audit_queries: int = field(
        default=10_000, metadata={"help": "About how many queries the audit looks at; 0: none."}
    )
    judged_by: str | None = field(
        default=None, metadata={"help": "One of the rankings, whose scores say which negatives are suspected."}
    )
    seed: int = field(default=42, metadata={"help": "Which queries the audit looks at; mining draws nothing."})

    def __post_init__(self):
        for kind in ("runs", "dev_runs", "constraints", "rankings"):
            for name in getattr(self, kind):
                checked_name(name, kind)
        if self.dev_runs and self.dev_runs.keys() != self.runs.keys():
            raise InputError(f"dev_runs are {', '.join(self.dev_runs)}, but runs are {', '.join(self.runs)}")
        if self.dev_runs and self.dev_split == self.split:
            raise InputError(f"dev_split is {self.dev_split!r}, the split that is mined already")
        if self.judged_by and self.judged_by not in self.rankings:
            choices = ", ".join(self.rankings) or "none"
            raise InputError(f"judged_by is {self.judged_by!r}, which is none of the rankings; choices: {choices}")


def main(config: MiningConfig) -> None:
    collections = [config.load(split) for split in (config.split, config.dev_split)[: 2 if config.dev_runs else 1]]
    inputs: dict[str, str | Path] = {
        name: f"{each.name}@{each.revision}"
        for name, each in zip(("collection", "dev collection"), collections, strict=False)
    }
    for kind in ("runs", "dev_runs", "constraints", "rankings"):
        inputs.update({f"{kind} {name}": Path(path) for name, path in getattr(config, kind).items()})
    run_stage(config, config.output_dir, inputs, partial(mine, config, collections))


def mine(config: MiningConfig, collections: list[Collection], folder: Path) -> None:
    """Every process writes its shards; the last one the corpus, the main one manifest, audit and card."""
    from accelerate import PartialState

    state = PartialState()
    minings = minings_of(config, collections, described=state.is_main_process)
    started = time.perf_counter()
    for mining in minings:
        write_shards(folder, mining, state.process_index, state.num_processes)
    seconds = time.perf_counter() - started
    if config.corpus == "copy" and state.is_last_process:
        write_corpus(folder, collections[0].corpus)
    state.wait_for_everyone()
    if state.is_main_process:
        print(f"mined in {seconds:.1f} s by {state.num_processes} process(es), shards that were there included")
        finish(config, collections[0], minings, folder)


def minings_of(config: MiningConfig, collections: list[Collection], described: bool = True) -> list[Mining]:
    """What the splits are mined from; a dev split has the columns of the other one, empty where it has no run.

    Only who writes the manifest needs the runs described, which reads them once more.
    """

    def opened(runs: dict[str, str], collection: Collection = collections[0]) -> dict[str, RunFile]:
        files = {name: RunFile(path, name) for name, path in runs.items()}
        for name, file in files.items():
            check_run(file, collection.queries, runs[name], collection.split)
        return files

    extras: dict[str, Any] = {
        "constraints": opened(config.constraints),
        "constraint_depth": config.constraint_depth,
        "rankings": opened(config.rankings),
    }
    # by use and name: a retriever may also be a constraint, from a deeper run
    uses = {"retrievers": config.runs, "constraints": config.constraints, "rankings": config.rankings}
    facts = facts_of(uses) if described else {}
    made = [Mining(collections[0], opened(config.runs), config.depth, **extras, facts=facts)]
    if config.dev_runs:
        extras |= {kind: {name: {} for name in extras[kind]} for kind in ("constraints", "rankings")}
        facts = facts_of({"retrievers": config.dev_runs}) if described else {}
        made.append(
            Mining(collections[1], opened(config.dev_runs, collections[1]), config.depth, **extras, facts=facts)
        )
    return made


def facts_of(uses: dict[str, dict[str, str]]) -> dict[tuple[str, str], dict[str, Any]]:
    """What the manifest says of the runs, by their use and name."""
    return {(use, name): run_facts(path) for use, runs in uses.items() for name, path in runs.items()}


def finish(config: MiningConfig, collection: Collection, minings: list[Mining], folder: Path) -> None:
    """Manifest, audit and card over finished shards."""
    manifest = write_manifest(folder, minings, config.seed, config.licence)
    for split, facts in manifest["splits"].items():
        for name, counts in facts["retrievers"].items():
            print(
                f"{split}, {name}: {counts['candidates']} candidates, the positive among them for "
                f"{counts['queries_whose_positive_is_found']} of {facts['queries']} queries"
            )
    if config.audit_queries:
        options = {"max_queries": config.audit_queries, "seed": config.seed, "judged_by": config.judged_by}
        audit_with_card(folder, collection.corpus.text, split=config.split, **options)


if __name__ == "__main__":
    run_recipe(main)
