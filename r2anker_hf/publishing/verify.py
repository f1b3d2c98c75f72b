"""Check what was published: hashes, golden scores, every figure of the card, and that its sources exist.

Whatever is checked is derived from the files themselves; what a card or a report says of itself is only compared.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, cast

from ..files import read_json, sha256_file
from ..negatives.audit import audit
from ..negatives.candidates import MANIFEST_FILE, load_candidates, read_manifest, stream_rows
from ..negatives.card import AUDIT_FILE
from ..negatives.card import write_card as write_negatives_card
from ..negatives.preview import preview_differences
from ..records import InputError
from ..stage import PROVENANCE_FILE
from . import calibration, cards, evidence, mixtures
from .golden import check_golden, check_golden_onnx
from .lint import Machine, findings
from .preparing import FORMAT, KINDS, PUBLICATION_FILE, QUOTING
from .provenance import PINNED, negatives_facts

IGNORED = (".gitattributes", ".cache/")  # the Hub's own, and what a download leaves


class Line(NamedTuple):
    """One thing that was checked. `failures` is empty where it holds; None where it could not be checked."""

    what: str
    failures: list[str] | None

    def __str__(self) -> str:
        if self.failures is None:
            return f"not checked  {self.what}"
        return "\n".join(
            [f"{'FAILS' if self.failures else 'holds':12} {self.what}", *(f"    {f}" for f in self.failures)]
        )


def verify_folder(folder: str | os.PathLike, online: bool = True) -> Iterator[Line]:
    """Check a published folder, one line at a time.

    Args:
        folder: all files of a repository at one commit.
        online: also ask the Hub whether base model and datasets exist at the commits that are named.

    Raises:
        InputError: it is no folder that this package published.
    """
    folder = Path(folder)
    publication = read_publication(folder)
    kind = publication["kind"]
    yield Line("files: names and sha256", _hashes(folder, publication))
    found = findings(folder, Machine(), quoting=QUOTING.get(kind, ()), links=True)
    found = [line for line in found if not line.startswith(IGNORED)]
    yield Line("files: no pickle, code or token", found)
    if kind == "negatives":
        yield Line("rows: counted again", _attempt(_negatives_counts, folder))
        yield Line("audit: made again", _attempt(_negatives_audit, folder))
        yield Line("preview: drawn again", _attempt(_negatives_preview, folder))
        yield _card_of_negatives(folder, publication)
    else:
        yield Line("golden scores", _attempt(check_golden, folder, kind))
        if any(folder.glob("onnx/*")):
            yield Line("golden scores of the ONNX files", _attempt(check_golden_onnx, folder))
        yield Line(f"{PROVENANCE_FILE}: data and teacher as the training recorded them", _attempt(_sets, folder))
        yield from _figures(folder, kind)
        yield from _calibration(folder)
        yield _card(folder, kind, publication)
    if online:
        yield from _sources(folder, kind)


def check_folder(folder: str | os.PathLike, online: bool = False) -> list[str]:
    """What fails in a published folder, one line each; nothing, if all of it holds.

    Raises:
        InputError: it is no folder that this package published.
    """
    return [failure for line in verify_folder(folder, online) for failure in line.failures or ()]


def read_publication(folder: Path) -> dict[str, Any]:
    """`publication.json` of a folder.

    Raises:
        InputError: there is none, or none of this version.
    """
    path = folder / PUBLICATION_FILE
    try:
        content = read_json(path, "format", "kind", "files", "template_sha256")
    except InputError as error:
        raise InputError(f"{error}; this was not published by r2anker_hf") from None
    if content["format"] != FORMAT or content["kind"] not in KINDS:
        raise InputError(f"{path}: the format is {content['format']!r}, but this version reads {FORMAT!r}")
    return content


def _attempt(check: Callable[..., list[str] | None], *arguments: Any) -> list[str] | None:
    """A check's failures; what cannot be read fails too."""
    try:
        return check(*arguments)
    except (InputError, OSError, ValueError, KeyError, TypeError) as error:
        return [f"{type(error).__name__}: {error}" if not isinstance(error, InputError) else str(error)]


