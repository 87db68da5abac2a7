import io
import re
from html.parser import HTMLParser

import pytest
from rich.console import Console

from bipft_compress.counting.schema import OPERATION_KINDS
from bipft_compress.recipe import Recipe
from bipft_compress.reporting import (
    Measured,
    MeasuredSystem,
    Profile,
    Report,
    RunFacts,
    TrainingPoint,
    build_report,
    render_html,
    render_markdown,
    render_table,
    report_from_config,
)
from bipft_compress.reporting.figures import _operations
from bipft_compress.reporting.sections import first_figures
from bipft_compress.reporting.units import Unit, flops_unit, size_unit


class Page(HTMLParser):
    """Tags, ids and text of a page; fails on a tag that is never closed."""

    VOID = {"meta", "br", "path", "use", "rect", "line"}

    def __init__(self, source):
        super().__init__()
        self.open, self.tags, self.ids, self.text = [], [], [], []
        self.feed(source)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


def test_html_needs_nothing_outside(report):
    html = render_html(report)
    assert "http" not in html
    assert not re.search(r"<(script|link|img|iframe)\b", html)
    assert not re.search(r"@import|src=|url\((?!#)", html)


def test_html_escapes_what_comes_from_outside(report):
    html = render_html(report)
    assert "<script>" not in html
    assert "<b>dev.tsv" not in html
    page = Page(html)
    text = "".join(page.text)
    assert report.model.checkpoint in text
    assert "bipft-compress report in --out <script>" in text
    assert "script" not in page.tags


def test_html_has_five_figures_with_ids_of_their_own(report):
    page = Page(render_html(report))
    assert page.tags.count("svg") == page.tags.count("figure") == 5
    assert len(page.ids) == len(set(page.ids))


def test_the_first_screen_has_four_figures_and_a_picture(report):
    html = render_html(report)
    assert html.count('<div class="card">') == 4
    assert html.index("</figure>") < html.index("<table>")
    cards = first_figures(report)
    assert [card.name for card in cards][:2] == ["fewer operations", "smaller"]
    assert cards[0].value == f"{report.operations.ratio:.1f}x"


def test_before_and_after_are_drawn_on_one_scale(report):
    """The longest bar of what is compressed is as much shorter as its number is smaller."""
    counts = report.operations.by_kind
    expected = [counts[kind] for kind in OPERATION_KINDS if kind in counts]
    axes = _operations(report).axes[0]
    full, compressed = ([bar.get_width() for bar in group] for group in axes.containers)
    unit = full[0] / expected[0].full_precision
    assert full == pytest.approx([count.full_precision * unit for count in expected])
    assert compressed == pytest.approx([count.compressed * unit for count in expected])


def test_the_page_is_dark_where_it_is_asked_and_fits_a_phone(report):
    html = render_html(report)
    assert "prefers-color-scheme: dark" in html
    # A drawing's text takes the page's colours, and a phone's row names its columns.
    assert "fill: var(--ink, #323f4b)" in html
    assert 'data-column="full precision"' in html
    assert "<details><summary>How to run this again</summary>" in html


def test_same_report_same_bytes(report):
    assert render_html(report) == render_html(report)
    assert render_markdown(report) == render_markdown(report)


def test_counts_alone_have_no_empty_sections(tiny_config):
    plain = report_from_config(tiny_config, Recipe(), sequence_length=7)
    page = Page(render_html(plain))
    assert page.tags.count("svg") == 3
    markdown = render_markdown(plain)
    for title in ("Quality", "Error of each layer", "Training"):
        assert f"## {title}\n" not in markdown


@pytest.mark.parametrize("points", [1, 2])
def test_short_logs(tiny_config, points):
    log = [TrainingPoint(step=i, tokens=i, loss=1.0) for i in range(points)]
    run = RunFacts(training=log, layer_errors=[0.5])
    report = report_from_config(tiny_config, Recipe(), sequence_length=7, run=run)
    page = Page(render_html(report))
    assert page.tags.count("svg") == 3 + points


def test_markdown_tables_are_rectangular_and_escaped(report):
    markdown = render_markdown(report)
    # Only indented code may hold it: there it is shown as it is.
    assert all(line.startswith("    ") for line in markdown.splitlines() if "<script>" in line)
    assert "\\<script\\>alert(1)" in markdown.splitlines()[0]
    for block in markdown.split("\n\n"):
        if block.startswith("|"):
            widths = {len(re.findall(r"(?<!\\)\|", line)) for line in block.splitlines()}
            assert len(widths) == 1


def test_both_renderings_say_the_same(report):
    markdown, html = render_markdown(report), render_html(report)
    for title in ("Operations by kind", "Memory by kind", "What was swapped", "Every module"):
        assert f"## {title}" in markdown
        assert title in html


def test_terminal_table(report):
    console = Console(file=io.StringIO(), width=120)
    console.print(render_table(report))
    shown = console.file.getvalue()
    for word in ("operations", "memory", "fewer", "less", "0.8670", "0.8050", "accuracy"):
        assert word in shown


