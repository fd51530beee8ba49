"""From a file of weights and somebody's function that builds the network to a classifier of images in [0, 1]."""

import importlib
import pickle
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from workers.data.batches import to_unit
from workers.data.splits import Splits
from workers.models.classifier import Classifier
from workers.modes import frozen

WRAPPERS = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before every name."""
SHOWN = 8
"""Names in a message at most."""

State = dict[str, Tensor]


class NetworkError(Exception):
    """A checkpoint or a function that gives no network."""


@dataclass(frozen=True)
class Source:
    """Where a network comes from.

    factory: `package.module:function`, which returns a network.
    arguments: keywords of the function.
    checkpoint: file of the weights; None: the network is as the function returns it.
    key: of the state dict in the file, where there are several.
    """

    factory: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Path | None = None
    key: str | None = None


def load_network(source: Source) -> nn.Module:
    """The network with its weights, in eval mode and single precision.

    Raises:
        NetworkError: whatever is wrong with function or file, in words.
    """
    module, colon, name = source.factory.partition(":")
    if not (module and colon and name):
        raise NetworkError(f"--model {source.factory}: give package.module:function, which returns the network")
    # weights that no file replaces are the same each time
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = _built(module, name, source)
    if source.checkpoint is not None:
        fill(network, read_state(source.checkpoint, source.key), source.checkpoint)
    return network.float().eval()


def _built(module: str, name: str, source: Source) -> nn.Module:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)  # a command's own folder is not looked at otherwise
    try:
        factory: Any = importlib.import_module(module)
        for part in name.split("."):
            factory = getattr(factory, part)
    except Exception as error:  # somebody else's module may raise anything
        raise NetworkError(
            f"--model {source.factory}: cannot be imported: {type(error).__name__}: {error}; it is looked for in this "
            f"folder and among the installed packages"
        ) from error
    try:
        network = factory(**source.arguments)
    except Exception as error:
        raise NetworkError(
            f"--model {source.factory}: the call failed: {type(error).__name__}: {error}; keywords go into --model-args"
        ) from error
    if not isinstance(network, nn.Module):
        raise NetworkError(f"--model {source.factory}: returned {type(network).__name__}, not a torch.nn.Module")
    return network


def read_state(path: Path, key: str | None = None) -> State:
    """The state dict in a file of torch or safetensors. Nothing in the file is executed.

    Args:
        path: the file.
        key: under which the state dict stands; found by itself where there is only one.

    Raises:
        NetworkError: no such file, not readable, more in it than tensors and plain values, no state dict, or several.
    """
    if not path.is_file():
        raise NetworkError(f"there is no file {path}")
    with path.open("rb") as file:
        beginning = file.read(9)
    try:
        if beginning[8:] == b"{":  # after eight bytes for its length, the header of a safetensors file
            from safetensors.torch import load_file

            content: Any = load_file(path)
        else:
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise NetworkError(
            f"{path}: refused, as it holds more than tensors and plain values, and reading that could run anything: "
            f"{_first_line(error)}; if you trust it, load it yourself and save its state dict alone"
        ) from error
    except Exception as error:  # torch, zipfile and safetensors have many for a file that is none of theirs
        raise NetworkError(f"{path}: not a checkpoint of torch or safetensors: {_first_line(error)}") from error
    return _without_wrappers(_state_in(content, key, path))


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:200]}"


def _is_state(value: object) -> bool:
    return isinstance(value, Mapping) and bool(value) and all(isinstance(item, Tensor) for item in value.values())


def _state_in(content: Any, key: str | None, path: Path) -> State:
    held = dict(content) if isinstance(content, Mapping) else {}
    if key is not None:
        if not _is_state(held.get(key)):
            raise NetworkError(f"{path}: no state dict under '{key}'; it has {_some(map(str, held)) or 'no keys'}")
        return dict(held[key])
    if _is_state(content):
        return held
    found = [name for name, value in held.items() if _is_state(value)]
    if len(found) == 1:
        return dict(held[found[0]])
    if found:
        raise NetworkError(f"{path}: several state dicts, {_some(map(str, found))}: choose with --key")
    what = f"it has {_some(map(str, held))}" if held else f"it holds {type(content).__name__}"
    raise NetworkError(f"{path}: no state dict, a mapping from names to tensors, in it; {what}")


def _without_wrappers(state: State) -> State:
    for wrapper in (*WRAPPERS, *WRAPPERS):  # one may stand inside the other
        if all(name.startswith(wrapper) for name in state):
            state = {name.removeprefix(wrapper): value for name, value in state.items()}
    return state


def fill(network: nn.Module, state: State, path: Path) -> None:
    """Puts the weights into the network.

    Raises:
        NetworkError: names are missing or too many, or shapes differ; it lists them.
    """
    own = network.state_dict()
    # counters of batch normalisation, which old files lack, have no part in eval mode
    missing = [name for name in own if name not in state and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in state if name not in own]
    shapes = [
        f"{name} {tuple(state[name].shape)} for {tuple(value.shape)}"
        for name, value in own.items()
        if name in state and state[name].shape != value.shape
    ]
    found = {"missing": missing, "unexpected": unexpected, "of another shape": shapes}
    problems = [f"{len(names)} {what}: {_some(names)}" for what, names in found.items() if names]
    if problems:
        raise NetworkError(f"{path} does not fit the network of --model: {'; '.join(problems)}")
    network.load_state_dict(state, strict=False)


def _some(names: Any) -> str:
    listed = list(names)
    return ", ".join(listed[:SHOWN]) + (f", and {len(listed) - SHOWN} more" if len(listed) > SHOWN else "")


def as_classifier(
    network: nn.Module, splits: Splits, mean: Sequence[float], std: Sequence[float], device: torch.device
) -> Classifier:
    """The network behind a standardisation of its input, on the device; tried on one image.

    One of our own, which standardises its input itself, stays as it is where no mean and deviation are given.

    Args:
        network: from standardised images to logits.
        splits: the images that it is for.
        mean: per channel, of pixels in [0, 1], or one for all; none: the network takes images in [0, 1].
        std: likewise; none: 1.
        device: where to.

    Raises:
        NetworkError: other numbers of channels or classes than the images have, or it cannot take them.
    """
    channels = splits.shape[0]
    for name, values in (("mean", mean), ("std", std)):
        if len(values) not in {0, 1, channels}:
            raise NetworkError(f"--{name}: {len(values)} values for images of {channels} channels")
    if any(value <= 0 for value in std):
        raise NetworkError("--std: a deviation is above 0")
    if isinstance(network, Classifier) and not mean and not std:
        classifier = network
    else:
        classifier = Classifier(network, torch.tensor(mean or [0.0]), torch.tensor(std or [1.0]))
    classifier = classifier.to(memory_format=torch.channels_last).to(device).eval()
    try:
        with frozen(classifier), torch.no_grad():
            logits = classifier(to_unit(splits.test.x[:1]))
    except Exception as error:  # somebody else's forward may raise anything
        size = " x ".join(map(str, splits.shape))
        raise NetworkError(f"the network cannot take an image of {size}: {_first_line(error)}") from error
    if not isinstance(logits, Tensor) or logits.shape != (1, splits.classes):
        shape = tuple(logits.shape[1:]) if isinstance(logits, Tensor) else type(logits).__name__
        raise NetworkError(f"the network gives {shape} for an image, the data have {splits.classes} classes")
    return classifier
