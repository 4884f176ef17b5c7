"""What an import brings along: `import spt_lens` next to nothing, a name what it needs, a model TransformerLens."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import spt_lens

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "transformers", "transformer_lens", "pandas", "plotly", "IPython", "peft", "scipy", "accelerate")


def loaded(*codes: str) -> list[set[str]]:
    """What of the heavy packages a new process has imported after each part of the code."""
    told = f"import sys\nprint(*(name for name in {HEAVY} if name in sys.modules), 'after', file=sys.stderr)"
    code = "\n".join(f"{code}\n{told}" for code in codes)
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return [set(line.split()[:-1]) for line in run.stderr.splitlines() if line.endswith("after")]


def test_a_name_brings_what_it_needs_and_a_model_transformer_lens():
    """IPython comes with the widget, peft with the study. And `evaluate` is the function, whoever imports the folder of
    that name first."""
    measure_and_tune = "\n".join(f"spt.{name}" for name in spt_lens.__all__ if name not in ("HeadPicker", "Study"))
    bare, names, rest, model = loaded(
        "import spt_lens as spt; dir(spt)",
        f"import spt_lens.evaluate.change\n{measure_and_tune}\nassert callable(spt.evaluate)",
        "spt.HeadPicker; spt.Study",
        "spt.load_model('yesman')",
    )
    assert bare == set()
    assert not {"transformer_lens", "plotly", "IPython", "peft"} & names and "torch" in names
    assert "transformer_lens" not in rest
    assert "transformer_lens" in model


def test_where_names_are_imported_from_is_what_type_checkers_read():
    tree = ast.parse(Path(spt_lens.__file__).read_text(encoding="utf-8"))
    block = next(node for node in tree.body if isinstance(node, ast.If))
    read = {
        alias.name: node.module.removeprefix("spt_lens.")
        for node in block.body
        if isinstance(node, ast.ImportFrom) and node.module
        for alias in node.names
    }
    assert read == spt_lens._PLACES
    assert sorted(read) == spt_lens.__all__
    assert set(spt_lens.__all__) <= set(dir(spt_lens))


def test_it_can_be_loaded_again():
    """As notebooks do that reload what was edited."""
    code = (
        "import importlib, spt_lens as spt; importlib.reload(spt); importlib.reload(spt); assert callable(spt.evaluate)"
    )
    subprocess.run([sys.executable, "-c", f"{code}; importlib.reload(spt); assert callable(spt.evaluate)"], check=True)


def test_a_name_that_there_is_not():
    with pytest.raises(AttributeError, match="'spt_lens' has no attribute 'nothing'"):
        _ = spt_lens.nothing


@pytest.mark.parametrize("arguments", ["--help", "--version", "find --help", "tune --help", "no-such-command"])
def test_the_command_line_explains_itself_without_a_library(arguments):
    code = "import sys\nfrom spt_lens.cli import main\n"
    code += f"sys.argv = ['spt-lens', *{arguments.split()}]\ntry:\n    main()\nexcept SystemExit:\n    pass"
    assert loaded(code) == [set()]
