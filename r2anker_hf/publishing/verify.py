"""Check what was published: hashes, golden scores, every figure of the card, and that its sources exist.

Whatever is checked is derived from the files themselves; what a card or a report says of itself is only compared.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple, cast

from ..endings import printable
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
from .licences import carried
from .lint import Machine, findings
from .preparing import FORMAT, KINDS, PUBLICATION_FILE, QUOTING, data_licences, model_facts
from .provenance import PINNED, negatives_facts

ATTRIBUTES = ".gitattributes"  # the Hub's own
DOWNLOADED = ".cache/huggingface"  # what a download into a folder leaves there
LEADERBOARD = ".eval_results"
SOURCES = {"negatives": "manifest, audit and provenance"}  # of a card; a model's has others
# What a card of any template promises to the Hub's search, beside its model-index.
HEAD = ("license", "language", "base_model", "datasets", "source_datasets")
RESULTS = ("system", "reranker", "measure", "temperature")  # first heads of the tables that need evidence
# Of 255, in means over squares of 1 and of 8 pixels. In the latter, matplotlib 3.10 and 3.11 are 76 apart, by letters.
SAME_PIXELS, OTHER_PICTURE = 48, 96
# Columns of the rows: the key of a name in them, and what the manifest calls such runs.
LISTS = (
    ("candidates", "retriever", "retrievers"),
    ("constraints", "run", "constraints"),
    ("rankings", "ranker", "rankings"),
)


class Line(NamedTuple):
    """One thing that was checked. `failures` is empty where it holds; None where it could not be checked."""

    what: str
    failures: list[str] | None

    def __str__(self) -> str:
        verdict = "not checked" if self.failures is None else "FAILS" if self.failures else "holds"
        failures = [f"    {printable(failure)}" for failure in self.failures or ()]
        return "\n".join([f"{verdict:12} {printable(self.what)}", *failures])


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
    yield Line("files: names and sha256", _attempt(_hashes, folder, publication))
    yield Line("files: no pickle, code or token", _attempt(_lint, folder, kind))
    if kind == "negatives":
        yield Line("rows: counted again", _attempt(_negatives_counts, folder))
        yield Line("audit: made again", _asked(_negatives_audit, folder))
        yield Line("preview: drawn again", _asked(_negatives_preview, folder))
    else:
        yield Line("golden scores", _attempt(check_golden, folder, kind))
        if any(folder.glob("onnx/*")):
            yield Line("golden scores of the ONNX files", _attempt(check_golden_onnx, folder))
        what = f"{PROVENANCE_FILE}: data and teacher as the training recorded them"
        yield Line(what, _attempt(_training, folder, kind))
        yield from _figures(folder, kind)
        yield from _calibration(folder)
        if (folder / LEADERBOARD).exists():
            yield Line(f"{LEADERBOARD}: each value from the report", _attempt(_leaderboard, folder))
    yield from _card(folder, kind, publication)
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
    if content["format"] != FORMAT or content["kind"] not in list(KINDS):
        raise InputError(f"{path}: the format is {content['format']!r}, but this version reads {FORMAT!r}")
    return content


def _attempt(check: Callable[..., list[str] | None], *arguments: Any) -> list[str] | None:
    """A check's failures; what cannot be read fails too."""
    try:
        return check(*arguments)
    except Exception as error:  # of the readers of a dozen formats, for files that a stranger wrote
        return _failure(error)


def _asked(check: Callable[..., list[str] | None], *arguments: Any) -> list[str] | None:
    """`_attempt` for a check that may ask the Hub; None where it does not answer."""
    try:
        return check(*arguments)
    except Exception as error:
        return None if _is_out_of_reach(error) else _failure(error)


