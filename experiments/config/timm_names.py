"""Names of timm's models and optimizers, and RandAugment's policies. Importing timm, and with it torch, takes seconds:
it is imported only where a name of timm's is given."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec

from experiments.errors import SettingsError
from roadmap.common.bounds import Number, did_you_mean

PREFIX = "timm:"


def check_timm_name(model: str) -> None:
    """Check that `model` is timm:NAME with a name that timm has.

    Raises:
        SettingsError: naming the nearest right one.
    """
    from timm import list_models

    name, known = model.removeprefix(PREFIX), list_models()
    if name == model:
        hint = f"; did you mean {PREFIX}{model}?" if model in known else did_you_mean(model, ["design"])
        raise SettingsError(f"model must be 'design' or timm:NAME, not {model!r}{hint}")
    if name not in known:
        hint = did_you_mean(name, known) or "; timm.list_models() has all names"
        raise SettingsError(f"timm has no model {name!r}{hint}")


@dataclass(frozen=True)
class Optimizer:
    """The bounds of recipe.optimizer: sgd, adamw, or one of timm's that can be trained with here."""

    def problem(self, value: str) -> str | None:
        builtin, name = ("sgd", "adamw"), value.removeprefix(PREFIX)
        if value in builtin:
            return None
        from timm.optim import list_optimizers

        known = [str(name) for name in list_optimizers()]
        if name == value:
            near = PREFIX + name if name in known else name
            choices = [*builtin, *(PREFIX + choice for choice in known)]
            return f"must be sgd, adamw or timm:NAME, not {value!r}{did_you_mean(near, choices)}"
        if name not in known:
            return f"must be one of timm's, not {name!r}{did_you_mean(name, known)}"
        reason = unusable(name)
        return reason and f"can't be {value}: {reason}"


@cache
def unusable(optimizer: str) -> str | None:
    """Why one of timm's optimizers can't be trained with here; None if it can."""
    from timm.optim import get_optimizer_info

    info = get_optimizer_info(optimizer)
    if isinstance(info.opt_class, str):  # of another library, by its dotted path
        library = info.opt_class.partition(".")[0]
        if find_spec(library) is None:
            return f"it needs {library}, which is not installed"
    if info.second_order:
        return "it needs second derivatives, which a training step here doesn't compute"
    random = getattr(info.opt_class, "__name__", "") == "Kron"
    return "it draws random numbers of its own, which no checkpoint keeps" if random else None


SECTION = re.compile(r"(m|n|inc|mmax)(\d{1,9})|(p|mstd)(\d{1,9}(?:\.\d{1,9})?)|(t)(weights|3a|3aw)")


@dataclass(frozen=True)
class RandAugment:
    """The bounds of recipe.rand_augment: sections of timm's grammar, each at most once. timm itself ignores what
    it doesn't know, and cuts a magnitude off at mmax."""

    def problem(self, policy: str) -> str | None:
        head, *sections = policy.split("-")
        known = {"n": Number("[1, 8]"), "p": Number("[0, 1]"), "mstd": Number("[0, 101]"), "inc": Number("[0, 1]")}
        known |= {"mmax": Number("[1, 10]"), "m": Number("[0, 10]")}
        seen = set()
        for section in sections:
            match = SECTION.fullmatch(section)
            name, value = [group for group in match.groups() if group] if match else ("", "")
            if not match or name in seen:
                return f"must be like rand-m9-mstd0.5-inc1, not {policy!r}: timm knows no {section!r} there"
            seen.add(name)
            if name in known and (problem := known[name].problem(float(value) if "." in value else int(value))):
                return f"must be like rand-m9-mstd0.5-inc1, not {policy!r}: {name} {problem}"
        return None if head == "rand" else f"must be null or like rand-m9-mstd0.5-inc1, not {policy!r}"
