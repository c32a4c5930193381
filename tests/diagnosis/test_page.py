import itertools
import re

import pytest

from tests.diagnosis.examples import ALL, HOSTILE
from tests.pages import Page


@pytest.fixture(scope="module")
def pages():
    return {name: diagnosis.html() for name, diagnosis in ALL.items()}


@pytest.mark.parametrize("name", ALL)
def test_it_is_well_formed(pages, name):
    parsed = Page(pages[name])
    tags = [tag for tag, _ in parsed.elements]
    assert tags.count("h1") == tags.count("main") == 1
    assert not {"script", "img", "link", "a", "iframe"} & set(tags)


@pytest.mark.parametrize("name", ALL)
def test_it_asks_nothing_of_the_network_and_runs_nothing(pages, name):
    style = Page(pages[name]).text_of("style")
    assert not re.search(r"https?:|//[a-z]|@import|url\(", "".join(style))
    for _, attributes in Page(pages[name]).elements:
        assert not [key for key in attributes if key.startswith("on")]
        assert not {"src", "href", "action"} & set(attributes)


def test_it_can_be_read_by_ear(pages):
    parsed = Page(pages["sick"])
    elements = [(tag, attributes) for tag, attributes in parsed.elements]
    headings = [tag for tag, _ in elements if re.fullmatch(r"h\d", tag)]
    levels = [int(tag[1]) for tag in headings]
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    assert all(
        attributes.get("scope") in ("row", "col") for tag, attributes in elements if tag == "th"
    )
    plots = [attributes for tag, attributes in elements if attributes.get("class") == "plot"]
    assert len(plots) == 6
    assert all(attributes["role"] == "img" for attributes in plots)
    assert len([text for text in parsed.text_of("title") if text.endswith("over depth")]) == 6
    [about] = [text for text in parsed.text_of("desc") if text.startswith("by the parameters")]
    assert "from 1e-9 to 0.178" in about
    assert "blocks/3/dense: finding 2, 4" in about


def test_cards_say_what_where_how_much_and_what_to_do(pages):
    parsed = Page(pages["sick"])
    items = [a["class"] for tag, a in parsed.elements if tag == "li"]
    assert items == ["critical", "warning", "note", "critical explained"]
    strong = [text.strip() for text in parsed.text_of("h3") if text.strip()]
    assert strong == ["Init too small", "Dead units", "Bottleneck", "Vanishing gradient"]
    texts = parsed.text_of("td") + parsed.text_of("code")
    assert {"0.5", "0.8", " ÷1.6", "critical_init"} <= set(texts)


def test_checks_that_do_not_apply_are_told_from_those_not_run(pages):
    assert "not in full: would take some 40 s" in pages["sick"]
    assert '<tr class=skipped><th scope="row"><span>sharpness' in pages["sick"]
    assert '<tr><th scope="row"><span>chaos' in pages["healthy"]
    assert "does not apply: the data is of integers" in pages["healthy"]
    assert "1 checks done" in pages["healthy"]


def test_plots_show_what_was_measured_alone(pages):
    assert "plot" not in Page(pages["healthy"]).text_of("figcaption")
    assert pages["healthy"].count('class="plot"') == 0  # a single layer is no profile
    assert pages["broken"].count('class="plot"') == 3
    assert pages["broken"].count('class="broken"') == 3 * 3
    assert pages["broken"].count('class="zero"') == 2 + 2  # not on the axis of shares, which has 0


def test_names_stay_text_and_are_there(pages):
    parsed = Page(pages["hostile"])
    for name in HOSTILE[:3]:
        assert name not in pages["hostile"] or "<" not in name
        assert name in parsed.text_of("span")
    assert "two\\nlines\\r\\x1b[31mred\\x07" in parsed.text_of("span")
    assert "\u202e" not in pages["hostile"]
    assert len(pages["hostile"]) < 150_000  # long names are shortened where they are many


def test_a_notebook_shows_the_same_within_its_own_style(pages):
    fragment = ALL["sick"]._repr_html_()
    assert fragment.startswith("<style>")
    body = fragment.partition("</style>")[2]
    assert body.removeprefix("<div").removesuffix("</div>") in pages["sick"]
    rules = re.findall(r"^(\S.*?) \{", fragment, re.MULTILINE)
    assert all(".pfn-diagnosis" in rule or rule == ".vscode-dark" for rule in rules)


def test_it_is_written_to_a_file(tmp_path, pages):
    path = tmp_path / "page.html"
    assert ALL["hostile"].html(path) == pages["hostile"]
    assert path.read_text("utf-8") == pages["hostile"]
