"""An extension of griffe: docstrings of this package as Markdown that reads well on a page.

Here a docstring is prose, and what it says of an argument begins with the argument's name: "n: how many." On a page
each of these becomes an item of a list. A code example that is indented stays what it is.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import griffe

SECTIONS = ("Raises", "Source")
# Names with a colon at the beginning of a line or of a sentence.
ITEM = re.compile(r"(?:^|(?<=[.?] ))(\w+(?:, \w+)*): ")
CODE_OR_TAG = re.compile(r"(?P<code>`[^`]+`)|<")  # a browser would take <think> for a tag of its own
HEADINGS = re.compile(r"^(Args|Attributes|Returns):$")


class Lists(griffe.Extension):  # type: ignore[misc,unused-ignore]
    """Makes lists of arguments and fields of every docstring that is read."""

    def on_object(self, *, obj: griffe.Object, **more: Any) -> None:
        if obj.docstring is not None and (obj.is_class or obj.is_function or obj.is_module):
            obj.docstring.value = as_markdown(obj.docstring.value, names_of(obj))


def names_of(obj: griffe.Object) -> list[str]:
    """What a docstring may explain: arguments of a function, of a class also its attributes."""
    if isinstance(obj, griffe.Function):
        return [parameter.name.lstrip("*") for parameter in obj.parameters]
    members = obj.all_members  # those of bases too: a class is often explained where its `__init__` is not
    names = [name for name in members if not name.startswith("_")]
    made = members.get("__init__")
    made = made.final_target if isinstance(made, griffe.Alias) else made
    if isinstance(made, griffe.Function):
        names += [parameter.name.lstrip("*") for parameter in made.parameters]
    return list(dict.fromkeys(name for name in names if name != "self"))


def as_markdown(text: str, names: Iterable[str]) -> str:
    """The docstring with an item for each name that it explains, and for what is raised.

    names: that are explained where they stand with a colon at the beginning of a line or sentence.
    """
    known = {*names, *SECTIONS}
    blocks = [_block(block, known) for block in re.split(r"\n\s*\n", text.strip("\n"))]
    return "\n\n".join(CODE_OR_TAG.sub(lambda found: found["code"] or "&lt;", block) for block in blocks if block)


def _block(block: str, known: set[str]) -> str:
    lines = [line.strip() for line in block.splitlines()]
    if HEADINGS.match(lines[0]):
        lines = lines[1:]
    elif block.startswith("    ") or lines[0].startswith(("- ", "| ", "* ")):
        return block  # an example, a list, a table
    parts: list[str] = [""]
    for line in lines:
        end = 0
        for found in ITEM.finditer(line):
            if set(found[1].split(", ")) <= known:
                parts[-1] += f" {line[end : found.start()]}"
                parts.append(_bold(found[1]))
                end = found.end()
        parts[-1] += f" {line[end:]}"
    prose, *items = [part.strip() for part in parts]
    return "\n\n".join(filter(None, [prose, "\n".join(items)]))


def _bold(names: str) -> str:
    return f"- **{names}**:" if names in SECTIONS else f"- {', '.join(f'`{name}`' for name in names.split(', '))}:"
