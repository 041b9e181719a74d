"""The network of a run: a design's or a timm model, what it costs, and the weights that it starts from."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from experiments.config.code_digest import code_of
from experiments.config.initial_weights import Init
from experiments.config.run import Run
from experiments.config.timm_names import PREFIX
from experiments.errors import SettingsError
from experiments.runtime.processes import Processes
from experiments.runtime.randomness import Purpose, derive, seed_all
from experiments.training.tensors import UnreadableError, load, save, state_dict
from roadmap.costs import count
from roadmap.network import Network, build
from roadmap.weights import WeightsError, classes_of, load_weights

State = Mapping[str, Tensor]


def initial_network(run: Run, num_classes: int, processes: Processes, say: Callable[[str], None]) -> nn.Module:
    """The network with which a run starts, on its device.

    Raises:
        SettingsError: if the run's settings do not suit this network or device, or there are no such weights.
    """
    seed_all(derive(Purpose.WEIGHTS, run.seed))
    network = make_network(run, num_classes)
    if run.init:
        start_from(run.init, network, say)
    if run.sync_batch_norm and processes.world > 1:
        if processes.device.type != "cuda":
            raise SettingsError("sync_batch_norm=true needs GPUs: torch has it for no other device; set it to false")
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    if run.gradient_checkpointing:
        enable_gradient_checkpointing(network)
    return network.to(processes.device).to(memory_format=torch.channels_last)


def make_network(run: Run, num_classes: int) -> nn.Module:
    """The network of the run's design, or the timm model of its name with the recipe's stochastic depth.

    Raises:
        SettingsError: if the code of a user-defined layer has changed since the run was launched.
    """
    if run.model == "design":
        if changed := [path for path, digest in code_of(run.design).items() if run.code.get(path) != digest]:
            raise SettingsError(f"the code of {changed[0]} has changed since this run was launched; launch it again")
        return build(run.design, num_classes)
    import timm

    name = run.model.removeprefix(PREFIX)
    options: dict[str, Any] = {"num_classes": num_classes, "drop_path_rate": run.design.drop_path or None}
    try:
        return timm.create_model(name, img_size=run.resolution, **options)
    except TypeError:  # convolutional networks take any size and have no such argument
        pass
    try:
        return timm.create_model(name, **options)
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        raise SettingsError(
            f"{run.model} has no stochastic depth, which the recipe needs; add design.drop_path=0"
        ) from error


def enable_gradient_checkpointing(network: nn.Module) -> None:
    """Keep only what the network's blocks take for the backward pass, which runs them again: the same results.

    Raises:
        SettingsError: for a timm model that doesn't support it, or has BatchNorms, whose statistics it would change.
    """
    if not isinstance(network, Network) and any(isinstance(module, _BatchNorm) for module in network.modules()):
        raise SettingsError(
            "gradient_checkpointing would update this model's BatchNorm statistics twice per batch; set it to false"
        )
    try:
        cast(Any, network).set_grad_checkpointing(True)
    except (AttributeError, AssertionError) as error:
        raise SettingsError("this timm model does not support gradient_checkpointing=true; set it to false") from error


def cost_of(run: Run, num_classes: int) -> dict[str, int]:
    with torch.device("meta"):
        network = make_network(run, num_classes)
    try:
        return count(network, run.resolution)._asdict()
    except RuntimeError as error:
        raise SettingsError(f"{run.label} does not take images of {run.resolution} px: {error}") from error


def start_from(init: Init, network: nn.Module, say: Callable[[str], None]) -> None:
    """Load the weights that `init` names into a network, which keeps its own head if their classes differ.

    Raises:
        SettingsError: if there are none, or they do not fit.
    """
    state = read_weights(init)
    try:
        if isinstance(network, Network):
            classes, own_classes = classes_of(network, state), network.classifier.out_features
            layout = load_weights(network, state, head=classes == own_classes)
            origin = f"{init.source} ({layout} layout)"
        else:
            classes, own_classes = load_timm_model(network, state)
            origin = init.source
    except WeightsError as error:
        raise SettingsError(f"init={init.source}: {error}") from error
    head = f"; its head of {classes or 'no'} classes is replaced by a new one of {own_classes}"
    say(f"starting from {origin}{'' if classes == own_classes else head}")


def load_timm_model(network: Any, state: State, *, adapt: bool = False) -> tuple[int, int]:
    """Load a state dict into a timm model. If their classes differ, the model keeps its own head, unless it is to
    `adapt` that to the state dict.

    Returns:
        The numbers of classes of the state dict and of the model.

    Raises:
        WeightsError: if they do not fit.
    """
    heads = network.pretrained_cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)

    def classes(state: State) -> int:
        name = next((name for head in heads if (name := f"{head}.weight") in state), None)
        if name and state[name].ndim < 2:
            raise WeightsError(f"{name} should have one row per class, but its shape is {[*state[name].shape]}")
        return len(state[name]) if name else 0

    if adapt:
        network.reset_classifier(classes(state))
    own = network.state_dict()
    given_classes, own_classes = classes(state), classes(own)
    if given_classes != own_classes:
        own, state = ({k: v for k, v in d.items() if k.rpartition(".")[0] not in heads} for d in (own, state))
    wrong = [f"missing {key}" for key in own if key not in state]
    wrong += [f"unexpected {key}" for key in state if key not in own]
    wrong += [f"{key} of another shape" for key in state if key in own and own[key].shape != state[key].shape]
    if wrong:
        raise WeightsError(f"these weights do not fit: {'; '.join(wrong[:6])}")
    network.load_state_dict(state, strict=False)
    return given_classes, own_classes


def read_weights(init: Init) -> dict[str, Tensor]:
    """The state dict that `init` names, in whatever layout; never unpickled.

    Raises:
        SettingsError: if there is none, or it can't be downloaded.
    """
    if init.file is None:
        return _published(init.source)
    try:
        # the authors' checkpoints contain their command line
        return state_dict(load(Path(init.file), allowed=[argparse.Namespace]))
    except UnreadableError as error:
        raise SettingsError(f"{init.file} contains no weights: {error}") from error


def _published(source: str) -> dict[str, Tensor]:
    library, _, name = source.partition(":")
    try:
        if library == "torchvision":
            return torchvision_weights(name).get_state_dict(progress=False, check_hash=True)
        import timm

        return timm.create_model(name, pretrained=True).state_dict()
    except SettingsError:
        raise
    except Exception as error:  # of the network, of the disk, or for an unknown tag
        if isinstance(error, pickle.UnpicklingError):  # whose message advises to run the code in the file
            raise SettingsError(f"{source} cannot be loaded: the downloaded file is damaged") from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SettingsError(f"{source} cannot be loaded: {reason}") from error


def torchvision_weights(name: str):
    """torchvision's entry for MODEL.WEIGHTS: the weights, and the image transform that they were evaluated with.

    Raises:
        SettingsError: if there is none of that name.
    """
    from torchvision.models import get_model_weights

    model, _, tag = name.partition(".")
    try:
        return get_model_weights(model)[tag]
    except (ValueError, KeyError) as error:
        try:
            known = ", ".join(f"{model}.{weights.name}" for weights in get_model_weights(model))
        except ValueError:
            raise SettingsError(f"torchvision has no model {model!r}") from error
        raise SettingsError(f"torchvision has no weights {name!r} (known: {known})") from error


def save_weights(network: nn.Module, path: Path) -> None:
    """Save the state dict for `torch.load(path, weights_only=True)`, atomically."""
    save({key: tensor.detach().cpu() for key, tensor in network.state_dict().items()}, path)
