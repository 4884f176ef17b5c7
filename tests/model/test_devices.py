"""Models whose layers are on several devices (pretended ones), or wait on the disk, give what they give on one."""

from __future__ import annotations

from functools import cache

import psutil
import pytest
import torch
from by_hand import made, measured
from pretending import MixedDevices, dispatched, pretended_devices

from spt_lens.evaluate.change import ability
from spt_lens.export.hf import export_hf
from spt_lens.heads import HeadSet
from spt_lens.measure.knockout import set_knockout
from spt_lens.measure.objective import objective_gradient
from spt_lens.measure.sets import set_patching
from spt_lens.model import devices, loading
from spt_lens.model.attention_kind import without_patterns
from spt_lens.model.loading import load_model
from spt_lens.model.view import ModelView
from spt_lens.tune.full import full_finetune
from spt_lens.tune.lora import lora_tune
from spt_lens.tune.pinpoint import pinpoint_tune
from spt_lens.tune.training import TuneConfig
from spt_lens.yesman import Yesman
from tools.tiny import tiny_checkpoint

SPREAD = {"model.embed_tokens": "cpu:1", "lm_head": "cpu:1", "model.layers.0": "cpu:1", "model.layers.1": "cpu:3"}
LAST_ON_DISK = {"model.layers.2": "disk", "": "cpu"}
CASES = Yesman().cases("train", n=12)
HEADS = HeadSet.parse("L0.H1 L1.H3")
PROMPTS = [[6, 7, 8, 9, 10], [6, 7, 8], [11, 12, 13, 14, 15, 16, 17]]


@pytest.fixture
def spread_model(gqa_folder, monkeypatch):
    """A model on three pretended devices, with accelerate's hooks, inside of which the test runs."""
    read = loading.read_model
    with pretended_devices() as names:

        def placed(source, *, device_map, offload_folder, **options):
            return dispatched(read(source, **options), device_map, names)

        monkeypatch.setattr(loading, "read_model", placed)
        model = load_model(gqa_folder, device_map=SPREAD | {"": "cpu:2"})
        monkeypatch.undo()
        yield model


@pytest.fixture(scope="module")
def plain(gqa_folder):
    """The same model on one device, for what it gives: pairs and results."""
    return load_model(gqa_folder, device="cpu")


def results(model) -> dict[str, torch.Tensor]:
    pairs, quiet = made(model, [(9, 9), (7, 10)]), {"n_random": 1, "progress": False}
    return {
        "sweep": measured(model, pairs, engine="sweep").per_pair,
        "stacked": measured(model, pairs, engine="stacked").per_pair,
        "receivers": measured(model, pairs, "path", receivers="L2.H1.q").per_pair,
        "attribution": measured(model, pairs, "attribution", ig_steps=2).per_pair,
        "set": torch.tensor(set_patching(model, pairs, HEADS, **quiet).table.select_dtypes("number").values),
        "knockout": torch.tensor(set_knockout(model, pairs, HEADS, **quiet).table.select_dtypes("number").values),
        "replies": ModelView(model).generate(PROMPTS, 6),
        "ability": torch.tensor([each.value for each in ability(model, {"facts": CASES[:4]}).values()]),
    }


def trained(model, folder) -> dict[str, torch.Tensor]:
    before = {name: p.detach().clone() for name, p in ModelView(model).weights().items() if not p.is_meta}
    config = TuneConfig(lr=1e-2, steps=3, batch_size=4, kl_weight=0.5)
    run = pinpoint_tune(model, HEADS, CASES, config, keep=CASES[:4], progress=False)
    export = export_hf(model, folder, progress=False)
    run.undo(model)
    after = ModelView(model).weights()
    assert all(torch.equal(value, after[name]) for name, value in before.items())
    assert export.parity is not None and export.parity.holds
    return dict(run.adapter.after) | {"loss": torch.tensor(run.history["loss"].to_numpy())}


def assert_equal(found, expected) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(found[name].cpu().nan_to_num(7), value.nan_to_num(7)), name


def test_pretended_devices_notice_what_two_gpus_would():
    with pretended_devices():
        here, there, host = torch.ones(3, device="cpu:1"), torch.ones(3, device="cpu:2"), torch.ones(3)
        both = [here, there]
        for wrong in (lambda: here + there, lambda: here + host, lambda: here[there > 0], lambda: torch.stack(both)):
            with pytest.raises(MixedDevices):
                wrong()
        assert (here * 2 + torch.tensor(1.0)).device == here.device != there.device
        assert here[torch.tensor([0])].device == here.to("cpu:1").device == here.device
        assert (here + there.to(here.device)).tolist() == [2, 2, 2]
        moved = here.requires_grad_().to(there.device)
        (moved * there).sum().backward()
        assert here.grad.device == here.device


