"""The network of a run: our design or a model of timm's, what it costs, and the weights that it starts from."""

from __future__ import annotations

import argparse
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from experiments.config.code_digest import code_of
from experiments.config.initial_weights import Init
from experiments.config.run import Run
from experiments.config.timm_names import PREFIX
from experiments.errors import SettingsError
from experiments.training.tensors import UnreadableError, load, save, state_dict
from roadmap.costs import count
from roadmap.network import Network, build
from roadmap.weights import WeightsError, classes_of, load_weights

State = Mapping[str, Tensor]


def make_network(run: Run, num_classes: int) -> nn.Module:
    """The network of the run's design, or timm's by its name with the recipe's stochastic depth.

    Raises:
        SettingsError: if the code of a layer of one's own is no longer what the run was launched with.
    """
    if run.model == "design":
        if changed := [path for path, digest in code_of(run.design).items() if run.code.get(path) != digest]:
            raise SettingsError(f"the code of {changed[0]} has changed since this run was launched; launch it again")
        return build(run.design, num_classes)
    import timm

    name = run.model.removeprefix(PREFIX)
    options = {"num_classes": num_classes, "drop_path_rate": run.design.drop_path or None}
    try:
        return timm.create_model(name, img_size=run.resolution, **options)
    except TypeError:  # convolutional networks take any size and don't know the argument
        pass
    try:
        return timm.create_model(name, **options)
    except TypeError as error:
        if "drop_path_rate" not in str(error):
            raise
        raise SettingsError(
            f"{run.model} knows no stochastic depth, which the recipe asks for; add design.drop_path=0"
        ) from error


def cost_of(run: Run, num_classes: int) -> dict[str, int]:
    with torch.device("meta"):
        network = make_network(run, num_classes)
    try:
        return count(network, run.resolution)._asdict()
    except RuntimeError as error:
        raise SettingsError(f"{run.label} does not take images of {run.resolution} px: {error}") from error


def start_from(init: Init, network: nn.Module, say: Callable[[str], None]) -> None:
    """Give a network the weights that `init` names. Where these have other classes, it keeps its own head.

    Raises:
        SettingsError: if they can't be had, or are another network's.
    """
    state = read_weights(init)
    try:
        if isinstance(network, Network):
            theirs, ours = classes_of(network, state), network.head.linear.out_features
            layout = load_weights(network, state, head=theirs == ours)
            origin = f"{init.source} ({layout} layout)"
        else:
            theirs, ours = load_model_of_timm(network, state)
            origin = init.source
    except WeightsError as error:
        raise SettingsError(f"init={init.source}: {error}") from error
    head = "" if theirs == ours else f"; its head of {theirs or 'no'} classes is replaced by a new one of {ours}"
    say(f"starting from {origin}{head}")


def load_model_of_timm(network: nn.Module, state: State, *, adapt: bool = False) -> tuple[int, int]:
    """Give a model of timm's a state dict. If that has other classes, the model keeps its own head, or `adapt`s it.

    Returns the numbers of classes of the state dict and of the model.

    Raises:
        WeightsError: if they do not fit.
    """
    heads = network.pretrained_cfg.get("classifier") or ()
    heads = (heads,) if isinstance(heads, str) else tuple(heads)

    def classes(state: State) -> int:
        name = next((name for head in heads if (name := f"{head}.weight") in state), None)
        if name and state[name].ndim < 2:
            raise WeightsError(f"{name} has no row for each class: its shape is {[*state[name].shape]}")
        return len(state[name]) if name else 0

    def is_new(key: str) -> bool:
        return theirs != ours and key.rpartition(".")[0] in heads

    if adapt:
        network.reset_classifier(classes(state))
    theirs, ours = classes(state), classes(network.state_dict())
    state = {key: value for key, value in state.items() if not is_new(key)}
    own = network.state_dict()
    wrong = [f"missing {key}" for key in own if key not in state and not is_new(key)]
    wrong += [f"unexpected {key}" for key in state if key not in own]
    wrong += [f"{key} of another shape" for key in state if key in own and own[key].shape != state[key].shape]
    if wrong:
        raise WeightsError(f"these weights do not fit: {'; '.join(wrong[:6])}")
    network.load_state_dict(state, strict=False)
    return theirs, ours


def read_weights(init: Init) -> dict[str, Tensor]:
    """The state dict that `init` names, in whatever layout it is; never unpickled.

    Raises:
        SettingsError: if there is none, or it can't be downloaded.
    """
    if init.file is None:
        return _published(init.source)
    try:
        # the authors' checkpoints hold their arguments
        return state_dict(load(Path(init.file), allowed=[argparse.Namespace]))
    except UnreadableError as error:
        raise SettingsError(f"{init.file} holds no weights: {error}") from error


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
        if isinstance(error, pickle.UnpicklingError):  # torch's advises to run the code that a file names
            raise SettingsError(f"{source} can't be had: what was downloaded is damaged") from error
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise SettingsError(f"{source} can't be had: {reason}") from error


def torchvision_weights(name: str):
    """torchvision's entry for MODEL.WEIGHTS: its weights, and how images are made ready for them.

    Raises:
        SettingsError: if there is none of that name.
    """
    from torchvision.models import get_model_weights

    model, _, tag = name.partition(".")
    try:
        return get_model_weights(model)[tag]
    except (ValueError, KeyError) as error:
        try:
            known = ", ".join(f"{model}.{one.name}" for one in get_model_weights(model))
        except ValueError:
            raise SettingsError(f"torchvision has no model {model!r}") from error
        raise SettingsError(f"torchvision has no weights {name!r} (known: {known})") from error


def save_weights(network: nn.Module, path: Path) -> None:
    """The state dict, as `torch.load(path, weights_only=True)` reads it, in place or not at all."""
    save({key: tensor.detach().cpu() for key, tensor in network.state_dict().items()}, path)
