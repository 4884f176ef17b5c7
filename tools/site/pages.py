"""A hook of mkdocs: links that lead out of docs/ lead to a page or a file of the site as well.

Pages are written to be read in the repository, where `../notebooks/results/heatmap.png` is right. On the site the
picture lies elsewhere. So what such links name is taken along: some texts as pages (`PAGES`), other files as they are.
Folders and source files are not part of the site: there the text stays, and the link goes.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[2]
# Texts beside docs/ that are pages of the site.
PAGES = {
    "README.md": "overview.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "spt_lens/yesman/weights/README.md": "model-card.md",
    "tests/data/README.md": "judged-replies.md",
}
SHOWN = {".png", ".ipynb", ".json", ".csv"}  # files that the site takes along where a page links them
FENCE = re.compile(r"^```.*?^```$", re.DOTALL | re.MULTILINE)
LINK = re.compile(r"(?P<before>!?\[(?P<text>[^\]]*)\])\((?!\w+:|#)(?P<target>[^)\s#]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages of `PAGES`, and the files that any page links."""
    for path, page in PAGES.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / path)))
    linked = {target for file in list(files.documentation_pages()) for target in _linked(file)}
    for target in sorted(linked):
        files.append(File.generated(config, target, abs_src_path=str(ROOT / target)))
    return files


def on_page_markdown(markdown: str, page: Page, **more: Any) -> str:
    """Turns the links of a page to where things are on the site."""
    source = repository_path(page.file.src_uri)

    def turned(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link["target"]))
        there = site_path(target)
        if there is None:
            return link["text"]
        relative = posixpath.relpath(there, posixpath.dirname(page.file.src_uri) or ".")
        return f"{link['before']}({relative}{link['anchor'] or ''})"

    return outside_of_code(markdown, lambda text: LINK.sub(turned, text))


def repository_path(page: str) -> str:
    """Where a page of the site lies in the repository."""
    return next((path for path, name in PAGES.items() if name == page), f"docs/{page}")


def site_path(target: str) -> str | None:
    """Where a file of the repository lies on the site; None if it is not there."""
    if target.startswith("docs/"):
        return target.removeprefix("docs/")
    if target in PAGES:
        return PAGES[target]
    return target if Path(target).suffix in SHOWN and (ROOT / target).is_file() else None


def outside_of_code(markdown: str, change: Callable[[str], str]) -> str:
    """The text with everything changed but its code blocks."""
    pieces, end = [], 0
    for fence in FENCE.finditer(markdown):
        pieces += [change(markdown[end : fence.start()]), fence[0]]
        end = fence.end()
    return "".join([*pieces, change(markdown[end:])])


def _linked(file: File) -> Iterator[str]:
    """Files outside of docs/ that a page links and the site takes along, by their paths in the repository."""
    source = repository_path(file.src_uri)
    for link in LINK.finditer(FENCE.sub("", file.content_string)):
        target = posixpath.normpath(posixpath.join(posixpath.dirname(source), link["target"]))
        if site_path(target) == target:
            yield target
