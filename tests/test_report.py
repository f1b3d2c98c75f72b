"""Protects the written report: every figure from report.json, one self-contained page, texts that cannot break it."""

import csv
import html.parser
import re
import types

import pytest

from r2anker_hf.evaluation.evaluation import CollectionFacts, Settings, evaluate
from r2anker_hf.evaluation.report import Texts, axis_ticks, read_report, write_report
from r2anker_hf.records import InputError
from r2anker_hf.run import Run
from r2anker_hf.templates import markdown_cell, p_value, shorten, signed

FILES = ["per_query.tsv", "report.html", "report.json", "report.md"]
EVIL = "<script>alert(1)</script> & \"quotes\" 'both' | `code` *stars* [link](javascript:x) \x00\n\n# heading"
VOID = {"meta", "br", "line", "circle", "path", "wbr"}


def ranked(*doc_ids):
    return [(doc_id, float(-rank)) for rank, doc_id in enumerate(doc_ids)]


def make_report(name="ranker", collection="apidocs", queries=4, **options):
    qrels = {f"q{q}": {"b" if q % 3 else "a": 1} for q in range(queries)}
    runs = [Run({q: ranked("a", "b") for q in qrels}, "bm25"), Run({q: ranked("b", "a") for q in qrels}, name)]
    options = {"first_stages": {name: "bm25"}, "settings": Settings(resamples=200)} | options
    return evaluate(
        qrels, runs, ["MRR@10", "nDCG@10"], collection=CollectionFacts(collection, "abc", "test"), **options
    )


def write(tmp_path, *args, **options):
    page = write_report(*args, **options) if args else write_report(make_report(), tmp_path, **options)
    return page.read_text(encoding="utf-8")


