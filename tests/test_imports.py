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


def loaded(code: str, among: tuple[str, ...] = HEAVY) -> list[str]:
    """What of the heavy packages a new process has imported after this code."""
    code += f"\nimport sys\nprint(*(name for name in {among} if name in sys.modules), file=sys.stderr)"
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    return run.stderr.splitlines()[-1].split()


def test_the_package_itself_imports_nothing_large():
    assert loaded("import spt_lens; dir(spt_lens)") == []


def test_every_public_name_is_there_without_transformer_lens():
    """Peft comes with the study, and IPython with the widget."""
    measure_and_tune = [name for name in spt_lens.__all__ if name not in ("HeadPicker", "Study")]
    code = "import spt_lens as spt\n" + "\n".join(f"spt.{name}" for name in measure_and_tune)
    assert not {"transformer_lens", "plotly", "IPython", "peft"} & set(loaded(code))
    assert "transformer_lens" not in loaded("import spt_lens as spt; spt.HeadPicker; spt.Study")


def test_a_model_brings_transformer_lens():
    assert "transformer_lens" in loaded("import spt_lens as spt; spt.load_model('yesman')")


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


def test_a_name_that_there_is_not():
    with pytest.raises(AttributeError, match="'spt_lens' has no attribute 'nothing'"):
        _ = spt_lens.nothing


@pytest.mark.parametrize("first", ["import spt_lens.evaluate.change", "from spt_lens.evaluate import change"])
def test_the_function_evaluate_is_not_the_folder_of_that_name(first):
    code = f"{first}\nimport spt_lens\nassert callable(spt_lens.evaluate), spt_lens.evaluate"
    loaded(code)


@pytest.mark.parametrize("arguments", ["--help", "--version", "find --help", "tune --help", "no-such-command"])
def test_the_command_line_explains_itself_without_a_library(arguments):
    code = "import sys\nfrom spt_lens.cli import main\n"
    code += f"sys.argv = ['spt-lens', *{arguments.split()}]\ntry:\n    main()\nexcept SystemExit:\n    pass"
    assert loaded(code) == []
