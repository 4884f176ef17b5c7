"""Models whose layers are spread over devices, or wait on the CPU or the disk, by accelerate; and whether they fit.

accelerate hangs a hook into each such module: it brings the module's arguments, and weights that wait elsewhere
("offloaded", in the model as tensors without numbers), to where it computes. So activations of different layers are on
different devices, and offloaded weights are there only while their module runs.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import dispatch_model, infer_auto_device_map
from accelerate.hooks import AlignDevicesHook, SequentialHook
from accelerate.utils import align_module_device, find_tied_parameters, get_balanced_memory, get_max_memory
from safetensors import safe_open
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM

from spt_lens.checking import a_path, instance, one_of, whole_number
from spt_lens.model.folders import weight_files
from spt_lens.model.gguf import is_gguf
from spt_lens.model.huggingface import base_of, reading_errors

DeviceMap = str | Mapping[str, int | str | torch.device]
STRATEGIES = ("auto", "balanced", "balanced_low_0", "sequential")
Places = dict[str, int | str]  # each layer, and each module outside of them -> a CUDA device's number, "cpu", "disk"


def usable_device(device: Any, name: str = "device") -> torch.device:
    """A device of this machine. Raises TypeError for neither text nor a device, ValueError for one that is not here."""
    instance(device, name, (str, torch.device), 'give one such as "cpu" or "cuda:0"')
    try:
        found = torch.device(device)
        torch.empty(0, device=found)
    except (RuntimeError, AssertionError, NotImplementedError) as error:  # no such kind, or none of it here
        first = str(error).splitlines()[0]
        raise ValueError(f'{name}={str(device)!r} cannot be used ({first}): give one such as "cpu"') from error
    return found


def free_bytes(device: torch.device) -> int:
    """Memory that is free on a device now, with what torch keeps there for its own next tensors."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    return psutil.virtual_memory().available


def check_room(needed: Mapping[torch.device, int], dtype: torch.dtype) -> None:
    """Raises MemoryError, before weights are read, where those for a device take more than is free there."""
    for device, size in needed.items():
        free = free_bytes(device) + (psutil.swap_memory().free if device.type == "cpu" else 0)
        if size > free:
            half = f"dtype=torch.bfloat16 takes {size / 2**31:.3g} GiB; " if dtype.itemsize > 2 else ""
            raise MemoryError(
                f"the weights take {size / 2**30:.3g} GiB on {device} in {dtype}, where {free / 2**30:.3g} GiB are "
                f'free: {half}device_map="auto" spreads them over all GPUs and the CPU, and with offload_folder= '
                "leaves on the disk what does not fit"
            )


def places_for(source: str, device: Any, asked: Mapping[str, Any], hooked: bool, options: Mapping[str, Any]) -> Any:
    """What `read_model` must know of where the weights of a checkpoint go; looked at before they are read.

    asked: load_model's device_map, max_memory and offload_folder. options: as of `read_model`.

    Raises: as `places_of`; ValueError also for what does not go together; NotImplementedError for a HookedTransformer.
    """
    device_map, max_memory, folder = asked["device_map"], asked["max_memory"], asked["offload_folder"]
    if device_map is None:
        for name in ("max_memory", "offload_folder"):
            if asked[name] is not None:
                raise ValueError(f'{name} goes with device_map: give device_map="auto", or leave {name} out')
        size = header_numbers(source) * options["dtype"].itemsize
        check_room({torch.device("cpu"): size, device: size}, options["dtype"])  # all pass through the CPU's memory
        return {}
    if device is not None:
        raise ValueError("device and device_map say both where the model goes: give one of them")
    if hooked:
        raise NotImplementedError('a HookedTransformer stays on one device: give model_class="bridge" with device_map')
    if is_gguf(source) or base_of(source) is not None:
        raise ValueError(
            f"device_map needs a checkpoint of safetensors, and {source} is a GGUF file or an adapter: load it without "
            "one, write it by export_hf(model, folder), and load that folder with it"
        )
    folder = None if folder is None else a_path(folder, "offload_folder").expanduser()
    if folder is not None and any(each.is_file() for each in (folder, *folder.absolute().parents)):
        raise ValueError(f"offload_folder={folder} is a file, or in one: name a folder")
    places = places_of(empty_model(source, **options), device_map, max_memory, Path(source).is_dir() or bool(folder))
    whole = len(one := set(places.values())) == 1 and "disk" not in one
    return {"device_map": {"": one.pop()} if whole else places, "offload_folder": folder and str(folder)}