class Balance(html.parser.HTMLParser):
    """Fails where a tag is left open or closed twice; collects tags and attributes."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.attributes = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def parse(page):
    parser = Balance()
    parser.feed(page)
    parser.close()
    assert parser.open == []
    return parser


def test_four_files_are_written_and_read_back(tmp_path):
    report = make_report()
    page = write_report(report, tmp_path / "new" / "folder")
    assert page == tmp_path / "new" / "folder" / "report.html"
    assert sorted(path.name for path in page.parent.iterdir()) == FILES
    assert read_report(page.parent) == read_report(page.parent / "report.json") == report


def test_same_report_same_bytes(tmp_path):
    for folder in ("one", "two"):
        write_report(make_report(), tmp_path / folder)
    for name in FILES:
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_figures_of_the_pages_are_those_of_the_report(tmp_path):
    report = make_report()
    page = write(tmp_path)
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    for system in report.systems:
        for estimate in system.scores.values():
            assert f"{estimate.mean:.4f}" in page and f"{estimate.mean:.4f}" in text
            assert f"{estimate.low:.3f}–{estimate.high:.3f}" in page
    for comparison in report.comparisons:
        assert signed(comparison.difference) in page and p_value(comparison.p_corrected) in text
    assert "R@2" in page and "apidocs@abc · test" in page


def test_page_is_whole_and_loads_nothing(tmp_path):
    parser = parse(write(tmp_path))
    assert not {"script", "link", "img", "iframe", "object", "base", "form"} & set(parser.tags)
    assert not [(name, value) for name, value in parser.attributes if name in ("src", "href", "action", "srcset")]
    assert not [name for name, _ in parser.attributes if name.startswith("on")]
    assert not re.search(r"url\(|@import|https?://", write(tmp_path))


def test_texts_are_escaped(tmp_path):
    texts = Texts(query=lambda query_id: f"{EVIL} {query_id}", document=dict.fromkeys("ab", EVIL))
    report = make_report(name="<b>ranker</b> & co", collection="<i>evil</i>")
    page = write(tmp_path, report, tmp_path, texts)
    parser = parse(page)
    assert not {"script", "i"} & set(parser.tags)
    assert "&lt;script&gt;alert(1)&lt;/script&gt; &amp; &#34;quotes&#34;" in page
    assert "\x00" not in page and "&lt;i&gt;evil" in page
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert "<script>" not in text and "\n# heading" not in text and r"\[link\](javascript:x)" in text


def test_per_query_values_have_all_their_digits(tmp_path):
    write(tmp_path)
    with open(tmp_path / "per_query.tsv", encoding="utf-8", newline="") as file:
        assert file.readline().rstrip("\n") == "query_id\tmeasure\tbm25\tranker"
        rows = list(csv.reader(file, delimiter="\t"))
    report = make_report()
    expected = report.per_query["nDCG@10"]["ranker"]
    assert [float(row[3]) for row in rows if row[1] == "nDCG@10"] == list(expected)
    assert [row[0] for row in rows if row[1] == "MRR@10"] == list(report.query_ids)


def test_wins_and_losses_show_texts_and_ranks(tmp_path):
    texts = types.SimpleNamespace(query={"q1": "how to sort"}.__getitem__, document={"a": "first text"})
    page = write(tmp_path, texts=texts)
    assert "how to sort" in page and "first text" in page
    assert "rank 2 → <b>1</b>" in page and "rank 1 → <b>2</b>" in page
    assert page.index("Largest gains") < page.index("Largest losses")


def test_without_texts_the_ids_are_shown(tmp_path):
    page = write(tmp_path)
    assert '<h4 dir="auto">q1</h4>' in page and "<bdi>b</bdi>" in page


def test_significance_is_marked_only_where_it_is(tmp_path):
    qrels = {f"q{q}": {"b": 1} for q in range(40)}
    runs = [Run({q: ranked("a", "b") for q in qrels}, "weak"), Run({q: ranked("b", "a") for q in qrels}, "strong")]
    report = evaluate(qrels, runs, ["MRR@10"], settings=Settings(resamples=200))
    cell = re.compile(r'<td[^>]*><span class="(up|down)" title=[^>]*>([▲▼])</span> <b>([\d.]+)')
    assert cell.findall(write(tmp_path, report, tmp_path)) == [("up", "▲", "1.0000")]
    assert cell.findall(write(tmp_path, report, tmp_path, baseline="strong")) == [("down", "▼", "0.5000")]
    assert cell.findall(write(tmp_path, make_report(), tmp_path)) == []
    assert "no significant difference" in write(tmp_path, make_report(), tmp_path)


@pytest.mark.parametrize("queries", [1, 2, 900])
def test_any_number_of_queries_makes_a_whole_page(tmp_path, queries):
    parse(write(tmp_path, make_report(queries=queries), tmp_path))


def test_one_system_and_equal_systems_make_a_whole_page(tmp_path):
    run = Run({"q": ranked("a")}, "alone")
    alone = evaluate({"q": {"a": 1}}, [run], ["R@1"], settings=Settings(resamples=10))
    assert "Pairs" not in write(tmp_path, alone, tmp_path)
    twins = evaluate({"q": {"a": 1}}, [run, Run(run, "twin")], ["R@1"], settings=Settings(resamples=10))
    page = write(tmp_path, twins, tmp_path)
    parse(page)
    assert "1 equal" in page and "None." in page


def test_tables_of_the_markdown_are_rectangular(tmp_path):
    write(tmp_path)
    blocks = re.findall(r"(?:^\|.*\n)+", (tmp_path / "report.md").read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(blocks) == 4  # means, rerankers, and the pairs of two measures
    for block in blocks:
        lines = block.splitlines()
        assert len(lines) >= 3 and re.fullmatch(r"\|(:--\||--:\|)+", lines[1])
        assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines}) == 1


def test_bad_input_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file, but the report needs a folder"):
        write_report(make_report(), tmp_path / "file")
    with pytest.raises(InputError, match="no system is called 'x'; there are bm25, ranker"):
        write_report(make_report(), tmp_path, baseline="x")
    with pytest.raises(InputError, match=r"report\.json: no such file"):
        read_report(tmp_path)
    (tmp_path / "report.json").write_bytes(b"\xff")
    with pytest.raises(InputError, match=r"report\.json: is no report"):
        read_report(tmp_path)


@pytest.mark.parametrize(
    "low,high", [(0, 0), (1, 1), (0, 1), (0.5, 0.5), (0.3333, 0.3334), (0.01, 0.99), (0.42, 0.61)]
)
def test_axis_encloses_what_it_shows(low, high):
    ticks = axis_ticks(low, high)
    assert ticks[0] <= low <= high <= ticks[-1] and 2 <= len(ticks) <= 7 and 0 <= ticks[0] and ticks[-1] <= 1


def test_small_formats():
    assert (signed(0.5), signed(-0.5), signed(0.0), signed(-1e-9)) == ("+0.5000", "−0.5000", "0.0000", "0.0000")
    assert (p_value(0.05), p_value(1.0), p_value(1e-4)) == ("0.050", "1.000", "<0.001")
    assert shorten("a" * 30, 10) == "a" * 10 + "…"
    assert shorten("one two", 7) == "one two"
    assert markdown_cell("a\nb|c") == "a b\\|c"
