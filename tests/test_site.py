"""The docs as a site: it builds without a warning, its links lead somewhere, and its pages load nothing from a network.

What its pages quote of the library is there: messages, and figures of other pages.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import os
import posixpath
import re
import subprocess
import sys
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

import spt_lens as spt
from tools.site.docstrings import as_markdown
from tools.site.pages import outside_of_code, site_path

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
LOADED = {"script": ("src",), "img": ("src", "srcset"), "iframe": ("src",), "source": ("src", "srcset")}
LOADED |= {"video": ("src",), "audio": ("src",), "embed": ("src",), "object": ("data",), "link": ("href",)}


class Found(HTMLParser):
    """What a page has: ids, links, what it loads, classes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: set[str] = set()
        self.links: set[str] = set()
        self.loads: set[str] = set()
        self.classes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        has = {name: value or "" for name, value in attrs}
        self.ids |= {has[name] for name in ("id", "name") if name in has}
        self.classes |= set(has.get("class", "").split())
        if tag == "a" and "href" in has:
            self.links.add(has["href"])
        self.loads |= {has[name] for name in LOADED.get(tag, ()) if name in has}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `make docs` builds it: a link or an anchor that leads nowhere, or a page without its place, is an error."""
    folder = tmp_path_factory.mktemp("site")
    build = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    done = subprocess.run(build, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"NO_COLOR": "1"})
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.fixture(scope="module")
def pages(site: Path) -> dict[str, Found]:
    return {path.relative_to(site).as_posix(): Found(path.read_text(encoding="utf-8")) for path in site.rglob("*.html")}


def test_every_page_of_the_docs_is_there(pages):
    texts = {path.relative_to(DOCS).with_suffix(".html").as_posix() for path in DOCS.rglob("*.md")}
    assert texts <= set(pages) and {"overview.html", "changelog.html", "contributing.html"} <= set(pages)


def test_pages_load_nothing_from_the_network(site, pages):
    outside = {(name, each) for name, page in pages.items() for each in page.loads if re.match(r"(\w+:)?//", each)}
    assert not outside
    for path in site.rglob("*.css"):
        text = path.read_text(encoding="utf-8")
        assert not re.findall(r"url\(\s*[\"']?(?:https?:)?//[^)]*|@import[^;]*//[^;]*", text), path.name
    # The theme's script would fetch a library to draw these.
    assert not any({"mermaid", "arithmatex"} & page.classes for page in pages.values())


def test_every_link_leads_somewhere(site, pages):
    lost = []
    for name, page in pages.items():
        for link in page.links | page.loads:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc or name == "404.html":
                continue
            there = posixpath.normpath(posixpath.join(posixpath.dirname(name), unquote(parts.path) or name))
            there = name if not parts.path else there
            there = f"{there}/index.html" if (site / there).is_dir() else there
            anchor = unquote(parts.fragment)
            known = anchor in pages[there].ids if anchor and there in pages else (site / there).is_file()
            if not known and anchor != "__comments":
                lost.append((name, link))
    assert not lost


def test_every_public_name_has_an_entry(pages):
    """A name that is new belongs on a page of docs/api, as `::: spt_lens.NAME`."""
    ids = {each for page in pages.values() for each in page.ids}
    missing = [name for name in spt.__all__ if not {f"spt_lens.{name}", _home(getattr(spt, name))} & ids]
    assert not missing


def test_what_the_guides_import_has_an_entry(pages):
    ids = {each for page in pages.values() for each in page.ids}
    missing = set()
    for path in DOCS.glob("*.md"):
        for code in re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL):
            for node in ast.walk(ast.parse(code)):
                if isinstance(node, ast.ImportFrom) and str(node.module).startswith("spt_lens"):
                    module = importlib.import_module(str(node.module))
                    homes = {_home(getattr(module, alias.name)) for alias in node.names}
                    missing |= {home for home in homes if home and home not in ids}
    assert not missing


def _home(what: object) -> str:
    """Where something is defined; "" for what doesn't say so, such as a number."""
    if inspect.ismodule(what):
        return what.__name__
    return f"{what.__module__}.{what.__qualname__}" if hasattr(what, "__qualname__") else ""


def test_links_in_code_stay_as_they_are():
    text = "[a](x)\n```python\nf[0](x)\n```\n[b](x)\n"
    assert outside_of_code(text, lambda each: each.replace("(x)", "(y)")) == (
        "[a](y)\n```python\nf[0](x)\n```\n[b](y)\n"
    )


def test_files_of_the_repository_have_their_place_on_the_site():
    assert site_path("docs/how/sweep.md") == "how/sweep.md"
    assert site_path("README.md") == "overview.md"
    assert site_path("notebooks/00_quickstart.ipynb") == "notebooks/00_quickstart.ipynb"
    assert site_path("notebooks/results") is None and site_path("spt_lens/heads.py") is None


def test_a_docstring_becomes_a_list_of_what_it_explains():
    text = "Does it.\n\nn: how many; see: no name. seed: of\n    the draw.\n\nRaises: ValueError for <none>."
    assert as_markdown(text, ["n", "seed"]) == (
        "Does it.\n\n- `n`: how many; see: no name.\n- `seed`: of the draw.\n\n- **Raises**: ValueError for &lt;none>."
    )
    assert as_markdown("Args:\n    n: how many.", ["n"]) == "- `n`: how many."
    assert as_markdown("Such as\n\n    f(n: 1)", ["n"]) == "Such as\n\n    f(n: 1)"


@cache
def said() -> list[str]:
    """All texts in the package's code; what a format puts in is left out, by a mark."""
    found = []
    for path in (ROOT / "spt_lens").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.JoinedStr):
                parts = (each.value if isinstance(each, ast.Constant) else "\0" for each in node.values)
                found.append("".join(map(str, parts)))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                found.append(node.value)
    return found


def test_the_messages_that_are_explained_are_those_of_the_library():
    text = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```text\n(.*?)```", text, re.DOTALL)
    pieces = {piece.strip() for line in "".join(blocks).splitlines() for piece in line.split("…")} - {""}
    assert len(pieces) > 50
    assert not {piece for piece in pieces if not any(piece in each for each in said())}


FOUND = ("findings", "which-ranking", "what-changes", "patching-again", "rivals")
MADE = re.compile(r"<!-- ([^>]*?): (?:python -m|make) .*?<!-- end of \1 -->", re.DOTALL)
# Addresses, the paper's own, and settings: DPO's beta.
OTHERS = ("2504.13151", "2409.01658", "3.77 %", "0.64 %", "beta than .1")


@pytest.mark.parametrize("page", FOUND)
def test_what_is_said_of_findings_stands_in_a_made_table(page):
    """A figure in prose is one of a table that a command makes: of these pages, the study's or the embedded model's."""

    def figures(text: str) -> set[str]:
        return {each.lstrip("0") for each in re.findall(r"(?<![\d/.])\d*\.\d+(?![\d.])", text)}

    texts = {name: (DOCS / f"{name}.md").read_text(encoding="utf-8") for name in FOUND}
    assert all(MADE.search(text) for name, text in texts.items() if name != "findings")
    made = "".join(found[0] for text in texts.values() for found in MADE.finditer(text))
    known = "".join((DOCS / name).read_text(encoding="utf-8") for name in ("embedded-model.md", "study.md"))
    own = re.sub(r"```.*?```", "", MADE.sub("", texts[page]), flags=re.DOTALL)
    for other in OTHERS:
        own = own.replace(other, "")
    assert not figures(own) - figures(made + known)