def test_several_devices_give_the_same_numbers(spread_model, plain):
    view = ModelView(spread_model)
    assert [str(each) for each in view.devices] == ["cpu:1", "cpu:2", "cpu:3"] and str(view.device) == "cpu:1"
    assert spread_model.cfg.n_devices == 3
    assert_equal(results(spread_model), results(plain))
    found = objective_gradient(spread_model, CASES[:4], progress=False)
    assert torch.equal(found.per_pair, objective_gradient(plain, CASES[:4], progress=False).per_pair)


def test_several_devices_are_tuned_and_exported(spread_model, plain, tmp_path):
    with without_patterns(spread_model) as kind:
        assert kind == "sdpa"  # through accelerate's hooks
    assert_equal(trained(spread_model, tmp_path / "spread"), trained(plain, tmp_path / "plain"))
    for tune in (full_finetune, lora_tune):
        with pytest.raises(NotImplementedError, match="needs a model on one device.*pinpoint_tune"):
            tune(spread_model, CASES, TuneConfig(steps=1), progress=False)
    assert not ModelView(spread_model).hf_copy().training


def test_a_layer_on_the_disk_gives_the_same_numbers(gqa_folder, plain, tmp_path):
    model = load_model(gqa_folder, device_map=LAST_ON_DISK)
    view = ModelView(model)
    flags = [p.requires_grad for p in view.weights().values()]
    assert sum(p.is_meta for p in view.weights().values()) == 9 and str(view.device) == "cpu"
    assert view.n_params == ModelView(plain).n_params and view.fingerprint() == ModelView(plain).fingerprint()
    assert_equal(results(model), results(plain))
    assert_equal(trained(model, tmp_path / "disk"), trained(plain, tmp_path / "plain"))  # heads of layers in memory
    assert flags == [p.requires_grad for p in view.weights().values()]
    for wrong in (
        lambda: pinpoint_tune(model, HeadSet.parse("L2.H0"), CASES, progress=False),
        lambda: objective_gradient(model, CASES, progress=False),
    ):
        with pytest.raises(NotImplementedError, match="layer 2 of .* waits on the CPU or the disk"):
            wrong()


@pytest.fixture(scope="module")
def folder_of(tmp_path_factory):
    root = tmp_path_factory.mktemp("devices")
    return cache(lambda name: tiny_checkpoint(name, root / name))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("llama", "bfloat16"), ("gemma2", "float16"), *((name, "float32") for name in ("gpt2", "phi3", "neox", "opt"))],
)
def test_whole_models_on_the_disk(folder_of, name, dtype):
    folder, dtype = folder_of(name), getattr(torch, dtype)
    plain = load_model(folder, device="cpu", dtype=dtype)
    try:
        model = load_model(folder, device_map={"": "disk"}, dtype=dtype)
    except NotImplementedError:  # TransformerLens 3.9
        pytest.skip("this TransformerLens reads weights that are not there")
    pairs = made(plain, [(9, 9), (8, 8)])
    for engine in ("sweep", "hooks"):
        found, expected = (measured(each, pairs, engine=engine).per_pair for each in (model, plain))
        assert torch.equal(found, expected)
    assert ModelView(model).generate(PROMPTS, 4).tolist() == ModelView(plain).generate(PROMPTS, 4).tolist()


def test_strategies_put_a_small_model_on_one_device(gqa_folder, plain, tmp_path):
    tokens = torch.tensor([PROMPTS[0]])
    for how in ({"device_map": "auto"}, {"device_map": "balanced"}, {"device_map": {"": "cpu"}}):
        model = load_model(gqa_folder, **how)
        assert not devices.spread(model.original_model) and torch.equal(model(tokens), plain(tokens))
    few = load_model(gqa_folder, device_map="sequential", max_memory={"cpu": "150KB"}, offload_folder=tmp_path)
    assert any(p.is_meta for p in few.original_model.parameters()) and torch.equal(few(tokens), plain(tokens))


