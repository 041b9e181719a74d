"""The road from ResNet to ConvNeXt, every step of it a switch.

    >>> import roadmap
    >>> [rung.name for rung in roadmap.ladder("resnet50")][:3]
    ['resnet', 'modern_recipe', 'stage_ratio']
    >>> network = roadmap.build(roadmap.design("convnext_tiny"))

Importing `roadmap` imports nothing else: each name is imported on first use, and those of networks need torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from roadmap.conf import design, ladder, regimes, road
    from roadmap.costs import Cost, cost
    from roadmap.designs import Design, DesignError
    from roadmap.network import Network, build
    from roadmap.own import foreign
    from roadmap.roads import Published, Road, Rung
    from roadmap.weights import WeightsError, export_weights, load_weights

_MODULES = {
    "Design": "designs",
    "DesignError": "designs",
    "Published": "roads",
    "Road": "roads",
    "Rung": "roads",
    "design": "conf",
    "ladder": "conf",
    "regimes": "conf",
    "road": "conf",
    "build": "network",
    "Network": "network",
    "foreign": "own",
    "cost": "costs",
    "Cost": "costs",
    "load_weights": "weights",
    "export_weights": "weights",
    "WeightsError": "weights",
}

__all__ = [
    "Cost",
    "Design",
    "DesignError",
    "Network",
    "Published",
    "Road",
    "Rung",
    "WeightsError",
    "build",
    "cost",
    "design",
    "export_weights",
    "foreign",
    "ladder",
    "load_weights",
    "regimes",
    "road",
]  # fmt: skip


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module 'roadmap' has no attribute {name!r}")
    return getattr(import_module(f"roadmap.{_MODULES[name]}"), name)
