"""timm's model names without importing timm, which imports torch: read from its sources."""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path

from experiments.errors import SettingsError
from roadmap.designs import did_you_mean

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
    spec = find_spec("timm")
    if spec is None or spec.origin is None:
        raise SettingsError("timm is not installed: pip install timm")
    sources = (Path(spec.origin).parent / "models").glob("*.py")
    found = (re.findall(r"^@register_model\ndef (\w+)\(", path.read_text("utf-8"), re.M) for path in sources)
    return frozenset(name for names in found for name in names)
