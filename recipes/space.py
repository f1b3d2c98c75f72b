"""Space: a static Space of reports, and a page that searches and reranks in the visitor's browser.

    python recipes/space.py --pages D/report --ranker owner/ranker --collection C --licence cc-by-4.0 \\
        --title "Ranker for C" --output_dir P --repo_id owner/space

The folder P/space is what a Space of the type `static` holds: `hf upload owner/space P/space --repo-type space` sends
it too. With --ranker, the first page takes a query and shows BM25 and the ranker side by side. No server is needed:
the browser loads the ranker's onnx/model_quantized.onnx from the Hub. --pages are folders of score.py, or the folder
`tables` of study.py. With --repo_id it is published as one transaction, as publish.py does, private unless --public
is given. Seconds.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from r2anker_hf.collection.collection import Collection
from r2anker_hf.collection.options import CollectionOptions
from r2anker_hf.config import run_recipe, save_config
from r2anker_hf.files import check_output
from r2anker_hf.publishing.hub import Limits, publish, version_tag
from r2anker_hf.publishing.space import WEIGHTS, Search, searched, write_space
from r2anker_hf.records import InputError
from r2anker_hf.revisions import commit_of

RECEIPT_FILE = "receipt.json"


@dataclass
class SpaceConfig(CollectionOptions):
    title: str = field(metadata={"help": "What the Space is called on its page."})
    output_dir: str = field(metadata={"help": "Folder for the Space's own, space, and for receipt.json."})
    pages: list[str] = field(
        default_factory=list, metadata={"help": "Folders of score.py, or the folder tables of study.py."}
    )
    ranker: str | None = field(default=None, metadata={"help": "A ranker on the Hub, for a page that searches."})
    ranker_revision: str | None = field(default=None, metadata={"help": "Its commit; default the newest."})
    collection: str | None = field(default=None, kw_only=True, metadata={"help": "Whose passages that page searches."})
    split: str = field(default="test", metadata={"help": "Split whose queries the page offers to try."})
    licence: str | None = field(
        default=None, metadata={"help": "Licence of the passages, or of the pages, as the Hub names it."}
    )
    passages: int = field(default=3000, metadata={"help": "Passages on the page at most; the visitor loads them all."})
    examples: int = field(default=6, metadata={"help": "Judged queries that the page offers."})
    depth: int = field(default=20, metadata={"help": "Passages that BM25 hands to the ranker."})
    seed: int = field(default=42, metadata={"help": "Which passages and queries."})
    repo_id: str | None = field(default=None, metadata={"help": "Publish it as this Space: owner/name."})
    version: str = field(default="1.0.0", metadata={"help": "Tagged v1.0.0; a published version is never changed."})
    public: bool = field(default=False, metadata={"help": "Let everyone read it, once it is complete."})
    timeout: float = field(default=60.0, metadata={"help": "Seconds to wait for a sign of the Hub."})
    deadline: float = field(default=4 * 3600.0, metadata={"help": "Seconds after which nothing more is tried."})

    def __post_init__(self):
        version_tag(self.version)
        if not (self.pages or self.ranker):
            raise InputError("a Space needs a page or a ranker: give --pages, --ranker, or both")
        if bool(self.ranker) != bool(self.collection):
            raise InputError("--ranker and --collection belong together: what searches, and what is searched")


def main(config: SpaceConfig) -> None:
    output = Path(config.output_dir)
    check_output(output, config.pages)
    collection = config.load(config.split) if config.ranker else None
    output.mkdir(parents=True, exist_ok=True)
    search = search_of(config, collection) if collection else None
    save_config(config, output)
    folder = output / "space"
    write_space(folder, config.title, config.pages, search, config.licence)
    for path in sorted(folder.iterdir()):
        print(f"{path.stat().st_size:>14,} bytes  {path.name}")
    print(f"\nspace: {folder}")
    if config.repo_id:
        send(config, folder, output / RECEIPT_FILE)


def search_of(config: SpaceConfig, collection: Collection) -> Search:
    """What the search page holds."""
    from huggingface_hub.constants import ENDPOINT

    return searched(
        collection,
        ranker=str(config.ranker),
        revision=checked_ranker(str(config.ranker), config.ranker_revision),
        hub=ENDPOINT,
        licence=config.licence,
        passages=config.passages,
        examples=config.examples,
        depth=config.depth,
        seed=config.seed,
    )


def checked_ranker(ranker: str, revision: str | None) -> str:
    """The commit of a ranker that a browser can load.

    Raises:
        InputError: no such ranker, or no ONNX weights at that commit.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.utils import httpx

    commit = commit_of(ranker, revision)
    try:
        info = HfApi().model_info(ranker, revision=commit, timeout=30)
    except (OSError, ValueError, httpx.HTTPError) as error:
        raise InputError(f"{ranker}: cannot be read from the Hub: {str(error).splitlines()[0]}") from error
    if WEIGHTS not in {file.rfilename for file in info.siblings or ()}:
        raise InputError(f"{ranker}@{info.sha}: holds no {WEIGHTS}, which browsers load; publish it with --onnx true")
    if info.private:
        print(f"{ranker} is private: the page works for visitors once it is public")
    return str(info.sha)


def send(config: SpaceConfig, folder: Path, receipt_file: Path) -> None:
    """Publish the folder as a Space."""
    receipt = publish(
        folder,
        str(config.repo_id),
        kind="space",
        repo_type="space",
        version=config.version,
        private=not config.public,
        limits=Limits(timeout=config.timeout, deadline=config.deadline),
    )
    receipt.write(receipt_file)
    print(f"{'published' if receipt.new else 'published before, nothing new'}: {receipt.url}")
    print(f"{receipt.version}, {'private' if receipt.private else 'public'}; {receipt_file}")


if __name__ == "__main__":
    run_recipe(main)
