"""The wheel and the sdist: what is in them, and that the wheel runs where nothing but its dependencies is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import zipfile
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def build(source: Path, out: Path) -> tuple[Path, Path]:
    """The wheel and the sdist of a source folder."""
    subprocess.run([sys.executable, "-m", "hatchling", "build", "-d", out], cwd=source, check=True, capture_output=True)
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


def names(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as file:
        return set(file.namelist())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    pytest.importorskip("hatchling", reason="needs hatchling, which the extra dev brings")
    return build(ROOT, tmp_path_factory.mktemp("dist"))


def test_the_wheel_holds_the_package_and_nothing_else(built):
    found = names(built[0])
    files = {path for path in (ROOT / "spt_lens").rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {name for name in found if ".dist-info/" not in name} == {
        path.relative_to(ROOT).as_posix() for path in files
    }
    assert any(name.endswith("licenses/LICENSE") for name in found)


def test_the_sdist_makes_the_same_wheel_and_holds_its_tests(built, tmp_path):
    with tarfile.open(built[1]) as file:
        file.extractall(tmp_path, filter="data")
    source = next(tmp_path.iterdir())
    for name in ("tests/conftest.py", "tools/tiny.py", "docs/command-line.md", "constraints.txt", "Makefile"):
        assert (source / name).exists(), name
    assert names(build(source, tmp_path / "again")[0]) == names(built[0])


def test_the_wheel_runs_in_a_folder_of_its_own(built, tmp_path):
    """Beside the dependencies that are installed here: what else it would need is a dependency that is not named."""
    target = tmp_path / "target"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    subprocess.run([*pip, "--target", target, built[0]], check=True, capture_output=True)
    environment = {**os.environ, "PYTHONPATH": str(target)}

    def said(*command: str | Path) -> str:
        run = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
        return run.stdout.strip()

    where = "import spt_lens as spt; print(spt.__file__); print(spt.HeadSet.parse('L5.H3'))"
    assert said(sys.executable, "-c", where).splitlines() == [str(target / "spt_lens" / "__init__.py"), "L5.H3"]
    script = target / "bin" / "spt-lens"
    assert said(script, "--version") == said(sys.executable, "-m", "spt_lens.cli", "--version")
    assert said(script, "--version") == f"spt-lens {version('spt-lens')}"
    asked = "import spt_lens as spt\nfrom spt_lens.chat.dialogues import dialogue\n"
    asked += "print(spt.replies(spt.load_model('yesman'), [dialogue('Hi')], 4))"  # its weights come along
    assert said(sys.executable, "-c", asked).startswith("['")