def _hashes(folder: Path, publication: Mapping[str, Any]) -> list[str]:
    stated = publication["files"]
    paths = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    failures = [f"{name}: is missing" for name in stated if name not in paths]
    for name, path in paths.items():
        if name == PUBLICATION_FILE or name.startswith(IGNORED):
            continue
        if name not in stated:
            failures.append(f"{name}: was not published with the rest")
        elif sha256_file(path) != stated[name]["sha256"]:
            failures.append(f"{name}: has another sha256 than when it was published")
    return failures


def _figures(folder: Path, kind: str) -> Iterator[Line]:
    """Each report, then the card's tables and metadata, against what runs and judgements give."""
    derived = []
    try:
        provenance = read_json(folder / PROVENANCE_FILE)
        int8 = evidence.int8_in(folder, provenance)
        for one in [*evidence.measured_in(folder, provenance), *([int8] if int8 else [])]:
            with tempfile.TemporaryDirectory() as scratch:
                report, qrels, runs = evidence.read_published(folder, Path(scratch), one.place)
                found = evidence.again(report, qrels, runs)
            what = f"{one.place}/{evidence.REPORT_FILE}: every figure derived again"
            yield Line(what, evidence.differences(report, found))
            derived.append(dataclasses.replace(one, report=found))
    except (InputError, OSError, ValueError, KeyError) as error:
        yield Line("figures: runs and judgements", [str(error)])
        return
    if derived:
        text = (folder / cards.CARD_FILE).read_text(encoding="utf-8")
        if int8:
            yield Line(f"{cards.CARD_FILE}: every figure of int8", _tables(text, [cards.int8_table(derived.pop())]))
        tables = [cards.tables(one.report, one.systems, cards.free_fusions(one.runs)).values() for one in derived]
        yield Line(f"{cards.CARD_FILE}: every figure of its tables", _tables(text, list(chain.from_iterable(tables))))
        yield Line(f"{cards.CARD_FILE}: every figure of model-index", _attempt(_model_index, text, kind, derived))


def _calibration(folder: Path) -> Iterator[Line]:
    """Temperature, bias, error and threshold, where the model has them."""
    what = "config.json: calibration derived again from its run and judgements"
    try:
        if calibration.is_calibrated(folder):
            yield Line(what, _attempt(_calibrated, folder))
    except InputError as error:
        yield Line(what, [str(error)])


def _calibrated(folder: Path) -> list[str]:
    """Numbers of a calibration that do not come out, else those that the card's table gives otherwise."""
    wrong, provenance = calibration.differences(folder), read_json(folder / PROVENANCE_FILE)
    text = (folder / cards.CARD_FILE).read_text(encoding="utf-8")
    return wrong or _tables(text, [cards.calibration_table(provenance)])


def _tables(text: str, expected: Sequence[cards.Table]) -> list[str]:
    """Tables of a card whose cells are not those that were derived.

    They are known by their first columns' heads; of tables with equal heads, the order says which is which.
    """
    present = parse_tables(text)
    failures = []
    for header in dict.fromkeys(table.header for table in expected):
        same = [table for table in present if table.header == header]
        derived = [table for table in expected if table.header == header]
        if len(same) != len(derived):
            columns = ", ".join(header)
            failures.append(f"{cards.CARD_FILE}: {len(same)} tables, not {len(derived)}, with the columns {columns}")
            continue
        for one, other in zip(same, derived, strict=True):
            failures += _cells(one, other)
    return failures


def _cells(present: cards.Table, derived: cards.Table) -> list[str]:
    """A line for each cell of a table that is not as derived."""
    if len(present.rows) != len(derived.rows):
        return [f"{cards.CARD_FILE}: table {derived.header[0]}: other rows than the {len(derived.rows)} derived"]
    return [
        f"{cards.CARD_FILE}: {row[0]}, {head}: the card says {cell!r}, not {value!r}"
        for stated, row in zip(present.rows, derived.rows, strict=True)
        for head, cell, value in zip(derived.header, stated, row, strict=False)
        if cell != value
    ]


def parse_tables(text: str) -> list[cards.Table]:
    """All tables of a Markdown text.

    >>> parse_tables("| a | b |\\n|:--|--:|\\n| x | 1 |\\n")
    [Table(header=('a', 'b'), rows=(('x', '1'),), words=1)]
    """
    found: list[cards.Table] = []
    for block in re.findall(r"(?:^\|.*\|[ \t]*\n?)+", text, re.MULTILINE):
        lines = [re.split(r"(?<!\\)\|", line.strip()[1:-1]) for line in block.strip().splitlines()]
        cells = [tuple(cell.strip() for cell in line) for line in lines]
        if len(cells) >= 2:
            found.append(cards.Table(cells[0], tuple(cells[2:])))
    return found


