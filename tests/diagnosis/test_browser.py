"""The pages in a real browser."""

import pytest

from pfn_optax import Edge, FlowGraph
from pfn_optax.drawing import flow_html
from tests.browser import browser, needs_browser
from tests.diagnosis.examples import ALL, HOSTILE
from tests.states import matrix, residual, state_of

pytestmark = needs_browser


def flow_pages():
    params, graph = residual(4, 4)
    state = state_of(graph, params, {"stage1/block2/conv1": 1.0})
    yield "flow", flow_html(state, params, capacity="norm", graph=graph)
    script = HOSTILE[0].replace("/", "")
    params = {script: matrix(8, 8), "$summary": matrix(8, 8)}
    graph = FlowGraph((Edge("loss", script, "$summary"), Edge(script, "data", script)))
    state = state_of(graph, params, {"$summary": 1.0})
    yield "flow_hostile", flow_html(state, params, capacity="norm", graph=graph)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pages")
    for name, page in flow_pages():
        (folder / f"{name}.html").write_text(page, "utf-8")
    for name, diagnosis in ALL.items():
        diagnosis.html(folder / f"{name}.html")
    return folder


@pytest.fixture(scope="module")
def tab():
    with browser() as tab:
        yield tab


def assert_quiet(tab):
    assert tab.complaints == []
    assert tab.requests == []


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("name", ALL)
def test_a_diagnosis_fits_a_phone(tab, folder, name, is_dark):
    tab.open(folder / f"{name}.html", width=390, is_dark=is_dark)
    assert_quiet(tab)
    assert tab.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [390, 390]
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert (ground == "rgb(255, 255, 255)") is not is_dark
    text = tab.evaluate("getComputedStyle(document.querySelector('main')).color")
    assert contrast(ground, text) > 7


def contrast(one, other):
    """Of two colours, as the accessibility guidelines (WCAG 2) define it."""

    def luminance(colour):
        shares = [int(part) / 255 for part in colour[4:-1].split(",")]
        linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
def test_every_word_can_be_told_from_its_ground(tab, folder, is_dark):
    tab.open(folder / "sick.html", is_dark=is_dark)
    pairs = tab.evaluate("""
        [...document.querySelectorAll("main *")].filter(e =>
          !e.closest("svg") && [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim())
        ).map(e => {
          let under = e;
          const ground = e => getComputedStyle(e).backgroundColor;
          while (ground(under) === "rgba(0, 0, 0, 0)") under = under.parentElement;
          return [getComputedStyle(e).color, ground(under), e.textContent.slice(0, 30)];
        })
    """)
    assert len(pairs) > 100
    assert [pair for pair in pairs if contrast(*pair[:2]) < 4.5] == []


def test_the_plots_of_a_diagnosis_are_drawn(tab, folder):
    tab.open(folder / "sick.html")
    boxes = tab.evaluate(
        "[...document.querySelectorAll('svg.plot')].map(s => [s.getBBox().width, s.clientWidth])"
    )
    assert len(boxes) == 6
    assert all(drawn > 300 and shown > 250 for drawn, shown in boxes)
    stroke = "getComputedStyle(document.querySelector('.plot .line0 path')).stroke"
    assert tab.evaluate(stroke) == "rgb(42, 98, 201)"
    assert tab.evaluate("document.querySelector('.plot .line0 path').getTotalLength()") > 250
    # Nothing is drawn outside: names at the ends of the axis are shortened.
    assert tab.evaluate("""
        [...document.querySelectorAll("svg.plot")].every(svg => {
          const box = svg.getBBox();
          return box.x >= 0 && box.x + box.width <= 360 && box.y >= 0 && box.y + box.height <= 170;
        })
    """)


def test_hostile_names_are_words_in_a_diagnosis(tab, folder):
    tab.open(folder / "hostile.html")
    assert_quiet(tab)
    assert tab.evaluate("document.title").startswith("Diagnosis: ")
    assert tab.evaluate("document.querySelectorAll('script, img').length") == 0
    shown = tab.evaluate("document.body.innerText")
    for name in HOSTILE[:3]:
        assert name in shown
    assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")


def test_a_fragment_leaves_the_page_around_it_alone(tab, tmp_path):
    page = f"<!doctype html><h1>mine</h1><table><td>x</table>{ALL['sick']._repr_html_()}"
    (tmp_path / "notebook.html").write_text(page, "utf-8")
    (tmp_path / "plain.html").write_text("<!doctype html><h1>mine</h1><table><td>x</table>")
    styles = []
    for name in ("notebook", "plain"):
        tab.open(tmp_path / f"{name}.html")
        assert_quiet(tab)
        styles.append(
            tab.evaluate("""
                ["body", "h1", "td"].map(tag => {
                  const style = getComputedStyle(document.querySelector(tag));
                  return [style.color, style.font, style.margin, style.padding, style.textAlign];
                })
            """)
        )
    assert styles[0] == styles[1]


@pytest.mark.parametrize("name", ["flow", "flow_hostile"])
def test_the_flow_page_draws_and_stays_quiet(tab, folder, name):
    tab.open(folder / f"{name}.html")
    assert_quiet(tab)
    assert tab.evaluate("document.title").startswith("Parameter flow: step")
    assert tab.evaluate("document.querySelectorAll('img').length") == 0
    assert tab.evaluate("document.querySelectorAll('#flow .band').length") > 1
    width, height = tab.evaluate(
        "(({width, height}) => [width, height])(document.getElementById('flow').getBBox())"
    )
    assert min(width, height) > 100


def test_the_flow_page_unfolds_and_folds(tab, folder):
    tab.open(folder / "flow.html")
    count = "document.querySelectorAll('#flow .band').length"
    folded = tab.evaluate(count)
    tab.evaluate("document.getElementById('unfold').click()")
    assert tab.evaluate(count) > folded
    tab.evaluate("document.getElementById('fold').click()")
    assert tab.evaluate(count) == folded
    assert_quiet(tab)


def test_hostile_names_are_words_in_the_flow_page(tab, folder):
    tab.open(folder / "flow_hostile.html")
    texts = tab.evaluate("[...document.querySelectorAll('#flow text')].map(t => t.textContent)")
    assert any(text.startswith("<script><img src=x onerror=") for text in texts)


def test_the_flow_page_fits_a_phone(tab, folder):
    tab.open(folder / "flow.html", width=390)
    assert tab.evaluate("document.documentElement.scrollWidth") == 390


def test_a_screenshot_is_a_picture(tab, folder):
    tab.open(folder / "sick.html", width=390)
    picture = tab.screenshot()
    assert picture.startswith(b"\x89PNG")
    assert len(picture) > 20_000
