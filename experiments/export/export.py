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
from experiments.records.schema import class_names_of
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

    @cached_property
    def class_names(self) -> tuple[str, ...] | None:
        """In the order of the logits; None if the run's record has none."""
        return class_names_of(self.run.directory, self.model.classes)

    @property
    def metadata(self) -> dict[str, str]:
        """What whoever has the file alone needs: which network it is, what it takes for images, and the names of its
        classes, if they are known. Values are JSON."""
        network, values = self.network, {"classes": self.model.classes} | asdict(self.model.transform)
        values |= {"class_names": self.class_names} if self.class_names else {}
        if isinstance(network, Network):
            values["design"] = network.design.to_json()
        else:
            values["model"] = self.run.config["model"]
        return {name: json.dumps(value) for name, value in values.items()}
