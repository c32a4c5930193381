"""What `mkdocs build` does beyond its plugins, so that one text serves two readers.

The pages are also read as they are, on the repository's web view. There, pictures, tables and
scripts outside of docs/ are linked by their relative paths. Here those files are published as well,
below `repository/`, some of them as pages, and the links are rewritten to where they are.
"""

import os.path
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGES = {
    "benchmarks/README.md": "benchmarks.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "README.md": "index.md",
}
"""Files outside of docs/ that are pages of the site, or that one stands for (the README)."""

LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")
_FENCE = re.compile(r"(^```.*?^```$)", re.MULTILINE | re.DOTALL)
_MATH = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def source_of(uri: str) -> str:
    """Where in the repository a page of the site was written: benchmarks.md in benchmarks/."""
    return next((path for path, page in PAGES.items() if page == uri != "index.md"), f"docs/{uri}")


def uri_of(path: str) -> str:
    """Where on the site a file of the repository is."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return PAGES.get(path, f"repository/{path}")


def relinked(markdown: str, uri: str) -> tuple[str, set[str]]:
    """A page with its links as they are on the site, and the files outside docs/ they lead to."""
    folder, linked = os.path.dirname(source_of(uri)), set()

    def link(match: re.Match) -> str:
        path = os.path.normpath(os.path.join(folder, match[1]))
        target = uri_of(path)
        if target.startswith("repository/") and (ROOT / path).is_file():
            linked.add(path)
        return os.path.relpath(target, os.path.dirname(uri) or ".")

    parts = _FENCE.split(markdown)
    parts[::2] = [LINK.sub(link, part) for part in parts[::2]]  # every other one is code
    return "".join(parts), linked


def on_files(files: Any, config: Any) -> Any:
    """Adds what the pages link to."""
    from mkdocs.structure.files import File

    for path, uri in PAGES.items():
        if uri != "index.md":
            files.append(File.generated(config, uri, abs_src_path=str(ROOT / path)))
    linked = set()
    for page in files.documentation_pages():
        linked |= relinked(page.content_string, page.src_uri)[1]
    for path in sorted(linked):
        files.append(File.generated(config, uri_of(path), abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Rewrites the links, and drops the marks that tables are written between."""
    markdown = re.sub(r"^<!-- .* -->$", "", markdown, flags=re.MULTILINE)
    return relinked(markdown, page.file.src_uri)[0]


def on_post_page(output: str, page: Any, **_: Any) -> str:
    """Says which language a translation is in: fonts and readers aloud go by it."""
    if page.file.src_uri.startswith("zh/"):
        return re.sub(r'<html lang="[^"]*"', '<html lang="zh-Hans"', output, count=1)
    return output


def on_page_content(html: str, **_: Any) -> str:
    """Formulas as MathML, which browsers draw by themselves: no script, no other server."""
    from html import unescape

    from latex2mathml.converter import convert

    def formula(match: re.Match) -> str:
        return convert(
            unescape(match[2]).strip(), display="block" if match[1] == "div" else "inline"
        )

    return _MATH.sub(formula, html)
