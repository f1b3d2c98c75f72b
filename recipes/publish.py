"""Publish: a finished ranker, negatives or retriever becomes a Hub repository, as a whole or not at all.

    python recipes/publish.py --kind ranker --folder D/ranker --report D/report --repo_id owner/name --output_dir P

First try --dry_run: it prepares and shows what would be sent, and sends nothing. What is prepared lies in P/prepared
and is checked there: files by an allow-list, no pickle, token or local path, every figure of the card from the report.
Then it goes to a branch, is downloaded, compared and scored, and only then becomes main, tagged v1.0.0. A new
repository is private unless --public is given. Where that breaks off (no token, no network, a kill), the same command
goes on.

HF_TOKEN, or `hf auth login`, says who publishes. --hub_collection "title" links all that is published with that title.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from r2anker_hf.config import run_recipe, save_config
from r2anker_hf.files import check_output
from r2anker_hf.publishing.preparing import Stated
from r2anker_hf.publishing.sending import Part, Sending, publish_part


@dataclass
class PublishingConfig:
    kind: Literal["ranker", "negatives", "retriever"] = field(metadata={"help": "What the folder holds."})
    folder: str = field(metadata={"help": "The finished folder: of train_ranker.py, mine.py or train_retriever.py."})
    repo_id: str = field(metadata={"help": "The repository: owner/name."})
    output_dir: str = field(metadata={"help": "Folder for what is prepared and for receipt.json."})
    report: list[str] = field(
        default_factory=list,
        metadata={"help": "Folder of score.py that measured it; several, if it was measured on several collections."},
    )


def main(config: PublishingConfig, sending: Sending, stated: Stated) -> None:
    output = Path(config.output_dir)
    check_output(output, [config.folder, *config.report])
    output.mkdir(parents=True, exist_ok=True)
    save_config((config, sending, stated), output)
    publish_part(Part(config.kind, config.folder, config.repo_id, tuple(config.report)), output, stated, sending)
    if sending.dry_run:
        print("\ndry run: nothing was sent; the same command without --dry_run publishes it")


if __name__ == "__main__":
    run_recipe(main)