def test_every_family_renders(make_model, family):
    report = build_report(make_model(family), Recipe(), sequence_length=7)
    assert Report.model_validate_json(report.model_dump_json()) == report
    markdown = render_markdown(report)
    kept = markdown.partition("## What stays in full precision")[2].partition("\n## ")[0]
    assert "layer\\_norm" in kept
    for entry in report.swapped:
        row = f"| {entry.kind.replace('_', chr(92) + '_')} | {entry.action} |"
        assert (row in kept) == (entry.action in ("kept", "rounded"))


@pytest.mark.parametrize("family", ["deberta-v2", "xmod"])
def test_figures_of_the_kinds_that_few_families_have(make_model, family):
    page = Page(render_html(build_report(make_model(family), Recipe(), sequence_length=7)))
    assert page.tags.count("svg") == 3


def test_a_summary_tells_shared_layers(make_model):
    report = build_report(make_model("albert"), Recipe(), sequence_length=7)
    assert "4 layers (2 stored) of width 36" in render_markdown(report)


@pytest.mark.parametrize(
    ("unit", "value", "shown"),
    [
        (Unit("GFLOPs", 10**9), 22.47e9, "22.5"),
        (Unit("GFLOPs", 10**9), 0.3846e9, "0.385"),
        (Unit("GFLOPs", 10**9), 1, "<0.001"),
        (Unit("MiB", 2**20), 0, "0"),
        (Unit("KiB", 2**10), 1536, "1.50"),
        (flops_unit(5), 5, "5.00"),
        (size_unit(3 * 2**30), 3 * 2**30, "3.00"),
    ],
)
def test_units(unit, value, shown):
    assert unit.show(value) == shown


@pytest.fixture
def measured():
    systems = [
        MeasuredSystem(name="bipft-compress", milliseconds=10, ratio=1, file_bytes=2**20),
        MeasuredSystem(name="PyTorch fp32", milliseconds=41, ratio=4.1),
        MeasuredSystem(name="OpenVINO", note="not installed (<openvino>)"),
    ]
    return Measured(
        batch=1, sequence_length=7, threads=1, rounds=3, path="avx2", machine="a machine",
        torch_version="2", date="2026-01-01T00:00:00+00:00", original="the original",
        systems=systems,
    )  # fmt: skip


def test_measured_beside_peers(tiny_config, measured):
    systems = measured.systems
    run = RunFacts(measured=measured)
    report = report_from_config(tiny_config, Recipe(), sequence_length=7, run=run)
    assert Report.model_validate_json(report.model_dump_json()) == report
    markdown, html = render_markdown(report), render_html(report)
    assert "| latency | 41.0 ms | 10.0 ms | 4.10x faster |" in markdown
    assert "| bipft-compress | 10.0 | 1.00 | 1.00 MiB | - |  |" in markdown
    assert "not installed (&lt;openvino&gt;)" in html
    Page(html)
    assert "kernels: avx2." in markdown
    mixed = report.model_copy(
        update={"measured": measured.model_copy(update={"blocks": {"avx2": 5, "reference": 1}})}
    )
    assert "encoder blocks: 5 on avx2, 1 on reference." in render_markdown(mixed)
    slower = measured.model_copy(
        update={"systems": [systems[0], systems[1].model_copy(update={"ratio": 0.5})]}
    )
    other = report.model_copy(update={"measured": slower})
    assert "2.00x slower" in render_markdown(other)


def test_where_the_time_goes(tiny_config, measured):
    profile = Profile(
        milliseconds=20.0,
        stages={"embeddings": 1, "linear": 12, "attention": 0.5, "rest": 5.5, "outside": 1},
        binary_macs=6_000_000_000,
        limit_milliseconds=8.0,
        reached=0.4,
    )
    run = RunFacts(measured=measured.model_copy(update={"profile": profile}))
    report = report_from_config(tiny_config, Recipe(), sequence_length=7, run=run)
    assert Report.model_validate_json(report.model_dump_json()) == report
    markdown, html = render_markdown(report), render_html(report)
    for text in (markdown, html):
        assert "6 G binary multiply-accumulates take 8.00 ms at the 750 G a second" in text
        assert "the pass is at 40.0 % of that limit, its products at 64.0 %" in text
    assert "| linear products | 12.00 | 60.0 % |" in markdown
    assert "| sum | 20.00 | 100.0 % |" in markdown
    page = Page(html)
    assert page.tags.count("svg") == 4
    assert len(page.ids) == len(set(page.ids))


def test_a_measurement_of_the_first_version_still_loads(tiny_config, measured):
    old = measured.model_dump(exclude={"profile"}) | {"version": 1}
    run = RunFacts(measured=old)
    report = report_from_config(tiny_config, Recipe(), sequence_length=7, run=run)
    assert report.measured.version == 1
    assert "Where the time goes" not in render_markdown(report)