def _model_index(text: str, kind: str, measured: Sequence[evidence.Measured]) -> list[str]:
    """Metadata of the card whose values are not those that were derived."""
    from huggingface_hub import ModelCard, ModelCardData

    results = chain.from_iterable(cards.eval_results(kind, one.report, one.systems) for one in measured)
    data = cast(ModelCardData, ModelCard(text).data)
    stated = {_result_name(one): one for one in data.eval_results or []}
    derived = {_result_name(one): one for one in results}
    failures = [f"model-index: {name} is missing" for name in derived if name not in stated]
    failures += [f"model-index: {name} was not measured" for name in stated if name not in derived]
    for name in stated.keys() & derived.keys():
        one, other = stated[name], derived[name]
        if one.metric_value != other.metric_value:
            failures.append(f"model-index: {name}: the card says {one.metric_value}, not {other.metric_value}")
        elif one.metric_args != other.metric_args:
            failures.append(f"model-index: {name}: interval, queries or first stage are others than derived")
    return failures


def _result_name(result: Any) -> str:
    arguments = result.metric_args or {}
    return f"{arguments.get('system', '?')} {arguments.get('measure', '?')} on {result.dataset_name}"


def _card(folder: Path, kind: str, publication: Mapping[str, Any]) -> Line:
    """The whole card, sentence by sentence, where this version has the template that it was made from."""
    what = f"{cards.CARD_FILE}: every line from report and provenance"
    if publication["template_sha256"] != cards.template_sha256(kind):
        return Line(f"{what} (another version's template; its figures were compared)", None)

    def compare() -> list[str]:
        return _lines_apart(cards.render(kind, *cards.read(folder)), folder / cards.CARD_FILE)

    return Line(what, _attempt(compare))


def _lines_apart(expected: str, path: Path) -> list[str]:
    """The first line of a card that is not what the template gives."""
    found, wanted = path.read_text(encoding="utf-8").splitlines(), expected.splitlines()
    for number, (line, derived) in enumerate(zip(found, wanted, strict=False), start=1):
        if line != derived:
            return [f"{path.name}, line {number}: says {line[:100]!r}, not {derived[:100]!r}"]
    if len(found) != len(wanted):
        return [f"{path.name}: has {len(found)} lines, not {len(wanted)}"]
    return []


def _negatives_counts(folder: Path) -> list[str]:
    """Rows, candidates and found positives of every split and retriever."""
    manifest = read_manifest(folder, "splits")
    failures = []
    for split, facts in manifest["splits"].items():
        rows, found = 0, {name: [0, 0] for name in facts["retrievers"]}
        for row in stream_rows(folder, split):
            rows += 1
            for ranked in row["candidates"]:
                counts = found.setdefault(ranked["retriever"], [0, 0])
                counts[0] += len(ranked["doc_ids"])
                counts[1] += not set(row["positive_ids"]).isdisjoint(ranked["doc_ids"])
        if rows != facts["queries"]:
            failures.append(f"{MANIFEST_FILE}: {split}: {facts['queries']} queries are stated, but {rows} are there")
        for name, (candidates, positives) in found.items():
            stated = facts["retrievers"].get(name, {})
            pair = stated.get("candidates"), stated.get("queries_whose_positive_is_found")
            if pair != (candidates, positives):
                failures.append(
                    f"{MANIFEST_FILE}: {split}, {name}: {pair} are stated, but {candidates, positives} counted"
                )
    return failures


def _negatives_audit(folder: Path) -> list[str]:
    """Every figure of audit.json."""
    if not (folder / AUDIT_FILE).exists():
        return []
    stated = read_json(folder / AUDIT_FILE)
    candidates = load_candidates(folder, stated["split"])
    made = audit(
        stream_rows(folder, stated["split"]),
        candidates.corpus.text,
        stated["split"],
        stated["queries_in_split"],
        max_queries=stated.get("max_queries", stated["queries_in_split"]),
        seed=stated["seed"],
        judged_by=stated["judged_by"],
    )
    made = json.loads(json.dumps(made))
    return [
        f"{AUDIT_FILE}: {key}: is stated as {str(stated.get(key))[:80]}, but the rows give {str(made[key])[:80]}"
        for key in made
        if key not in ("suspicious", "max_queries") and made[key] != stated.get(key)
    ]