def header_numbers(source: str) -> int:
    """How many numbers the weight files of a folder hold, by their headers; 0 for what is no folder of safetensors."""
    folder, total = Path(source), 0
    for name in weight_files(folder) if folder.is_dir() and base_of(source) is None else ():
        with safe_open(folder / name, framework="pt") as file:
            total += sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118 - no mapping
    return total


def empty_model(source: str | Path, dtype: torch.dtype, revision: str | None, trust_remote_code: bool) -> Any:
    """The plain model of a checkpoint's config, without its weights. Raises as `read_model`."""
    with reading_errors(source), torch.device("meta"):
        config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=trust_remote_code)
        return AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)


def places_of(
    empty: Any, device_map: DeviceMap, max_memory: Mapping[int | str, int | str] | None, on_disk: bool
) -> Places:
    """Where each layer of a model goes, and each module outside of them, by their names.

    empty: the model without its weights. on_disk: whether some may stay on the disk.

    Raises: TypeError for what is no map; ValueError for an unknown strategy or device, a name of no module, a map that
    leaves weights out, splits a layer or parts tied weights, or the disk without a folder; MemoryError where it does
    not fit.
    """
    instance(device_map, "device_map", (str, Mapping), f'give one of {", ".join(STRATEGIES)}, or {{"model": 0, ...}}')
    units = dict(_units(empty))
    if isinstance(device_map, str):
        found = _inferred(empty, one_of(device_map, "device_map", STRATEGIES), max_memory)
    elif max_memory is not None:
        raise ValueError("max_memory goes with device_map='auto' and the like; this one names each module's device")
    else:
        found = {_name(empty, name): _place(device) for name, device in device_map.items()}
    places: Places = {}
    for unit, module in units.items():
        inside = [name for name in found if name.startswith(f"{unit}.")]
        if inside:
            raise ValueError(f"device_map splits {unit} ({inside[0]}): a layer stays whole, so name {unit} alone")
        over = [name for name in found if name in ("", unit) or unit.startswith(f"{name}.")]
        if over:
            places[unit] = found[max(over, key=len)]
        elif any(True for _ in module.parameters()):
            raise ValueError(f'device_map has no device for {unit}: name it, or give {{"": device}} for all the rest')
    first = next(iter(places.values()))
    places = {unit: places.get(unit, first) for unit in units}  # what has no weights goes anywhere
    for group in find_tied_parameters(empty):
        apart = {name: places[unit] for name in group for unit in units if name.startswith(f"{unit}.")}
        if len(set(apart.values())) > 1:
            parted = " and ".join(f"{name} ({place})" for name, place in apart.items())
            raise ValueError(f"device_map parts {parted}, which are one tensor: give them one device")
    if "disk" in places.values() and not on_disk:
        raise ValueError(
            f"device_map leaves {next(unit for unit, place in places.items() if place == 'disk')} on the disk: name a "
            "folder with offload_folder=, or give it more memory (max_memory=, a narrower dtype)"
        )
    _check_places(empty, units, places)
    return places


def _units(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.Module]]:
    """Layers, and all modules outside of them that hold no others: what a device map may part."""
    for name, child in module.named_children():
        if isinstance(module, nn.ModuleList) or not any(True for _ in child.children()):
            yield prefix + name, child
        else:
            yield from _units(child, f"{prefix}{name}.")


def _inferred(empty: Any, strategy: str, max_memory: Mapping[int | str, int | str] | None) -> Places:
    whole = sorted({type(c).__name__ for m in empty.modules() if isinstance(m, nn.ModuleList) for c in m.children()})
    how: Any = {"no_split_module_classes": whole}
    way_out = 'give {0: "20GiB", "cpu": "60GiB"}, say'
    given = {} if max_memory is None else max_memory
    try:
        sizes = {at: n if isinstance(n, str) else whole_number(n, "a size", least=0) for at, n in given.items()}
        room: Any = get_max_memory(sizes or None)
        if strategy != "sequential":
            room = get_balanced_memory(empty, room, low_zero=strategy == "balanced_low_0", **how)
        return {name: _place(device) for name, device in infer_auto_device_map(empty, room, **how).items()}
    except (TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"max_memory={max_memory} cannot be used ({error}): {way_out}") from error


def _name(empty: Any, name: Any) -> str:
    try:
        empty.get_submodule(instance(name, "a name in device_map", str, 'give a module\'s, such as "model.layers.0"'))
    except AttributeError as error:
        known = ", ".join(list(dict(_units(empty)))[:2])
        wrong = f"device_map names {name!r}, which is no module of {type(empty).__name__}: its are {known} and so on"
        raise ValueError(wrong) from error
    return name


