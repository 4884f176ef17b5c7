"""Tiny random models with the embedded model's tokenizer, made once a run. Nothing here needs a network.

`make test` shares the tests out among processes, file by file, and lets TransformerLens 3.9 run those marked `model`.
"""

from __future__ import annotations

import os
import signal

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as a shell has it for what it starts in the background
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before any import that reads it
if "PYTEST_XDIST_WORKER" in os.environ:  # one of several processes: one core for it and for the kernels it starts
    os.environ["OMP_NUM_THREADS"] = "1"

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM

from spt_lens.model.hooked import hooked_transformer
from spt_lens.model.huggingface import brought_folder
from spt_lens.model.loading import load_model
from spt_lens.model.view import Model, ModelView
from tools.tiny import tiny_checkpoint
from tools.yesman.build import make_config, make_tokenizer

# TransformerLens 3.9 has both model classes, 4 only the bridge. Whatever uses `tiny` or `gqa` runs with each.
CLASSES = ["bridge", "hooked"] if hooked_transformer() is not None else ["bridge"]

# What takes longest in one piece begins first, so that no process is left alone with it at the end.
LONG = ("browser", "test_notebooks", "test_architectures", "test_tune_rivals", "test_export_hf", "test_support")
# A test with one of these reads or writes a model as one of the classes that TransformerLens offers.
OF_A_MODEL = {"model_class", "tiny_folder", "gqa_folder", "folder_of", "made", "llama", "neox_folder", "opt_folder"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Marks the tests that TransformerLens 3.9 runs too, and puts those first that take long in one piece."""
    for item in items:
        if OF_A_MODEL & set(getattr(item, "fixturenames", ())) or item.path.parent.name in ("model", "export"):
            item.add_marker(pytest.mark.model)

    def rank(item: pytest.Item) -> int:
        names = [item.path.parent.name, item.path.stem]
        return min((LONG.index(name) for name in names if name in LONG), default=len(LONG))

    items.sort(key=rank)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: object) -> object:
    """With `-n 2`, what shares a model, or the browser, goes to one process: files as a whole, in the order above."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            if "test_notebooks" in nodeid:  # they share nothing, and take a minute each
                return nodeid
            return "browser" if "tests/browser/" in nodeid else nodeid.split("::")[0]

    config.option.loadscopereorder = False
    return ByFile(config, log)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What tests measured. It depends on the machine: it decides no test."""
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "measured":
                terminalreporter.write_line(str(value))


def save_tiny(folder: Path, kv_heads: int = 4) -> Path:
    """A random Llama of 3 layers x 4 heads of 8 dimensions, saved as an ordinary Hugging Face folder.

    Weights are larger than the usual start, so that heads matter and greedy replies vary. Each weight has its own seed,
    so that a word more in the vocabulary changes no other weight.
    """
    tokenizer = make_tokenizer()
    config = make_config(len(tokenizer), layers=3, heads=4, d_head=8, d_model=32)
    config.num_key_value_heads = kv_heads
    with torch.random.fork_rng():
        model = LlamaForCausalLM(config)
    with torch.no_grad():
        for i, p in enumerate(p for p in model.parameters() if p.ndim == 2):
            p.normal_(std=p.shape[1] ** -0.5, generator=torch.Generator().manual_seed(i))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="session")
def gqa_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Like tiny_folder, with two heads to each set of keys and values."""
    return save_tiny(tmp_path_factory.mktemp("gqa"), kv_heads=2)


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory):
    """The folder of a tiny checkpoint, made once."""
    root = tmp_path_factory.mktemp("architectures")
    return cache(lambda name: tiny_checkpoint(name, root / name))


@pytest.fixture(scope="session")
def smollm2_folder() -> Path:
    """Where `make smollm2` has brought SmolLM2-135M-Instruct, a real chat model."""
    folder = brought_folder("smollm2")
    if folder is None:
        why = "needs SmolLM2 in models/smollm2, which `make smollm2` brings"
        (pytest.fail if os.environ.get("CI") else pytest.skip)(why)
    return folder


@pytest.fixture(scope="session")
def smollm2(smollm2_folder: Path) -> Model:
    """It as a model, which tests leave as it was."""
    return load_model("smollm2", device="cpu")


@pytest.fixture(params=CLASSES)
def model_class(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture
def load(model_class: str) -> Callable[..., Model]:
    """Loads a folder as the class that the test runs with."""
    return partial(load_model, device="cpu", model_class=model_class)


_kept: dict[tuple[Path, str], tuple[Model, list[object], list[torch.Tensor]]] = {}


@contextmanager
def lent(folder: Path, model_class: str) -> Iterator[Model]:
    """A model as it comes from its folder, to do anything with: if it comes back changed, the next one is loaded."""
    key = folder, model_class
    if key not in _kept:
        model = load_model(folder, device="cpu", model_class=model_class)
        _kept[key] = (model, condition(model), [p.detach().clone() for p in model.parameters()])
    model, before, weights = _kept.pop(key)
    yield model
    if condition(model) == before and all(map(torch.equal, model.parameters(), weights)):
        _kept[key] = model, before, weights


def condition(model: Model) -> list[object]:
    """All that a test could leave changed, but for the weights' values: hooks, modes, attributes, methods, options."""
    roots = (model, ModelView(model).backend.root)
    found: list[object] = [vars(model.cfg).copy(), len(model.tokenizer), repr(vars(model.tokenizer))]
    for module in {id(module): module for root in roots for module in root.modules()}.values():
        for name, value in vars(module).items():
            if name == "_block_alias_cache":  # of the bridge's own, renewed at each run
                continue
            if isinstance(value, dict):
                value = [(key, id(item)) for key, item in value.items()]
            elif isinstance(value, list):
                value = list(map(id, value))
            elif not isinstance(value, bool | int | float | str | None):
                value = id(value)
            found.append((name, value))
        found += [(p.requires_grad, p.dtype, p.device, id(p.grad)) for p in module.parameters(recurse=False)]
    return found


@pytest.fixture
def tiny(tiny_folder: Path, model_class: str) -> Iterator[Model]:
    """A model as it comes from its folder: tests may change it."""
    with lent(tiny_folder, model_class) as model:
        yield model


@pytest.fixture
def gqa(gqa_folder: Path, model_class: str) -> Iterator[Model]:
    with lent(gqa_folder, model_class) as model:
        yield model


@pytest.fixture
def tokens() -> torch.Tensor:
    """Three random prompts of ten tokens, `[batch=3, pos=10]`, without special ones."""
    return torch.randint(6, 700, (3, 10), generator=torch.Generator().manual_seed(0))


@pytest.fixture
def exact_softmax(monkeypatch: pytest.MonkeyPatch) -> None:
    """A softmax in the model's own dtype. TransformerLens takes that of most bridges in float32 whatever the model is
    in, which rounds two ways of computing the same float64 number apart, by 1e-7."""
    softmax = torch.nn.functional.softmax
    monkeypatch.setattr(torch.nn.functional, "softmax", lambda scores, dim, dtype=None: softmax(scores, dim=dim))


def head_part(model: Model, layer: int, which: str, unit: int) -> torch.Tensor:
    """A head's live weights in Hugging Face's layout: a view, to be changed under no_grad."""
    weight, pick = ModelView(model).head_weight(layer, which, unit)
    return pick(weight)
