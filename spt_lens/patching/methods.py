"""Ways of scoring heads by name, whoever asks first: what this imports puts itself into METHODS."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from spt_lens.checking import one_of
from spt_lens.patching import activation, attribution, path  # noqa: F401 - imported to be there
from spt_lens.patching.engine import METHODS, Method


def method_named(name: str, arguments: dict[str, Any]) -> Method:
    """A method by name, with its own arguments. Raises ValueError for an unknown one, or arguments of another one."""
    method = METHODS[one_of(name, "method", sorted(METHODS))]
    own = [field.name for field in fields(method)]  # type: ignore[arg-type]
    for wrong in (argument for argument in arguments if argument not in own):
        has = f"which has {' and '.join(own)}" if own else "which has none of its own"
        raise ValueError(f"the argument {wrong} does not go with method={name!r}, {has}: leave it out")
    return method(**arguments)
