from xml.etree import ElementTree

from markupsafe import Markup

from edgeseed.core.svg import Svg
from edgeseed.runtime.report import page
from edgeseed.runtime.report.page import Cell, Section


def parse(markup: str) -> ElementTree.Element:
    return ElementTree.fromstring(markup.removeprefix("<!DOCTYPE html>"))


def test_a_page_is_well_formed_and_says_its_language_and_title() -> None:
    section = Section(title="Part <1>", lead="Read & see.", markup=Markup("<p>x</p>"))

    root = parse(page.render_page(title="A & B", lead="So.", sections=[section], foot="f"))

    assert root.get("lang") == "en"
    assert root.findtext("head/title") == "A & B"
    assert root.findtext(".//h1") == "A & B"
    assert root.findtext(".//section/h2") == "Part <1>"
    assert root.find("head/meta[@name='viewport']") is not None


def test_the_style_knows_both_lights_and_loads_nothing() -> None:
    markup = page.render_page(title="", lead="", sections=[], foot="")

    assert "prefers-color-scheme: dark" in markup
    assert "@import" not in markup
    assert "url(" not in markup


def test_text_in_tables_is_escaped() -> None:
    markup = page.table(
        ("", "<b>"), [[Cell(text="a & b", detail="<i>", css="s3"), "c"]], caption="'"
    )

    root = parse(markup)
    assert [cell.text for cell in root.iter("th")][:2] == [None, "<b>"]
    assert root.find(".//tbody/tr/th/small").text == "<i>"  # type: ignore[union-attr]
    assert root.find(".//tbody/tr/th/i[@class='swatch']") is not None


def test_tables_name_their_columns_and_rows_for_screen_readers() -> None:
    root = parse(page.table(("", "p90"), [["a", "1"]], caption="Latency"))

    assert [th.get("scope") for th in root.iter("th")] == ["col", "col", "row"]
    assert root.findtext(".//caption") == "Latency"
    assert root.get("tabindex") == "0"


def test_a_figure_is_drawn_for_a_desk_and_for_a_phone() -> None:
    widths: list[int] = []

    def draw(width: int) -> Svg:
        widths.append(width)
        return Svg(width, 10, title="t", description="d")

    root = parse(page.figure(draw, caption="c"))

    assert widths == [page.WIDE, page.NARROW]
    assert [div.get("class") for div in root.findall("div")] == ["wide", "narrow"]
    assert root.findtext("figcaption") == "c"


def test_no_remark_leaves_no_trace() -> None:
    assert page.notes([]) == ""
    assert "<li" in page.notes([Cell(text="a", detail="b", css="flag")])


def test_what_is_folded_can_be_opened() -> None:
    root = parse(page.folded("More", Markup("<p>x</p>")))

    assert root.tag == "details"
    assert root.findtext("summary") == "More"


def test_no_text_can_become_markup() -> None:
    evil = "</p><script>alert('\"')</script>&amp;"
    cell = Cell(text=evil, detail=evil, css=evil)
    parts = [
        page.paragraph(evil),
        page.heading(evil),
        page.code(evil),
        page.table([evil], [[cell, evil]], caption=evil, css=evil),
        page.definitions([(evil, evil)]),
        page.notes([cell]),
        page.folded(evil, page.paragraph(evil)),
        page.figure(lambda width: Svg(width, 10, title=evil, description=evil), caption=evil),
    ]
    section = Section(title=evil, lead=evil, markup=Markup().join(parts))
    markup = page.render_page(title=evil, lead=evil, sections=[section], foot=evil)

    root = parse(markup)
    assert "<script" not in markup
    assert root.findtext(".//pre") == evil
    table = root.find(".//table")
    assert table is not None
    assert table.get("class") == evil
    assert len(list(table.iter("small"))) == 1


def test_text_in_the_place_of_markup_is_text() -> None:
    """A caller that joins strings in place of `Markup` gets a page that shows its tags."""
    assert "&lt;b&gt;" in page.folded("More", "<b>x</b>")  # type: ignore[arg-type]