@pytest.mark.parametrize(
    ("how", "error", "said"),
    [
        ({"device_map": {"model.layers": "cpu"}}, ValueError, "no device for model.embed_tokens: name it"),
        (
            {"device_map": {"model.layer.0": "cpu", "": "cpu"}},
            ValueError,
            "'model.layer.0', which is no module",
        ),
        ({"device_map": {"model.layers.0.mlp": "disk", "": "cpu"}}, ValueError, "splits model.layers.0 .*stays whole"),
        ({"device_map": {"": "gpu"}}, ValueError, "a device in device_map='gpu' cannot be used"),
        ({"device_map": {"": 99}}, ValueError, "'cuda:99' cannot be used"),
        ({"device_map": {"": "meta"}}, ValueError, 'on "meta", where they have no numbers'),
        ({"device_map": {"": 1.5}}, TypeError, "a device in device_map"),
        ({"device_map": {3: "cpu"}}, TypeError, "a name in device_map"),
        ({"device_map": {"lm_head": "disk", "": "cpu"}}, ValueError, "parts .*which are one tensor"),
        ({"device_map": "automatic"}, ValueError, "device_map='automatic'"),
        ({"device_map": 3}, TypeError, "device_map"),
        ({"device_map": "auto", "device": "cpu"}, ValueError, "give one of them"),
        ({"device_map": "auto", "max_memory": {"cpu": "many"}}, ValueError, "max_memory=.*cannot be used"),
        ({"device_map": "auto", "max_memory": {"cpu": -5}}, ValueError, "max_memory=.*a whole number from 0 up"),
        ({"device_map": "auto", "max_memory": {"cpu": 1.5}}, ValueError, "max_memory=.*a whole number from 0 up"),
        ({"device_map": "auto", "max_memory": "5GiB"}, ValueError, "max_memory=5GiB cannot be used"),
        (
            {"device_map": {"": "cpu"}, "max_memory": {"cpu": "1GB"}},
            ValueError,
            "max_memory goes with",
        ),
        ({"max_memory": {"cpu": "1GB"}}, ValueError, "max_memory goes with device_map"),
        ({"offload_folder": "somewhere"}, ValueError, "offload_folder goes with device_map"),
    ],
)
def test_maps_that_are_refused(gqa_folder, how, error, said, monkeypatch):
    monkeypatch.setattr(loading, "read_model", None)  # nothing is read
    with pytest.raises(error, match=said):
        load_model(gqa_folder, **how)


def test_the_disk_may_need_a_folder(gqa_folder, tmp_path):
    empty = devices.empty_model(str(gqa_folder), torch.float32, None, False)
    with pytest.raises(ValueError, match="leaves model.layers.1 on the disk: name a folder with offload_folder="):
        devices.places_of(empty, {"model.layers.1": "disk", "": "cpu"}, None, on_disk=False)
    (tmp_path / "file").touch()
    for folder in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(ValueError, match="is a file, or in one: name a folder"):
            load_model(gqa_folder, device_map=LAST_ON_DISK, offload_folder=folder)


def test_memory_that_does_not_suffice_is_said_before(gqa_folder, plain, monkeypatch):
    numbers = sum(p.numel() for p in plain.original_model.parameters())
    assert devices.header_numbers(str(gqa_folder)) == ModelView(plain).n_params <= numbers
    monkeypatch.setattr(loading, "read_model", None)
    monkeypatch.setattr(devices, "free_bytes", lambda device: 1000)
    monkeypatch.setattr(psutil, "swap_memory", lambda: type("Swap", (), {"free": 0}))
    said = (
        r"the weights take [\d.e-]+ GiB on cpu in torch.float32, where .* are free: dtype=torch.bfloat16 .*device_map="
    )
    for how in ({"device": "cpu"}, {"device_map": {"": "cpu"}}):
        with pytest.raises(MemoryError, match=said):
            load_model(gqa_folder, **how)


def test_what_torch_keeps_on_a_gpu_for_later_is_free(monkeypatch):
    for name, value in {"mem_get_info": (100, 1000), "memory_reserved": 50, "memory_allocated": 20}.items():
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert devices.free_bytes(torch.device("cuda", 0)) == 130


def test_other_classes_and_files_are_refused(gqa_folder, model_class, tmp_path):
    if model_class == "hooked":
        with pytest.raises(NotImplementedError, match='give model_class="bridge"'):
            load_model(gqa_folder, model_class="hooked", device_map="auto")
    (tmp_path / "model.gguf").write_bytes(b"GGUF")
    with pytest.raises(ValueError, match="GGUF|gguf"):
        load_model(tmp_path / "model.gguf", device_map="auto")


def test_half_of_a_real_model_on_the_disk(smollm2):
    model = load_model("smollm2", device_map={f"model.layers.{i}": "disk" for i in range(15, 30)} | {"": "cpu"})
    tokens = torch.tensor([list(range(100, 130))])
    with torch.no_grad():
        assert torch.equal(model(tokens), smollm2(tokens))