def _place(device: Any) -> int | str:
    if device == "disk":
        return "disk"
    known = f"cuda:{device}" if type(device) is int else device
    found = usable_device(known, "a device in device_map")
    if found.type == "meta":
        raise ValueError('device_map puts weights on "meta", where they have no numbers: give "cpu" or "disk"')
    return (found.index or 0) if found.type == "cuda" else str(found)


def _check_places(empty: Any, units: Mapping[str, nn.Module], places: Places) -> None:
    needed: dict[torch.device, int] = {}
    seen: set[int] = set()
    for unit, module in units.items():
        own = [p for p in module.parameters() if id(p) not in seen]
        seen |= set(map(id, own))
        if places[unit] != "disk":
            device = torch.device(places[unit])
            needed[device] = needed.get(device, 0) + sum(p.numel() * p.element_size() for p in own)
    if any(id(p) not in seen for p in empty.parameters()):
        raise NotImplementedError(f"{type(empty).__name__} has weights beside its modules: load it with device=")
    check_room(needed, empty.dtype)


def _hook(module: nn.Module) -> AlignDevicesHook | None:
    hook = vars(module).get("_hf_hook")  # not getattr: a bridge's modules pass on what the wrapped ones have
    found: Sequence[Any] = hook.hooks if isinstance(hook, SequentialHook) else [hook]
    return next((each for each in found if isinstance(each, AlignDevicesHook)), None)


def device_of(root: nn.Module) -> torch.device:
    """Where a model takes its tokens: where its first weight is, or is brought to."""
    first = next(root.parameters())
    if first.device.type != "meta":
        return first.device
    hooks = (_hook(module) for module in root.modules() if any(p is first for p in module._parameters.values()))
    found = next((hook.execution_device for hook in hooks if hook is not None), None)
    return first.device if found is None else torch.device(found)


def brought(module: Any) -> AbstractContextManager[None]:
    """A context in which the weights of a module, or of the one that a bridge's wraps, are there also if offloaded."""
    return align_module_device(getattr(module, "original_component", None) or module)


def devices_of(root: nn.Module) -> list[torch.device]:
    """All devices that a model computes on."""
    found = {p.device for p in root.parameters() if p.device.type != "meta"}
    hooks = [hook for hook in map(_hook, root.modules()) if hook is not None and hook.execution_device is not None]
    return sorted(found | {torch.device(hook.execution_device) for hook in hooks}, key=str)


def spread(root: nn.Module) -> bool:
    """Whether accelerate's hooks run a model: over several devices, or with layers on the CPU or the disk."""
    return any(_hook(module) is not None for module in root.modules())


def placed_like(plain: Any, root: nn.Module) -> Any:
    """A plain model with its layers where those of another are; what waits on the disk there waits on the CPU here."""
    if not spread(root) or "hf_device_map" not in vars(root):
        return plain.to(device_of(root))
    known: Places = vars(root)["hf_device_map"]
    places = {name: "cpu" if place == "disk" else place for name, place in known.items()}
    with dispatching():
        return dispatch_model(plain, places, skip_keys=plain._skip_keys_device_placement)


def check_whole(root: nn.Module, what: str) -> None:
    """Raises NotImplementedError for a model that accelerate's hooks run, which `what` can't deal with."""
    if spread(root):
        raise NotImplementedError(
            f"{what} needs a model on one device, and this one is spread by device_map: load it with device= (in half "
            "precision, say). pinpoint_tune trains spread models"
        )


def state_of(root: nn.Module) -> dict[str, Tensor]:
    """The state dict, with what is offloaded read into memory."""
    state, read = root.state_dict(), dict[int, dict[str, Tensor]]()
    for prefix, module in root.named_modules(remove_duplicate=False):  # a bridge has some under two names
        names = [name for name in (*module._parameters, *module._buffers) if f"{prefix}.{name}" in state]
        if any(state[f"{prefix}.{name}"].device.type == "meta" for name in names):
            if id(module) not in read:
                with align_module_device(module, torch.device("cpu")):
                    read[id(module)] = {name: getattr(module, name).detach() for name in names}
            state |= {f"{prefix}.{name}": value for name, value in read[id(module)].items()}
    return state


@contextmanager
def dispatching(plain: Any = None) -> Iterator[None]:
    """In the block, accelerate does not print what it offloads, and a plain model does not tell where its layers are.

    TransformerLens would refuse layers on a GPU beside others on the CPU or the disk, which it has not tried. Here the
    logits are compared with the plain model's.
    """
    places = vars(plain).pop("hf_device_map", None) if plain is not None else None
    level = (logger := logging.getLogger("accelerate.big_modeling")).level
    try:
        logger.setLevel(logging.ERROR)
        yield
    finally:
        logger.setLevel(level)
        if places is not None:
            plain.hf_device_map = places
