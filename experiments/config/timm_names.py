"""What timm takes by name (models, optimizers, RandAugment's policies) without importing timm, which imports torch:
names are read from its sources."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from experiments.errors import SettingsError
from roadmap.common.bounds import Number, did_you_mean

PREFIX = "timm:"


def check_timm_name(model: str) -> None:
    """Check that `model` is timm:NAME with a name that timm has.

    Raises:
        SettingsError: naming the nearest right one.
    """
    name = model.removeprefix(PREFIX)
    known = timm_names()
    if name == model:
        hint = f"; did you mean {PREFIX}{model}?" if model in known else did_you_mean(model, ["design"])
        raise SettingsError(f"model must be 'design' or timm:NAME, not {model!r}{hint}")
    if name not in known:
        hint = did_you_mean(name, sorted(known)) or "; timm.list_models() has all names"
        raise SettingsError(f"timm has no model {name!r}{hint}")


@cache
def timm_names() -> frozenset[str]:
    """Every name that timm registers: its model modules mark each with @register_model."""
    found = (re.findall(r"^@register_model\ndef (\w+)\(", file.read_text("utf-8"), re.M) for file in _sources("models"))
    return frozenset(name for names in found for name in names)


@dataclass(frozen=True)
class Optimizer:
    """The bounds of recipe.optimizer: sgd, adamw, or one of timm's that can be trained with here."""

    def problem(self, value: str) -> str | None:
        own, name = ("sgd", "adamw"), value.removeprefix(PREFIX)
        if value in own:
            return None
        known = timm_optimizers()
        if name == value:
            choices = [*own, *(PREFIX + one for one in known)]
            near = PREFIX + name if name in known else name
            return f"must be sgd, adamw or timm:NAME, not {value!r}{did_you_mean(near, choices)}"
        if name not in known:
            return f"must be one of timm's, not {name!r}{did_you_mean(name, known)}"
        return known[name] and f"can't be {value}: {known[name]}"


@cache
def timm_optimizers() -> dict[str, str | None]:
    """{name: why it can't be trained with here} of every optimizer that timm registers; None if it can."""
    registered, aliases = {}, {}
    for node in (node for file in _sources("optim") for node in ast.walk(ast.parse(file.read_text("utf-8")))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "OptimInfo":
            given = dict(zip(("name", "opt_class"), node.args, strict=False))
            given |= {one.arg: one.value for one in node.keywords}
            said = {key: one.value if isinstance(one, ast.Constant) else ast.unparse(one) for key, one in given.items()}
            registered[said["name"]] = _lacks(said["opt_class"], said.get("second_order", False))
        elif isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "register_alias":
            alias, target = (one.value for one in node.args)
            aliases[alias] = target
    return registered | {alias: registered[target] for alias, target in aliases.items()}


def _lacks(optimizer: str, second_order: bool) -> str | None:
    library, dot, _ = optimizer.partition(".")
    if dot and find_spec(library) is None:
        return f"it needs {library}, which is not installed"
    if second_order:
        return "it needs second derivatives, which a training step here doesn't compute"
    return "it draws random numbers of its own, which no checkpoint keeps" if optimizer == "Kron" else None


SECTION = re.compile(r"(m|n|inc|mmax)(\d{1,9})|(p|mstd)(\d{1,9}(?:\.\d{1,9})?)|(t)(weights|3a|3aw)")


@dataclass(frozen=True)
class RandAugment:
    """The bounds of recipe.rand_augment: sections of timm's grammar, each at most once. timm itself passes over
    what it doesn't know, and cuts a magnitude off at mmax."""

    def problem(self, policy: str) -> str | None:
        head, *sections = policy.split("-")
        known = {"n": Number("[1, 8]"), "p": Number("[0, 1]"), "mstd": Number("[0, 101]"), "inc": Number("[0, 1]")}
        known |= {"mmax": Number("[1, 10]"), "m": Number("[0, 10]")}
        seen = set()
        for section in sections:
            match = SECTION.fullmatch(section)
            name, value = [one for one in match.groups() if one] if match else ("", "")
            if not match or name in seen:
                return f"must be like rand-m9-mstd0.5-inc1, not {policy!r}: timm knows no {section!r} there"
            seen.add(name)
            if name in known and (problem := known[name].problem(float(value) if "." in value else int(value))):
                return f"must be like rand-m9-mstd0.5-inc1, not {policy!r}: {name} {problem}"
        return None if head == "rand" else f"must be null or like rand-m9-mstd0.5-inc1, not {policy!r}"


def _sources(package: str) -> list[Path]:
    spec = find_spec("timm")
    if spec is None or spec.origin is None:
        raise SettingsError("timm is not installed: pip install timm")
    return sorted((Path(spec.origin).parent / package).glob("*.py"))