def _failure(error: Exception) -> list[str]:
    """What could not be read; a package that is missing here is no fault of the folder's."""
    if isinstance(error, ModuleNotFoundError):
        raise error
    return [str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"]


def _is_out_of_reach(error: BaseException) -> bool:
    """Whether an error came from a Hub that did not answer; one that knows no such repository did answer."""
    from huggingface_hub import errors
    from huggingface_hub.utils import httpx

    chain = [error]
    while (cause := chain[-1].__cause__ or chain[-1].__context__) and cause not in chain:
        chain.append(cause)
    answers = (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.RemoteEntryNotFoundError)
    silence = (httpx.HTTPError, ConnectionError, TimeoutError, errors.LocalEntryNotFoundError)
    return not any(isinstance(one, answers) for one in chain) and any(isinstance(one, silence) for one in chain)


def _besides(folder: Path) -> set[str]:
    """Files that nobody published. In the Hub's cache a repository's files are links: none of them is passed over."""
    left = [path for path in (folder / DOWNLOADED).rglob("*") if path.is_file() and not path.is_symlink()]
    return {ATTRIBUTES, *(path.relative_to(folder).as_posix() for path in left)}


def _lint(folder: Path, kind: str) -> list[str]:
    return findings(folder, Machine(), quoting=QUOTING.get(kind, ()), links=True, besides=_besides(folder))


def _hashes(folder: Path, publication: Mapping[str, Any]) -> list[str]:
    stated, besides = publication["files"], _besides(folder)
    paths = {p.relative_to(folder).as_posix(): p for p in sorted(folder.rglob("*")) if p.is_file()}
    failures = [f"{name}: is missing" for name in stated if name not in paths]
    for name, path in paths.items():
        if name == PUBLICATION_FILE or name in besides:
            continue
        if name not in stated:
            failures.append(f"{name}: was not published with the rest")
        elif sha256_file(path) != stated[name]["sha256"]:
            failures.append(f"{name}: has another sha256 than when it was published")
    return failures


def _figures(folder: Path, kind: str) -> Iterator[Line]:
    """Each report, then the card's tables and metadata, against what runs and judgements give."""
    derived: list[evidence.Measured] = []
    what = "figures: runs and judgements"
    try:
        provenance = read_json(folder / PROVENANCE_FILE)
        int8 = evidence.int8_in(folder, provenance)
        measured = evidence.measured_in(folder, provenance)
        if provenance["systems"] and not measured:
            yield Line(what, [f"{evidence.FIRST}/{evidence.REPORT_FILE}: is missing, but {PROVENANCE_FILE} names it"])
        for one in [*measured, *([int8] if int8 else [])]:
            wrong, found = _again(folder, one)
            yield Line(f"{one.place}/{evidence.REPORT_FILE}: every figure derived again", wrong)
            derived.append(dataclasses.replace(one, report=found))
        of_int8 = [cards.int8_table(derived.pop())] if int8 else []
        of_fit = [cards.calibration_table(provenance)] if "calibration" in provenance else []
    except Exception as error:
        yield Line(what, None if _is_out_of_reach(error) else _failure(error))
        return
    if int8:
        yield Line(f"{cards.CARD_FILE}: every figure of int8", _attempt(_tables_of, folder, of_int8))
    what = "every figure of its tables" if derived else "no table of results, as nothing was measured"
    yield Line(f"{cards.CARD_FILE}: {what}", _attempt(_results, folder, derived, of_int8 + of_fit))
    what = "every figure of model-index" if derived else "no model-index, as nothing was measured"
    yield Line(f"{cards.CARD_FILE}: {what}", _attempt(_model_index, _text(folder), kind, derived))


def _again(folder: Path, one: evidence.Measured) -> tuple[list[str], Any]:
    """The figures of a report that do not come out, and the report that does."""
    with tempfile.TemporaryDirectory() as scratch:
        report, qrels, runs = evidence.read_published(folder, Path(scratch), one.place)
        found = evidence.again(report, qrels, runs)
    return evidence.differences(report, found), found


def _calibration(folder: Path) -> Iterator[Line]:
    """Temperature, bias, error and threshold, where the model has them."""
    what = "config.json: calibration derived again from its run and judgements"
    try:
        if calibration.is_calibrated(folder):
            yield Line(what, _asked(_calibrated, folder))
    except Exception as error:
        yield Line(what, _failure(error))


def _calibrated(folder: Path) -> list[str]:
    """Numbers of a calibration that do not come out, else those that the card's table gives otherwise."""
    wrong, provenance = calibration.differences(folder), read_json(folder / PROVENANCE_FILE)
    return wrong or _tables_of(folder, [cards.calibration_table(provenance)])


def _text(folder: Path) -> str:
    """The card of a folder; nothing where there is none, which its hashes say."""
    path = folder / cards.CARD_FILE
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""


def _tables_of(folder: Path, expected: Sequence[cards.Table]) -> list[str]:
    return _tables(_text(folder), expected)


def _results(folder: Path, derived: Sequence[evidence.Measured], others: Sequence[cards.Table]) -> list[str]:
    """Figures of the reports' tables that are not as derived, and tables of results that nothing was derived for."""
    tables: list[cards.Table] = []
    for one in derived:
        tables += cards.tables(one.report, one.systems, cards.free_fusions(one.runs)).values()
    known = {table.header for table in (*tables, *others)}
    return _tables_of(folder, tables) + [
        f"{cards.CARD_FILE}: the table with the columns {', '.join(table.header)} rests on no evidence"
        for table in parse_tables(_text(folder))
        if table.header[0].casefold() in RESULTS and table.header not in known
    ]


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
    entries = cast(ModelCardData, ModelCard(text).data).eval_results or []
    stated = {_result_name(one): one for one in entries}
    derived = {_result_name(one): one for one in results}
    failures = [f"model-index: {name} is missing" for name in derived if name not in stated]
    failures += [f"model-index: {name} was not measured" for name in stated if name not in derived]
    counts = Counter(map(_result_name, entries))
    failures += [f"model-index: {name} stands there {count} times" for name, count in counts.items() if count > 1]
    for name in stated.keys() & derived.keys():
        one, other = stated[name], derived[name]
        if one.metric_value != other.metric_value:
            failures.append(f"model-index: {name}: the card says {one.metric_value}, not {other.metric_value}")
        elif one.metric_args != other.metric_args:
            failures.append(f"model-index: {name}: interval, queries or first stage are others than derived")
        elif one != other:
            failures.append(f"model-index: {name}: task, dataset or metric are called otherwise than derived")
    return failures


def _result_name(result: Any) -> str:
    arguments = result.metric_args or {}
    return f"{arguments.get('system', '?')} {arguments.get('measure', '?')} on {result.dataset_name}"


def _card(folder: Path, kind: str, publication: Mapping[str, Any]) -> Iterator[Line]:
    """The whole card with its pictures, where this version has the template that it was made from."""
    what = f"{cards.CARD_FILE}: every line from {SOURCES.get(kind, 'report and provenance')}"
    with tempfile.TemporaryDirectory() as scratch:
        made = Path(scratch)
        if failures := _attempt(_make_card, folder, kind, publication, made):
            yield Line(what, failures)
        elif publication["template_sha256"] == cards.template_sha256(kind):
            yield from _card_as_made(what, folder, made)
        else:
            compared = "head and tables" if kind == "negatives" else "head and quality"
            yield Line(f"{cards.CARD_FILE}: {compared}", _attempt(_head, folder, kind, made))
            note = "another version's template; head, figures and tables were compared; "
            yield Line(f"{what} ({note}{_unlike(folder, made)})", None)


def _make_card(folder: Path, kind: str, publication: Mapping[str, Any], into: Path) -> list[str]:
    """Card and pictures as this version makes them of what the folder states."""
    paths = [folder / name for name in (MANIFEST_FILE, AUDIT_FILE, PROVENANCE_FILE)]
    for path in filter(Path.is_file, [*paths, *folder.glob(f"{evidence.FIRST}/**/{evidence.REPORT_FILE}")]):
        (into / path.relative_to(folder)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, into / path.relative_to(folder))
    if kind == "negatives":
        write_negatives_card(into, publication["repo_id"])
    else:
        cards.write_card(into, kind)
    return []


def _card_as_made(what: str, folder: Path, made: Path) -> Iterator[Line]:
    """The card's lines and pictures, and a line for pictures of which it cannot be said whether they are the same."""
    other, unlike = _pictures(folder, made)
    failures = _lines_apart(_text(made), _text(folder))
    yield Line(what, failures + [f"{name}: is not the picture that the figures give" for name in other])
    if unlike:
        from matplotlib import __version__

        yield Line(f"{', '.join(unlike)}: as another matplotlib than {__version__} may have drawn it", None)


def _head(folder: Path, kind: str, made: Path) -> list[str]:
    """What a card promises whatever its template: licence, base model and data of its head, and its quality lines."""
    from huggingface_hub import RepoCard

    stated, derived = (RepoCard(_text(one)).data.to_dict() for one in (folder, made))
    wrong = [
        f"{cards.CARD_FILE}: {key} is stated as {stated.get(key)}, but the folder's files give {derived.get(key)}"
        for key in HEAD
        if stated.get(key) != derived.get(key)
    ]
    lines = [re.findall(r"^- \*\*Quality.*", _text(one), re.MULTILINE) for one in (folder, made)]
    if lines[0] != lines[1]:
        wrong.append(f"{cards.CARD_FILE}: says {' '.join(lines[0])[:200]!r}, not {' '.join(lines[1])[:200]!r}")
    return wrong + (_tables_of(folder, parse_tables(_text(made))) if kind == "negatives" else [])


def _unlike(folder: Path, made: Path) -> str:
    """What of a card of an unknown template was not compared: how many lines, and which pictures."""
    known = set(_text(made).splitlines())
    lines = [line for line in _text(folder).splitlines() if line not in known]
    pictures = [name for names in _pictures(folder, made) for name in names]
    such = f", such as {lines[0][:80]!r}" if lines else ""
    found = [f"lines unlike this version's: {len(lines)}{such}"]
    found += [f"pictures unlike this version's: {', '.join(pictures)}"] if pictures else []
    return "; ".join(found)


def _pictures(folder: Path, made: Path) -> tuple[list[str], list[str]]:
    """Pictures that are others than were drawn again, and those that are only nearly the same."""
    names = {path.relative_to(top).as_posix() for top in (folder, made) for path in top.rglob("*.png")}
    apart = {name: _difference(folder / name, made / name) for name in sorted(names)}
    other = [name for name, (pixels, cells) in apart.items() if cells >= OTHER_PICTURE]
    unlike = [name for name, (pixels, cells) in apart.items() if pixels > SAME_PIXELS and cells < OTHER_PICTURE]
    return other, unlike


def _difference(path: Path, drawn: Path) -> tuple[int, int]:
    """The largest difference of two pictures in a colour, over pixels and over squares of 8; 255 without a second."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as one, Image.open(drawn) as other:
            if getattr(one, "n_frames", 1) > 1 or abs(np.divide(one.size, other.size) - 1).max() > 0.05:
                return 255, 255
            pair = [one.convert("RGBA").resize(other.size), other.convert("RGBA")]
            found = [
                int(np.abs(np.subtract(*(np.asarray(image.reduce(cell), dtype=int) for image in pair))).max())
                for cell in (1, 8)
            ]
    except Exception:  # missing, or no picture
        return 255, 255
    return found[0], found[1]


def _lines_apart(expected: str, text: str) -> list[str]:
    """The first line of a card that is not what the template gives."""
    found, wanted = text.splitlines(), expected.splitlines()
    for number, (line, derived) in enumerate(zip(found, wanted, strict=False), start=1):
        if line != derived:
            return [f"{cards.CARD_FILE}, line {number}: says {line[:100]!r}, not {derived[:100]!r}"]
    if len(found) != len(wanted):
        return [f"{cards.CARD_FILE}: has {len(found)} lines, not {len(wanted)}"]
    return []


def _leaderboard(folder: Path) -> list[str]:
    """Files for a benchmark's leaderboard that the first report does not give; the benchmark is as they state."""
    import yaml

    paths = sorted(path for path in (folder / LEADERBOARD).rglob("*") if path.is_file())
    stated = {path.relative_to(folder).as_posix(): yaml.safe_load(path.read_bytes()) for path in paths}
    measured = evidence.measured_in(folder, read_json(folder / PROVENANCE_FILE))
    if not measured or not stated:
        return [f"{name}: rests on no report" for name in stated]
    benchmark = next(iter(stated.values()))[0]["dataset"]
    with tempfile.TemporaryDirectory() as scratch:
        task = f"{benchmark['id']}#{benchmark['task_id']}"
        cards.write_eval_results(Path(scratch), measured[0].report, measured[0].systems, task)
        derived = {
            path.relative_to(scratch).as_posix(): yaml.safe_load(path.read_bytes())
            for path in (Path(scratch) / LEADERBOARD).iterdir()
        }
    return [
        f"{name}: states {str(stated.get(name))[:200]}, but the report gives {str(derived.get(name))[:200]}"
        for name in sorted({*stated, *derived})
        if stated.get(name) != derived.get(name)
    ]


def _negatives_counts(folder: Path) -> list[str]:
    """Passages, and every split's rows, candidates and found positives by list."""
    manifest = read_manifest(folder, "splits", "documents")
    failures = []
    if passages := _passages(folder):
        failures += _documents_apart(manifest, passages)
    for split, facts in manifest["splits"].items():
        rows, found = _counted(folder, split)
        if rows != facts["queries"]:
            failures.append(f"{MANIFEST_FILE}: {split}: {facts['queries']} queries are stated, but {rows} are there")
        names = {(use, name) for _, _, use in LISTS for name in facts.get(use, ())}
        for use, name in sorted({*found, *names}):
            counted, stated = tuple(found.get((use, name), (0, 0))), facts.get(use, {}).get(name, {})
            pair = stated.get("candidates"), stated.get("queries_whose_positive_is_found")
            if pair != counted:
                failures.append(f"{MANIFEST_FILE}: {split}, {name}: {pair} are stated, but {counted} counted")
    return failures


def _counted(folder: Path, split: str) -> tuple[int, dict[tuple[str, str], list[int]]]:
    """Rows of a split; by use and name of its lists, their documents and how often a relevant one is among them."""
    rows = 0
    found: dict[tuple[str, str], list[int]] = {}
    for row in stream_rows(folder, split):
        rows += 1
        for column, key, use in LISTS:
            for ranked in row.get(column) or ():
                counts = found.setdefault((use, ranked[key]), [0, 0])
                counts[0] += len(ranked["doc_ids"])
                counts[1] += not set(row["positive_ids"]).isdisjoint(ranked["doc_ids"])
    return rows, found


def _passages(folder: Path) -> int:
    """Rows of the folder's own corpus; 0 where the corpus is another repository's."""
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(path).num_rows for path in (folder / "corpus").glob("*.parquet"))