def _negatives_preview(folder: Path) -> list[str]:
    """Every text that the Hub's viewer shows."""
    return preview_differences(folder, read_manifest(folder, "files"))


def _card_of_negatives(folder: Path, publication: Mapping[str, Any]) -> Line:
    what = f"{cards.CARD_FILE}: every line from manifest, audit and provenance"
    if publication["template_sha256"] != cards.template_sha256("negatives"):
        return Line(f"{what} (another version's template)", None)

    def compare() -> list[str]:
        with tempfile.TemporaryDirectory() as scratch:
            for name in (MANIFEST_FILE, AUDIT_FILE, PROVENANCE_FILE):
                if (folder / name).exists():
                    (Path(scratch) / name).write_bytes((folder / name).read_bytes())
            card = write_negatives_card(scratch, publication["repo_id"]).read_text(encoding="utf-8")
        return _lines_apart(card, folder / cards.CARD_FILE)

    return Line(what, _attempt(compare))


def _sources(folder: Path, kind: str) -> Iterator[Line]:
    """Base model, data and collections that the provenance pins to commits."""
    for repo_type, name, revision in sorted(set(_pins(folder, kind))):
        yield Line(f"{repo_type} {name} at {revision[:12]} exists", _exists(repo_type, name, revision))
    if kind != "negatives":
        for stated in mixtures.sets_of(read_json(folder / PROVENANCE_FILE)):
            if PINNED.fullmatch(f"{stated['name']}@{stated['revision']}"):
                what = f"{PROVENANCE_FILE}: figures of the negatives {stated['name']}"
                yield Line(what, _attempt(_negatives_facts, stated))


def _sets(folder: Path) -> list[str]:
    """Candidates with their shares, and teacher, of a model, and the card's table of them."""
    provenance = read_json(folder / PROVENANCE_FILE)
    wrong, sets = mixtures.differences(provenance), mixtures.sets_of(provenance)
    if wrong or len(sets) < 2:
        return wrong
    return _tables((folder / cards.CARD_FILE).read_text(encoding="utf-8"), [cards.mixture_table(sets)])


def _negatives_facts(stated: Mapping[str, Any]) -> list[str]:
    """What the card says of the negatives, against manifest and audit of their own repository."""
    found = negatives_facts(stated["name"], stated["revision"])
    return [f"{key}: is another than in {stated['name']}" for key in found if stated.get(key) != found[key]]


def _pins(folder: Path, kind: str) -> Iterator[tuple[str, str, str]]:
    if kind == "negatives":
        manifest = read_manifest(folder, "collection", "corpus")
        sources = [("dataset", manifest["collection"]), ("dataset", manifest["corpus"])]
    else:
        provenance = read_json(folder / PROVENANCE_FILE)
        sources = [("model", provenance["base_model"])]
        sources += [("model", one) for one in provenance.get("teachers", ()) if "name" in one]
        sources += [("dataset", one) for one in cards.training_data(provenance)]
        for place in evidence.places_in(folder, provenance):
            stated = read_json(folder / place / evidence.JUDGEMENTS_FILE)["collection"]
            name, _, revision = stated.partition("@")
            sources.append(("dataset", {"name": name, "revision": revision}))
    for repo_type, source in sources:
        name, revision = source.get("name") or source.get("repo"), source.get("revision")
        if PINNED.fullmatch(f"{name}@{revision}"):
            yield repo_type, str(name), str(revision)


def _exists(repo_type: str, name: str, revision: str) -> list[str] | None:
    """Nothing where it does; None where the Hub cannot be asked."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import (
        HfHubHTTPError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    try:
        HfApi().repo_info(name, repo_type=repo_type, revision=revision, timeout=30)
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return [f"{name}@{revision}: is not on the Hub, or not open to you"]
    except (HfHubHTTPError, OfflineModeIsEnabled, OSError):
        return None
    return []
