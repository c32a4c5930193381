"""The documentation site: its API pages and its links. `make docs` builds it, strictly."""

import importlib
import importlib.util
import pkgutil
import re
from collections import Counter
from pathlib import Path

import pytest

import pfn_optax

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PACKAGES = ["pfn_optax"] + [
    f"pfn_optax.{found.name}" for found in pkgutil.iter_modules(pfn_optax.__path__) if found.ispkg
]
ENTRY = re.compile(r"^::: (\S+)$", re.MULTILINE)


def public():
    """Every public object, by the names that it has; a module stands for what it defines."""
    names = {}
    for package in map(importlib.import_module, PACKAGES):
        for name in package.__all__:
            thing = getattr(package, name)
            if isinstance(thing, type(re)):
                inside = [
                    (f"{name}.{key}", value)
                    for key, value in vars(thing).items()
                    if getattr(value, "__module__", None) == thing.__name__ and key[0] != "_"
                ]
            else:
                inside = [(name, thing)]
            for key, value in inside:
                names.setdefault(id(value), []).append(f"{package.__name__}.{key}")
    return names


def documented(page):
    """What the entries of an API page lead to; an entry that leads nowhere raises."""
    for path in ENTRY.findall(page.read_text("utf-8")):
        module, _, name = path.rpartition(".")
        yield path, getattr(importlib.import_module(module), name)


def test_every_public_name_has_one_entry_and_no_entry_is_stale():
    names = public()
    entries = [
        (page.stem, path, id(thing))
        for page in sorted((DOCS / "api").glob("*.md"))
        for path, thing in documented(page)
    ]
    counts = Counter(key for _, _, key in entries)
    assert [names[key] for key in names if key not in counts] == [], "public, without an entry"
    assert [path for _, path, key in entries if key not in names] == [], "an entry, not public"
    assert [path for _, path, key in entries if counts[key] > 1] == [], "more than one entry"
    for stem, path, key in entries:
        package = "pfn_optax" if stem == "pfn_optax" else f"pfn_optax.{stem}"
        assert any(name.startswith(f"{package}.") for name in names[key]), f"{path} on {stem}.md"


def test_every_package_has_an_api_page():
    pages = {page.stem for page in (DOCS / "api").glob("*.md")} - {"index"}
    assert pages == {package.removeprefix("pfn_optax.") for package in PACKAGES}


@pytest.fixture(scope="module")
def hooks():
    found = importlib.util.spec_from_file_location("hooks", DOCS / "hooks.py")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("uri", "written", "built"),
    [
        ("pfn.md", "graphs.md#a", "graphs.md#a"),
        ("pfn.md", "../benchmarks/README.md#b", "benchmarks.md#b"),
        ("pfn.md", "../experiments/results/flow.png", "repository/experiments/results/flow.png"),
        ("zh/pfn.md", "../../README.md", "../index.md"),
        ("api/flow.md", "../pfn.md", "../pfn.md"),
        ("benchmarks.md", "results/solver.json", "repository/benchmarks/results/solver.json"),
        ("contributing.md", "docs/pfn.md", "pfn.md"),
        ("changelog.md", "https://example.org/a.md", "https://example.org/a.md"),
        ("pfn.md", "#here", "#here"),
    ],
)
def test_links_lead_to_the_same_place_on_the_site(hooks, uri, written, built):
    assert hooks.relinked(f"see [it]({written}).", uri)[0] == f"see [it]({built})."


def test_code_is_not_mistaken_for_links(hooks):
    page = "```python\nf[0](x)\n```\n\n[x](../README.md)\n"
    assert hooks.relinked(page, "pfn.md")[0] == page.replace("../README.md", "index.md")


@pytest.mark.parametrize("page", sorted(DOCS.glob("**/*.md")), ids=lambda page: page.stem)
def test_what_pages_link_to_is_published(hooks, page):
    uri = page.relative_to(DOCS).as_posix()
    _, linked = hooks.relinked(page.read_text("utf-8"), uri)
    for target in hooks.LINK.findall(page.read_text("utf-8")):
        path = (page.parent / target.split("#")[0]).resolve().relative_to(ROOT).as_posix()
        inside = path.startswith("docs/") or path in hooks.PAGES
        assert inside or path in linked, f"{uri} links to {target}"


@pytest.mark.parametrize("page", sorted((DOCS / "zh").glob("*.md")), ids=lambda page: page.stem)
def test_a_translation_has_the_code_the_numbers_and_the_links_of_its_original(hooks, page):
    ours, theirs = (path.read_text("utf-8") for path in (DOCS / page.name, page))
    fences = [re.findall(r"^```\w+\n.*?^```$", text, re.M | re.S) for text in (ours, theirs)]
    assert fences[0] == fences[1]
    numbers = [
        [Counter(re.findall(r"\d*\.?\d+", part)) for part in re.split(r"^## ", text, flags=re.M)]
        for text in (ours, theirs)
    ]
    assert numbers[0] == numbers[1], "numbers, section by section"
    leads_to = [
        {
            (folder / target).resolve().relative_to(ROOT).as_posix().replace("/zh/", "/")
            for target in hooks.LINK.findall(text)
        }
        for folder, text in ((DOCS, ours), (page.parent, theirs))
    ]
    assert leads_to[0] == leads_to[1]