def _documents_apart(manifest: Mapping[str, Any], counted: int) -> list[str]:
    stated = manifest["documents"]
    wrong = f"{MANIFEST_FILE}: {stated} documents are stated, but the corpus holds {counted}"
    return [] if stated == counted else [wrong]


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
    wrong = [] if _passages(folder) else _documents_apart(read_manifest(folder, "documents"), len(candidates.corpus))
    return wrong + [
        f"{AUDIT_FILE}: {key}: is stated as {str(stated.get(key))[:80]}, but the rows give {str(made[key])[:80]}"
        for key in made
        if key not in ("suspicious", "max_queries") and made[key] != stated.get(key)
    ]


def _negatives_preview(folder: Path) -> list[str]:
    """Every text that the Hub's viewer shows."""
    return preview_differences(folder, read_manifest(folder, "files"))


def _sources(folder: Path, kind: str) -> Iterator[Line]:
    """Base model, data and collections that the provenance pins to commits."""
    try:
        pins = sorted(set(_pins(folder, kind)))
        sets = mixtures.sets_of(read_json(folder / PROVENANCE_FILE)) if kind != "negatives" else []
        pinned = [one for one in sets if PINNED.fullmatch(f"{one['name']}@{one['revision']}")]
    except Exception as error:
        yield Line(f"{PROVENANCE_FILE}: sources", _failure(error))
        return
    for repo_type, name, revision in pins:
        yield Line(f"{repo_type} {name} at {revision[:12]} exists", _asked(_exists, repo_type, name, revision))
    for stated in pinned:
        what = f"{PROVENANCE_FILE}: figures of the negatives {stated['name']}"
        yield Line(what, _asked(_negatives_facts, stated))


