"""Who has a model: threads, what was left on it, signals that wait, and errors that are not named a model's fault."""

from __future__ import annotations

import json
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
import torch
from interrupting import everything, same_weights, weights

from spt_lens.data.pairs import ContrastPairs
from spt_lens.heads import HeadSet
from spt_lens.model import held
from spt_lens.model.held import came_between, unbroken
from spt_lens.model.loading import load_model
from spt_lens.model.view import ModelView
from spt_lens.patching.activation import activation_patching
from spt_lens.support.probes import two_pairs
from spt_lens.tune.config import TuneConfig
from spt_lens.tune.pinpoint import pinpoint_tune
from spt_lens.yesman import Yesman

HEADS = HeadSet.parse("L0.H1 L2.H3")
CASES = Yesman().cases("train", n=4)
needs_alarm = pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no timers of its own")


class Ticking:
    """Something of the user's that is told of each step, and waits at the first one until it may go on."""

    def __init__(self) -> None:
        self.there, self.go_on = threading.Event(), threading.Event()

    def __call__(self, row: Any) -> None:
        self.there.set()
        assert self.go_on.wait(60)


def in_another_thread(work: Callable[[], Any]) -> Any:
    """What it gives there, or the error."""
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(work())
        except Exception as error:
            found.append(error)

    thread = threading.Thread(target=run, name="other")
    thread.start()
    thread.join(60)
    return found[0]


def test_another_thread_is_refused_while_one_is_at_work(tiny):
    view, ticking, tokens = ModelView(tiny), Ticking(), torch.tensor([[7, 8, 9]])
    pairs, before = two_pairs(view), weights(tiny)
    expected = activation_patching(tiny, pairs, progress=False)
    tuned: list[Any] = []
    config = TuneConfig(steps=2, batch_size=2)
    how: Any = {"progress": False, "on_step": ticking}
    worker = threading.Thread(target=lambda: tuned.append(pinpoint_tune(tiny, HEADS, CASES, config, **how)), name="one")
    worker.start()
    assert ticking.there.wait(60)
    at_work = r"at work in another thread \(one\).*give each thread a model of its own"
    for work in (
        lambda: activation_patching(tiny, pairs, progress=False),
        lambda: view.logits(tokens),
        lambda: view.generate(tokens, 2),
        lambda: pinpoint_tune(tiny, HEADS, CASES, config, progress=False),
    ):
        with pytest.raises(RuntimeError, match=at_work):
            work()
    ticking.go_on.set()
    worker.join(60)
    assert not same_weights(tiny, before)
    tuned[0].undo(tiny)
    assert same_weights(tiny, before)
    again = in_another_thread(lambda: activation_patching(tiny, pairs, progress=False))
    assert torch.equal(again.per_pair, expected.per_pair)
    pinned = in_another_thread(lambda: pinpoint_tune(tiny, HEADS, CASES, config, progress=False))
    assert all(torch.equal(pinned.adapter.after[name], value) for name, value in tuned[0].adapter.after.items())
    pinned.undo(tiny)


def test_a_model_that_is_tuned_in_a_block_is_that_threads(tiny):
    adapter = pinpoint_tune(tiny, HEADS, CASES, TuneConfig(steps=1, batch_size=2), progress=False)
    adapter.undo(tiny)
    tokens = torch.tensor([[7, 8, 9]])
    with adapter.adapter.applied(tiny):
        refused = in_another_thread(lambda: ModelView(tiny).logits(tokens))
        ModelView(tiny).logits(tokens)
    assert isinstance(refused, RuntimeError) and "MainThread" in str(refused)
    assert isinstance(in_another_thread(lambda: ModelView(tiny).logits(tokens)), torch.Tensor)


