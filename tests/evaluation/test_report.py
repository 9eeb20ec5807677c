import json
from html.parser import HTMLParser

import pytest

from recsys.evaluation.report import SECTIONS, write_report

METRICS = {"hr@10": 0.25, "ndcg@10": 0.125, "intervals": {"hr@10": [0.2, 0.31]}}
EPOCH = {"figures": {"loss": 3.0}, "metrics": {"hr@10": 0.2}}
FIGURES = {
    "name": "a run",
    "run": {
        "settings": {"name": "a run", "seed": 0},
        "data": {"events": 12345},
        "seconds": {"prepared": 1.5},
        "protocol": ["Ties go to the smaller row."],
    },
    "data": {
        "events_by_day": {"days": ["2022-04-08", "2022-04-09"], "counts": {"events": [3, 4]}},
        "watch_seconds": {"edges": [0, 1, 2], "counts": [5, 6]},
        "popularity": {"rank": [1, 2], "watches": [9, 0]},
    },
    "training": {"candidates": {"epochs": [EPOCH, EPOCH], "best_epoch": 1, "stop": "max"}},
    "candidates": METRICS,
    "sources": [
        {"name": "candidate_net", "candidates": 57.5, "recall": 0.4375, "alone": 0.375},
        {"name": "new_items", "candidates": 2.0, "recall": 0.0, "alone": 0.0},
    ],
    "ranking": {"mae_seconds": 7.75, "xauc": 0.625},
    "baselines": {
        "popularity": {"hr@10": 0.0625},
        "item_mean": {"mae_seconds": 9.5, "xauc": None},
    },
    "calibration": {"predicted": [1.0, 2.0], "true": [1.5, 2.5], "counts": [3, 3]},
    "seconds_ratio_by": {
        "surface": [{"name": "home", "impressions": 7654, "before": 0.5, "after": 0.9375}],
        "duration": [
            {"name": "below 7 s", "impressions": 6543, "before": 1.25, "after": 1.0625},
            {"name": "unknown", "impressions": 5, "before": None, "after": None},
        ],
        "day": [{"name": "2022-05-08", "impressions": 5432, "before": 1.75, "after": 25.5}],
    },
    "watch_time": {"edges": [0, 1, 2], "true": [5, 6], "predicted": [4, 7]},
    "exploration": {
        "coverage": [
            {"name": "0", "impressions": 321, "coverage": 0.75, "below": 0.125, "above": 0.125},
            {"name": "1 or more", "impressions": 8, "coverage": 1.0, "below": 0.0, "above": 0.0},
        ]
    },
    "index": [
        {"kind": "exact", "setting": "", "recall": 1.0, "milliseconds": 0.5, "is_chosen": True},
        {"kind": "hnsw", "setting": "ef 50", "recall": 0.9, "milliseconds": 0.1},
    ],
    "serving": {"requests": 4321, "dropped": {"watched": 77}, "degraded": {}},
    "samples": [
        {
            "user_id": "<script>alert(1)</script>",
            "history": ["One"],
            "watched_next": None,
            "recommended": [{"item": "Two", "seconds": 12.25}, {"item": "Three", "seconds": None}],
        }
    ],
}


class Page(HTMLParser):
    """Collects text, tags that are not closed, and addresses."""

    VOID = ("meta", "br", "img", "link", "path", "use", "rect")

    def __init__(self, text):
        super().__init__()
        self.open, self.addresses, self.text = [], [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("href", "src", "xlink:href")]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.addresses += [value for name, value in attrs if name in ("href", "src", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data.strip())


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "deep" / "report.html"
    write_report(path, json.loads(json.dumps(FIGURES)))
    return path.read_text(encoding="utf-8")


def test_page_is_closed_and_refers_to_nothing_outside(page):
    parsed = Page(page)
    assert parsed.open == []
    assert all(address.startswith("#") for address in parsed.addresses)
    assert "<script" not in page


def test_page_shows_every_section_when_all_figures_are_there(page):
    assert "Left out" not in page
    for key, title, _, _ in SECTIONS:
        assert f'<section id="{key}">' in page
        assert f"<h2>{title}</h2>" in page


def test_page_shows_figures_with_their_intervals(page):
    text = Page(page).text
    for figure in ("0.2500", "0.2000 to 0.3100", "0.0625", "7.750", "9.500", "12,345", "4,321"):
        assert any(figure in line for line in text), figure


def test_page_shows_metrics_that_a_baseline_lacks_as_a_dash(page):
    ranking = page[page.index('id="ranking"') : page.index('id="seconds"')]
    assert ranking.count("–") == 1


def test_coverage_stands_by_known_watches(page):
    table = [line for line in Page(section_of(page, "exploration")).text if line]
    start = table.index("0")
    assert table[start : start + 5] == ["0", "321", "0.750", "0.125", "0.125"]
    assert "1 or more" in table


def test_sources_stand_with_what_they_found(page):
    table = [line for line in Page(section_of(page, "sources")).text if line]
    start = table.index("candidate net")
    assert table[start : start + 4] == ["candidate net", "57.500", "0.4375", "0.3750"]
    assert "new items" in table


def section_of(page, key):
    return page[page.index(f'<section id="{key}">') :].split("</section>")[0]


def test_ratios_stand_by_surface_duration_and_day_with_their_impressions(page):
    section = section_of(page, "seconds_ratio_by")
    table = [line for line in Page(section).text if line]
    for row in (
        ["surface: home", "7,654", "0.500", "0.938"],
        ["duration: below 7 s", "6,543", "1.250", "1.062"],
        ["duration: unknown", "5", "–", "–"],
        ["day: 2022-05-08", "5,432", "1.750", "25.500"],
    ):
        start = table.index(row[0])
        assert table[start : start + 4] == row
    assert section.count("<svg") == 1


def test_ratios_without_days_are_shown_by_duration_alone(tmp_path):
    ratios = {"duration": FIGURES["seconds_ratio_by"]["duration"]}
    write_report(tmp_path / "report.html", {"seconds_ratio_by": ratios})
    section = section_of((tmp_path / "report.html").read_text("utf-8"), "seconds_ratio_by")
    assert section.count("<svg") == 1
    assert "day" not in section


def test_baselines_stand_beside_the_stage_that_they_belong_to(page):
    candidates = page[page.index('id="candidates"') : page.index('id="sources"')]
    ranking = page[page.index('id="ranking"') : page.index('id="seconds"')]
    assert "<th>popularity</th>" in candidates
    assert "<th>popularity</th>" not in ranking
    assert "<th>item_mean</th>" in ranking
    assert "<th>item_mean</th>" not in candidates


def test_page_escapes_what_comes_from_the_log(page):
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in page


def test_same_figures_give_the_same_bytes(tmp_path):
    figures = {key: FIGURES[key] for key in ("index", "serving")}
    for name in ("first", "second"):
        write_report(tmp_path / name, figures)
    assert (tmp_path / "first").read_bytes() == (tmp_path / "second").read_bytes()


@pytest.mark.parametrize("present", [(), ("serving",), ("samples", "run")])
def test_sections_without_figures_are_left_out_in_one_line_each(present, tmp_path):
    write_report(tmp_path / "report.html", {key: FIGURES[key] for key in present})
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for key, _, missing, _ in SECTIONS:
        assert (f"Left out: {missing}." in page) == (key not in present)


def test_metrics_without_ranking_leave_out_the_ranking_baselines(tmp_path):
    write_report(tmp_path / "report.html", {"baselines": FIGURES["baselines"]})
    assert "item_mean" not in (tmp_path / "report.html").read_text(encoding="utf-8")
