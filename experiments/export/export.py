"""What the formats of an export share: a run, its network, and the program that is traced from it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

from torch import nn

from experiments.evaluate.model import EvaluatedModel
from experiments.export.programs import Traced, trace
from experiments.export.run import RunToExport
from experiments.export.timm_layout import timm_arguments
from roadmap.network import Network

TIMM_REDUCTION = 32
"""Of the resolution, by timm's models: that of most, and of none more."""


@dataclass(frozen=True)
class Export:
    """A run and its network, which is on the CPU, in float32 and in evaluation mode."""

    run: RunToExport
    model: EvaluatedModel

    @property
    def network(self) -> nn.Module:
        return self.model.network

    @cached_property
    def traced(self) -> Traced:
        reduction = 8 * self.network.design.stem_stride if isinstance(self.network, Network) else TIMM_REDUCTION
        return trace(self.network, self.model.transform.resolution, reduction)

    @cached_property
    def timm_arguments(self) -> tuple[str, dict[str, Any]]:
        return timm_arguments(self.run.config["model"], self.network, self.model.classes)

    @property
    def metadata(self) -> dict[str, str]:
        """What whoever has the file alone needs: which network it is, and what it takes for images. Values are JSON."""
        network, values = self.network, {"classes": self.model.classes} | asdict(self.model.transform)
        if isinstance(network, Network):
            values["design"] = network.design.to_json()
        else:
            values["model"] = self.run.config["model"]
        return {name: json.dumps(value) for name, value in values.items()}
