import itertools
import re
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from support.fake_device import fake_layers

from edgeseed.runtime import compare
from edgeseed.runtime.report.comparison import render_comparison
from edgeseed.runtime.validity import Reason

THROTTLED = (Reason(code="throttled", message="it ended 1.3 times as slow", invalidates=True),)


@pytest.fixture
def markup(make_result: Any) -> str:
    return render_comparison(
        compare(
            [
                make_result(folder="fp32", median_ms=10, size_bytes=16_000_000),
                make_result(folder="int8", precision="int8", seed=1, top1=0.89),
                make_result(folder="hot", median_ms=7, seed=2, reasons=THROTTLED),
                make_result(folder="phone", seed=3, machine={"model": "Phone"}),
            ]
        )
    )


def test_the_page_is_well_formed(markup: str) -> None:
    root = ElementTree.fromstring(markup.removeprefix("<!DOCTYPE html>"))

    assert len(root.findall(".//section")) == 9
    assert len(root.findall(".//figure")) == 8


def test_the_page_loads_nothing(markup: str) -> None:
    assert "<script" not in markup
    assert "<link" not in markup
    assert "<img" not in markup
    assert not re.search(r"(https?:)?//[a-z]", markup)
    assert not re.search(r"\b(src|href)=", markup)


def test_the_answer_comes_first(markup: str) -> None:
    root = ElementTree.fromstring(markup.removeprefix("<!DOCTYPE html>"))

    lead = str(root.findtext(".//p[@class='lead']"))
    assert lead.startswith("With int8, nine of ten images take at most 5.")
    assert "on Fake Board, 2.0 times as fast as fp32." in lead
    assert "Not valid, and not ranked: 1 of 4 results." in lead
    assert "2 machines or protocols" in lead


def test_what_does_not_count_is_marked(markup: str) -> None:
    assert "hot: not valid, throttled." in markup
    assert "It ended 1.3 times as slow." in markup


def test_every_picture_speaks(markup: str) -> None:
    root = ElementTree.fromstring(markup.removeprefix("<!DOCTYPE html>"))

    pictures = [svg for svg in root.iter("svg") if svg.get("role") == "img"]
    assert len(pictures) == 16
    assert all(len(str(svg.get("aria-label"))) > 40 for svg in pictures)


def test_headings_do_not_skip_a_level(markup: str) -> None:
    levels = [int(level) for level in re.findall(r"<h(\d)", markup)]

    assert levels[0] == 1
    assert all(after - before <= 1 for before, after in itertools.pairwise(levels))


def test_the_machine_is_described(markup: str) -> None:
    for fact in ("Fake A76", "governor performance", "90.0", "golden photos", "n = 1|one measure"):
        assert re.search(fact, markup), fact


def test_names_from_a_file_cannot_become_markup(make_result: Any) -> None:
    page = render_comparison(compare([make_result(folder="<img src=x onerror=alert(1)>")]))

    assert "<img" not in page


def test_one_result_has_a_page_too(make_result: Any, tmp_path: Path) -> None:
    compare([make_result(top1=None)], html=tmp_path / "page.html")

    text = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "Latency of tiny-fp32" in text
    assert "profile with --data" in text


def test_a_page_of_results_that_do_not_count_says_so_first(make_result: Any) -> None:
    page = render_comparison(compare([make_result(reasons=THROTTLED)]))

    assert "No result here is valid. tiny-fp32: it ended 1.3 times as slow." in page


def test_two_that_are_indistinguishable_are_not_ranked_in_words(make_result: Any) -> None:
    page = render_comparison(
        compare([make_result(folder="a"), make_result(folder="b", median_ms=5.0005, seed=1)])
    )

    assert "which is indistinguishable from" in page


def test_a_page_of_a_busy_machine_speaks_of_p50(make_result: Any) -> None:
    busy = {"seconds": 10.0, "other_cores": 1.6, "stolen_cores": 0.0, "load_average": 9.0}
    page = render_comparison(
        compare(
            [
                make_result(folder="a", load_during=busy),
                make_result(folder="b", median_ms=3, seed=1, load_during=busy),
            ]
        )
    )

    assert "With b, half of the images take at most 3." in page
    assert "Other work kept the machine busy during 2 of 2 results" in page
    assert ">p50 × the first<" in page
    assert "p50, ms per image" in page


def test_layers_are_shown_by_kind_and_the_slowest_by_name(make_result: Any) -> None:
    told = make_result(folder="told", layers=fake_layers(*range(30, 10, -1)))
    page = render_comparison(compare([told, make_result(folder="untold", seed=1)]))

    # 410 us of convolutions, and 10 of the head.
    assert re.search(r"told</th><td>98 %</td><td>2 %</td><td>0 %</td>", page)
    assert "conv_0 (Conv, cpu)" in page
    assert "30.0 µs, 7 %" in page
    assert "conv_19" not in page  # not among the slowest
    assert "The slowest of 21 layers that took time, with 50 % of it; means of 20 runs" in page
    assert "Not told by the engine: untold." in page


def test_a_page_is_small(markup: str) -> None:
    assert len(markup) < 200_000
