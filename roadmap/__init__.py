"""The road from ResNet to ConvNeXt, every step of it a switch.

    >>> import roadmap
    >>> [rung.name for rung in roadmap.ladder("resnet50")][:3]
    ['resnet', 'modern_recipe', 'stage_ratio']
    >>> network = roadmap.build(roadmap.design("convnext_tiny"))

Importing `roadmap` imports no torch; the names that need a network import it when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from roadmap import sets
from roadmap.designs import Design, DesignError
from roadmap.steps import Published, Rung, design, ladder, regimes

if TYPE_CHECKING:
    from roadmap.costs import Cost, cost
    from roadmap.network import Network, build
    from roadmap.weights import WeightsError, export_weights, load_weights

_NEED_TORCH = {
    "build": "roadmap.network",
    "Network": "roadmap.network",
    "cost": "roadmap.costs",
    "Cost": "roadmap.costs",
    "load_weights": "roadmap.weights",
    "export_weights": "roadmap.weights",
    "WeightsError": "roadmap.weights",
}

__all__ = [
    "Cost",
    "Design",
    "DesignError",
    "Network",
    "Published",
    "Rung",
    "WeightsError",
    "build",
    "cost",
    "design",
    "export_weights",
    "ladder",
    "load_weights",
    "regimes",
    "sets",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _NEED_TORCH:
        raise AttributeError(f"module 'roadmap' has no attribute {name!r}")
    return getattr(import_module(_NEED_TORCH[name]), name)