def test_threads_with_a_model_each_give_what_one_gives(tiny_folder):
    models = [load_model(tiny_folder, device="cpu") for _ in range(3)]
    pairs = two_pairs(ModelView(models[0]))
    found: list[Any] = [None] * 3

    def run(i: int) -> None:
        found[i] = activation_patching(models[i], pairs, progress=False).per_pair

    threads = [threading.Thread(target=run, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert all(torch.equal(each, found[0]) for each in found[1:])


def test_many_threads_on_one_model_get_the_right_numbers_or_a_clear_error(tiny):
    pairs = two_pairs(ModelView(tiny))
    expected, before = activation_patching(tiny, pairs, progress=False), everything(tiny)
    found: list[Any] = []

    def run() -> None:
        try:
            found.append(activation_patching(tiny, pairs, progress=False))
        except RuntimeError as error:
            found.append(error)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    right = [each for each in found if not isinstance(each, RuntimeError)]
    assert len(found) == 4 and right
    assert all(torch.equal(each.per_pair, expected.per_pair) for each in right)
    assert all("another thread" in str(each) for each in found if isinstance(each, RuntimeError))
    assert everything(tiny) == before


def of_the_users(module: Any, args: Any, output: Any) -> None: ...


def leave(view: ModelView, kept: list[Any]) -> None:
    """Ends in a block without leaving it, as an exception that another thread raises in this one can."""
    context = view.kept()
    kept.append(context)  # else it would be left as it is collected
    hold = context.__enter__()
    weight, pick = view.head_weight(0, "q", 0)
    was = pick(weight).clone()
    hold.undo.append(lambda: pick(weight.data).copy_(was))
    with torch.no_grad():
        pick(weight).add_(1)
    weight.register_post_accumulate_grad_hook(print)
    view.model.blocks[0].register_forward_hook(print)
    view.model.add_hook(view.z_name(1), print)
    vars(view.model.blocks[1].attn)["forward"] = print
    for p in view.weights().values():
        p.requires_grad_(not p.requires_grad)
    view.model.train()


def test_what_was_left_on_a_model_is_cleared_at_the_next_entry(tiny):
    view, tokens, kept = ModelView(tiny), torch.tensor([[7, 8, 9]]), list[Any]()
    expected, before, values = view.logits(tokens), everything(tiny), weights(tiny)
    leave(view, kept)
    assert everything(tiny) != before and not same_weights(tiny, values)
    assert torch.equal(view.logits(tokens), expected)
    own = view.model.blocks[0].register_forward_hook(of_the_users)
    kept.clear()  # its contexts are left now, late, and change nothing any more
    assert list(view.model.blocks[0]._forward_hooks) == [own.id]
    own.remove()
    assert everything(tiny) == before and same_weights(tiny, values)


def test_what_another_thread_left_is_cleared_too(tiny):
    view, tokens, kept = ModelView(tiny), torch.tensor([[7, 8, 9]]), list[Any]()
    expected, before = view.logits(tokens), everything(tiny)
    in_another_thread(lambda: leave(view, kept))
    assert torch.equal(view.logits(tokens), expected)
    kept.clear()
    assert everything(tiny) == before


def test_a_mode_that_was_left_on_is_named(tiny, tiny_folder):
    with torch.device("meta"):
        with pytest.raises(RuntimeError, match=r'torch.device\("meta"\) is on.*leave that context'):
            ModelView(tiny).logits(torch.zeros(1, 3, dtype=torch.long))
        with pytest.raises(RuntimeError, match=r'torch.device\("meta"\) is on'):
            load_model(tiny_folder, device="cpu")
    assert not held._held


class Entered:
    """A context in which a signal comes as it is entered, and as it is left."""

    def __init__(self) -> None:
        self.done: list[str] = []

    def __enter__(self) -> None:
        signal.raise_signal(signal.SIGINT)
        self.done.append("entered")

    def __exit__(self, *error: object) -> None:
        signal.raise_signal(signal.SIGINT)
        self.done.append("left")


def test_a_signal_waits_until_a_context_is_left():
    handler, entered = signal.getsignal(signal.SIGINT), Entered()
    with pytest.raises(KeyboardInterrupt), unbroken(), entered:
        time.sleep(5)  # until the first one comes
    assert entered.done == ["entered", "left"] and signal.getsignal(signal.SIGINT) is handler
    time.sleep(10 * held.SOON)  # the second one has had its way


def test_a_signal_waits_no_longer_than_it_may(monkeypatch):
    monkeypatch.setattr(held, "LONGEST", 0.05)

    class Slow:
        def __enter__(self) -> None:
            signal.raise_signal(signal.SIGINT)
            time.sleep(5)

        def __exit__(self, *error: object) -> None: ...

    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt), unbroken(), Slow():
        pass
    assert time.monotonic() - began < 4


def test_a_signal_after_the_last_line_is_taken_up_behind_it():
    with pytest.raises(KeyboardInterrupt):
        with unbroken():
            held.to_the_end(signal.raise_signal, signal.SIGINT)
        time.sleep(5)


@needs_alarm
def test_an_alarm_at_the_end_comes_to_whom_it_was_for_or_not_at_all():
    """Not to whoever has the signal then: to the system, which would end the process."""

    def ring(number: int, frame: Any) -> None:
        raise TooSlow

    before = signal.signal(signal.SIGALRM, ring)
    try:
        with unbroken():
            held.to_the_end(signal.raise_signal, signal.SIGALRM)
        with pytest.raises(TooSlow):
            time.sleep(5)
        with unbroken():
            held.to_the_end(signal.raise_signal, signal.SIGALRM)
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        time.sleep(20 * held.SOON)
    finally:
        signal.signal(signal.SIGALRM, before)


def test_an_interrupt_as_a_block_is_opened_leaves_the_next_ones_whole(monkeypatch):
    def stop(frame: Any) -> Any:
        signal.raise_signal(signal.SIGINT)

    handler, entered = signal.getsignal(signal.SIGINT), Entered()
    with monkeypatch.context() as patch:
        patch.setattr(held, "_opener", stop)
        with pytest.raises(KeyboardInterrupt), unbroken():
            pass
    assert not unbroken._depth
    with pytest.raises(KeyboardInterrupt), unbroken(), entered:
        time.sleep(5)
    assert entered.done == ["entered", "left"] and signal.getsignal(signal.SIGINT) is handler


def test_a_block_that_stays_open_takes_new_handlers_too():
    """As a notebook sets one for each cell."""
    lasting, entered = unbroken(), Entered()
    before = signal.getsignal(signal.SIGINT)
    lasting.__enter__()
    try:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        with pytest.raises(KeyboardInterrupt), unbroken(), entered:
            time.sleep(5)
        assert entered.done == ["entered", "left"]
    finally:
        with pytest.raises(KeyboardInterrupt):  # the second one, as the last block is left
            lasting.__exit__(None, None, None)
            time.sleep(1)
        signal.signal(signal.SIGINT, before)


def test_a_thread_at_work_in_generators_is_never_taken_for_done(monkeypatch):
    monkeypatch.setattr(held, "SOON", 0)
    root, there, go_on = torch.nn.Linear(1, 1), threading.Event(), threading.Event()

    def numbers() -> Any:
        yield from range(10)

    def work() -> None:
        with held.held(root, "it"):
            there.set()
            while not go_on.is_set():
                for _ in numbers():
                    pass

    thread, interval = threading.Thread(target=work), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        assert there.wait(60)
        for _ in range(2000):
            with pytest.raises(RuntimeError, match="is at work in another thread"), held.held(root, "it"):
                pass
    finally:
        sys.setswitchinterval(interval)
        go_on.set()
        thread.join()


def test_blocks_may_be_left_in_any_order_and_in_any_thread():
    handler, one, two = signal.getsignal(signal.SIGINT), unbroken(), unbroken()
    one.__enter__(), two.__enter__()
    one.__exit__(None, None, None)
    assert signal.getsignal(signal.SIGINT) is not handler
    two.__exit__(None, None, None)
    assert signal.getsignal(signal.SIGINT) is handler
    assert in_another_thread(lambda: unbroken()(lambda: 3)()) == 3


class TooSlow(RuntimeError):
    """What a user's own alarm raises."""


@needs_alarm
@pytest.mark.parametrize("error", [TooSlow, TimeoutError, ValueError, AssertionError])
def test_a_timeout_of_the_users_own_is_not_named_the_models_fault(tiny, monkeypatch, error):
    """In a trial run, whose errors else say that the model does not fit."""

    def ring(number: int, frame: Any) -> None:
        raise error("time is up")

    view = ModelView(tiny)
    pairs = two_pairs(view)

    def slow(*args: Any, **kwargs: Any) -> Any:
        signal.raise_signal(signal.SIGALRM)

    before = signal.signal(signal.SIGALRM, ring)
    try:
        for module, name in (("spt_lens.patching.engine", "suffix_run"), ("spt_lens.model.view", "mixes")):
            with monkeypatch.context() as patch:
                patch.setattr(f"{module}.{name}", slow)
                with pytest.raises(error, match="time is up"):
                    activation_patching(tiny, pairs, progress=False)
                    view.generate([[7, 8], [7, 8, 9]], 2)
    finally:
        signal.signal(signal.SIGALRM, before)


@needs_alarm
@pytest.mark.parametrize("error", [TooSlow("time is up"), torch.OutOfMemoryError("no 3 GiB"), MemoryError("none left")])
def test_memory_and_time_are_not_named_the_checkpoints_fault(tiny_folder, monkeypatch, error):
    def ring(number: int, frame: Any) -> None:
        raise error

    def fails(*args: Any, **kwargs: Any) -> Any:
        if isinstance(error, TooSlow):
            signal.raise_signal(signal.SIGALRM)
        raise error

    before = signal.signal(signal.SIGALRM, ring)
    try:
        for place in ("AutoModelForCausalLM", "AutoTokenizer"):
            with monkeypatch.context() as patch:
                patch.setattr(f"spt_lens.model.huggingface.{place}.from_pretrained", fails)
                with pytest.raises(type(error), match=str(error)):
                    load_model(tiny_folder, device="cpu")
    finally:
        signal.signal(signal.SIGALRM, before)
    assert came_between(error)


CONFIGS: list[tuple[dict[str, Any], str]] = [
    ({"num_hidden_layers": "many"}, "transformers cannot read .*config.json: .*num_hidden_layers"),
    ({"num_hidden_layers": 1_000_000}, "asks for 1,000,000 layers, and its weight files hold 29 tensors"),
    ({"num_hidden_layers": -1}, "asks for -1 layers"),
    ({"hidden_size": None}, "transformers cannot read .*config.json: .*hidden_size"),
    ({"num_attention_heads": 0}, "transformers cannot load .*checkpoint as a causal language model: .*zero"),
    ({"head_dim": 0}, "transformers cannot load .*checkpoint as a causal language model: 0"),
    ({"model_type": "nope"}, "cannot load .*checkpoint as a causal language model: .*nope"),
    ({"rope_parameters": {"rope_type": "what"}}, "transformers cannot load .*: 'what'"),
    ({"hidden_act": "nope"}, "transformers cannot load .*: 'nope'"),
]


@pytest.mark.parametrize(("change", "said"), CONFIGS, ids=lambda each: str(each)[:40])
def test_a_fault_of_the_config_is_named_as_such_at_once(tiny_folder, tmp_path, change, said):
    folder = shutil.copytree(tiny_folder, tmp_path / "checkpoint")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | change))
    began = time.monotonic()
    with pytest.raises(ValueError, match=said) as caught:
        load_model(folder, device="cpu")
    assert "tokenizer" not in str(caught.value).replace(str(folder), "")
    assert time.monotonic() - began < 5


def test_what_to_lower_names_what_is_too_high():
    assert TuneConfig(lr=2.0).lower() == "lower lr (2.0)"
    assert TuneConfig(lr=1e-3, weight_decay=1e30).lower() == "lower lr (0.001) or weight_decay (1e+30)"


def test_pairs_are_made_beside_nothing(tiny):
    """Nothing here is held once it is over."""
    assert isinstance(two_pairs(ModelView(tiny)), ContrastPairs) and not held._held and not unbroken._depth
