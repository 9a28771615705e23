"""The page holds everything it promises, refers to nothing outside of itself, and a browser shows it."""

from __future__ import annotations

import re
import shutil
import subprocess
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from flexdetr.classes import Classes
from flexdetr.data.dataset import Record
from flexdetr.metrics.coco_map import evaluate
from flexdetr.metrics.mistakes import find_mistakes
from flexdetr.report.charts import Line, line_chart, matrix
from flexdetr.report.make import ReportContent, cost, write_report
from flexdetr.report.page import page as whole_page

SECTIONS = (
    "Score",
    "Training",
    "Other runs",
    "Classes and sizes",
    "Precision and recall",
    "Thresholds",
    "Confusion",
    "Calibration",
    "Right detections",
    "Mistakes",
    "Data",
    "Configuration",
    "Environment",
)
CLASSES = Classes.of(["cat", "<dog>"])


@pytest.fixture(scope="module")
def subject(tmp_path_factory):
    folder = tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    records, found = [], {}
    for number in range(6):
        path = folder / f"{number}.png"
        Image.fromarray(rng.integers(0, 255, (80, 120, 3), dtype=np.uint8)).save(path)
        boxes = np.array([[10, 10, 40, 50], [60, 20, 110, 70]], np.float32)
        areas = (boxes[:, 2:] - boxes[:, :2]).prod(1)
        records.append(Record(path, number, 120, 80, boxes, np.array([0, 1]), np.zeros(2, bool), areas))
        # Right, a little off, off by half, a class that is not there, and nothing near.
        answer = np.concatenate([boxes, boxes[:1] + 1, boxes[1:] + 25, [[0, 60, 20, 80]]]).astype(np.float32)
        scores = np.array([0.9, 0.8, 0.7, 0.65, 0.85], np.float32) - 0.01 * number
        labels, kept = np.array([0, 1, 0, 1, 0]), slice(number % 2, 5)
        found[number] = (answer[kept], scores[kept], labels[kept])
    history = folder / "metrics.csv"
    history.write_text(
        "epoch,seconds,loss,l1,lr,ap,ap50,ap75\n1,3,9.5,2,1e-4,,,\n2,3,7.5,1.5,1e-4,0.1,0.3,0.1\n"
    )
    metrics = evaluate(records, found, CLASSES)
    return ReportContent(
        "flexdetr_pico on cats",
        "A lead.",
        records,
        found,
        CLASSES,
        metrics,
        {"val": records},
        "seed: 0",
        {},
        history,
        cost(parameters=4_700_000, num_bytes=19_000_000, seconds=3.0, images=6),
        [("run", "model", "AP"), ("first", "flexdetr_pico", 0.25)],
    )