def _training(folder: Path, kind: str) -> list[str]:
    """Base model, candidates with their shares, teacher, licence and size, and the card's table of a mixture."""
    provenance = read_json(folder / PROVENANCE_FILE)
    wrong, sets = mixtures.differences(provenance), mixtures.sets_of(provenance)
    wrong += mixtures.base_differences(provenance) + _licence(provenance) + _size(folder, kind, provenance)
    if wrong or len(sets) < 2:
        return wrong
    return _tables_of(folder, [cards.mixture_table(sets)])


def _licence(provenance: Mapping[str, Any]) -> list[str]:
    """A clash of a model's licence with those of what it was made from."""
    data, stated = provenance.get("negatives") or provenance["collection"], provenance["licence"]
    sources = {"the base model": provenance["base_model"]["licence"], **data_licences(data)}
    try:
        allowed = carried(stated, sources, derived=False)
    except InputError as error:
        return [f"{PROVENANCE_FILE}: {error}"]
    wrong = f"{PROVENANCE_FILE}: licence {stated} is stated, but that of its sources is {allowed}"
    return [] if allowed == stated else [wrong]


def _size(folder: Path, kind: str, provenance: Mapping[str, Any]) -> list[str]:
    """Facts of a model, and sizes of its ONNX files, that its files do not give."""
    stated, derived = {**provenance["model"]}, model_facts(kind, folder)
    for name, size in provenance.get("onnx", {}).get("bytes", {}).items():
        stated[f"bytes of {name}"], derived[f"bytes of {name}"] = size, (folder / name).stat().st_size
    return [
        f"{PROVENANCE_FILE}: model: {key} is stated as {stated.get(key)}, but its files give {derived.get(key)}"
        for key in {**stated, **derived}
        if stated.get(key) != derived.get(key)
    ]


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


def _exists(repo_type: str, name: str, revision: str) -> list[str]:
    """Nothing where it does."""
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        HfApi().repo_info(name, repo_type=repo_type, revision=revision, timeout=30)
    except (RepositoryNotFoundError, RevisionNotFoundError):
        return [f"{name}@{revision}: is not on the Hub, or not open to you"]
    return []
