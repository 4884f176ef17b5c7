"""The wheel and the sdist: what is in them, and that the wheel runs where nothing but its dependencies is installed."""

from __future__ import annotations

import os
import shutil
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


@pytest.fixture(scope="module")
def target(built, tmp_path_factory) -> Path:
    """An empty folder into which the wheel is installed, and nothing else."""
    folder = tmp_path_factory.mktemp("installed") / "target"
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--disable-pip-version-check"]
    subprocess.run([*pip, "--target", folder, built[0]], check=True, capture_output=True)
    return folder


def test_the_wheel_runs_in_a_folder_of_its_own(target, tmp_path):
    """Beside the dependencies that are installed here: what else it would need is a dependency that is not named."""
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


@pytest.mark.parametrize("python", ["python3.11", "python3.12", "python3.13", "python3.14"])
def test_other_pythons_read_it(target, tmp_path, python):
    """Every file compiles, and what needs no other package runs: those would have to be compiled for each Python."""
    works = shutil.which(python) and subprocess.run([python, "-c", ""], capture_output=True).returncode == 0
    if not works:
        pytest.skip(f"{python} is not here")
    environment = {**os.environ, "PYTHONPATH": str(target), "PYTHONPYCACHEPREFIX": str(tmp_path)}
    bare = "import spt_lens\nfrom spt_lens.tune.config import TuneConfig\nprint(TuneConfig(steps=5))"
    for command in (["-m", "compileall", "-q", target / "spt_lens"], ["-c", bare]):
        run = subprocess.run([python, *command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
    assert "steps=5" in run.stdout