@pytest.fixture(scope="module")
def page(subject, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    best = write_report(path, subject)
    return path, best


def test_every_section_is_there_and_names_are_escaped(page):
    text = page[0].read_text(encoding="utf-8")
    for name in SECTIONS:
        assert f"<h2>{name}</h2>" in text
    assert "&lt;dog&gt;" in text
    assert "<dog>" not in text
    assert text.count("<img ") >= 3
    assert "seed: 0" in text


def test_size_speed_and_other_runs_are_told(page):
    text = page[0].read_text(encoding="utf-8")
    for number in ("4.70 M", "19.0 MB", "500 ms"):
        assert f"<b>{number}</b>" in text
    assert "<td>first</td><td>flexdetr_pico</td><td>0.250</td>" in text


def test_one_threshold_is_recommended_for_all_classes(page, subject):
    text = page[0].read_text(encoding="utf-8")
    threshold = float(re.search(r"--threshold (0\.\d\d)<", text)[1])
    assert f"<b>{threshold:.2f}</b><span>recommended threshold" in text

    def f1(limit):
        """By hand: with this threshold, over the objects of both classes."""
        mistakes = find_mistakes(subject.records, subject.found, [limit, limit])
        return 2 * mistakes.right / (mistakes.kept + 12)

    assert f1(threshold) == pytest.approx(max(f1(limit) for limit in np.arange(0.5, 1, 0.005)))


def test_right_detections_are_shown_and_the_configuration_is_folded(page):
    text = page[0].read_text(encoding="utf-8")
    shown = text[text.index("The highest scores") : text.index('id="mistakes"')]
    assert shown.count("<img ") == 12 - 3  # each second image lacks the cat's detection
    assert "The lowest scores" in shown
    assert "<details><summary>" in text[text.index('id="configuration"') :]


def test_a_matrix_shows_shares_of_its_rows():
    assert "3<small>75 %</small>" in matrix(["a", "b"], [[3, 1], [0, 2]], title="t")
    assert "%" not in matrix(["a", "b"], [[3, 1], [0, 2]], title="t", shares=False)


def test_a_page_of_something_that_goes_on_reads_itself_again():
    assert '<meta http-equiv="refresh" content="30">' in whole_page(
        "t", "l", {"a": "b", "empty": ""}, refresh=30
    )
    assert "refresh" not in whole_page("t", "l", {"a": "b"})
    assert "empty" not in whole_page("t", "l", {"a": "b", "empty": ""})


def test_the_page_needs_nothing_from_elsewhere(page):
    text = page[0].read_text(encoding="utf-8")
    assert not re.search(r"""(?:src|href)=["'](?!data:|#)""", text)
    assert "<script" not in text
    assert "url(" not in text
    assert "@import" not in text


def test_every_tag_is_closed(page):
    waiting: list[str] = []

    class Checker(HTMLParser):
        def handle_starttag(self, tag, attrs):
            assert all(name for name, _ in attrs)
            if tag not in ("meta", "img", "br"):
                waiting.append(tag)

        def handle_endtag(self, tag):
            assert waiting.pop() == tag

        def handle_startendtag(self, *_closed_already):
            pass

    Checker().feed(page[0].read_text(encoding="utf-8"))
    assert not waiting


def test_the_best_thresholds_lie_between_right_and_wrong(page):
    best = page[1]
    assert set(best) == set(CLASSES.names)
    assert all(0.6 < value < 0.9 for value in best.values())


def test_a_detector_that_finds_nothing_gets_a_report_too(subject, tmp_path):
    nothing = {
        record.image_id: (np.zeros((0, 4)), np.zeros(0), np.zeros(0, np.int64)) for record in subject.records
    }
    metrics = evaluate(subject.records, nothing, CLASSES)
    empty = ReportContent("none", "", subject.records, nothing, CLASSES, metrics)
    assert write_report(tmp_path / "report.html", empty) == {}
    assert "nothing to show" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_a_chart_of_one_point_has_axes():
    svg = line_chart([Line("a", [1.0, 2.0], [3.0, float("nan")])], title="t", across="x", up="y")
    assert "<polyline" in svg
    assert "nan" not in svg


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(BROWSER is None, reason="no chromium here to open the page with")
def test_a_browser_shows_the_page(page, tmp_path):
    picture = tmp_path / "report.png"
    command = [
        BROWSER,
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--window-size=1280,4200",
    ]
    command += [f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={picture}", page[0].as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=600)
    with Image.open(picture) as shown:
        pixels = np.asarray(shown.convert("RGB")).astype(int)
    assert pixels.shape[:2] == (4200, 1280)
    # Charts, tables and pictures reach down the page: something differs from the ground nearly everywhere.
    ground = np.array([248, 250, 252])
    busy = (np.abs(pixels - ground).max(-1) > 12).any(1)
    assert busy[:3000].mean() > 0.6
    # Curves are coloured: far from grey.
    assert (np.ptp(pixels, axis=-1) > 90).sum() > 1000


def test_small_numbers_leave_room_for_the_name_of_their_axis():
    chart = line_chart([Line("lr", [1, 2], [0.0, 8e-4])], title="Learning rate", across="epoch", up="rate")
    ticks = re.findall(r'text-anchor="end">([^<]*)<', chart)
    assert "4e-4" in ticks
    assert max(map(len, ticks)) <= 6
