"""Costs are those that the paper, torchvision and the design-space literature print."""

import csv
from pathlib import Path
from types import ModuleType

import pytest
import timm
import torch
import torchvision

import roadmap
from roadmap import costs

pytestmark = pytest.mark.xdist_group("costs")  # counted once

FACTS = Path(__file__).with_name("facts")


def facts(name: str) -> list[dict[str, str]]:
    with (FACTS / name).open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("regime", "table", "misprinted"),
    [
        ("resnet50", "resnet50_to_convnext_t.csv", {"layer_norm", "separate_downsampling"}),
        ("resnet200", "resnet200_to_convnext_b.csv", set()),
    ],
)
def test_rungs_cost_what_was_counted_independently(regime: str, table: str, misprinted: set[str]) -> None:
    """And what the paper prints, but for two rows."""
    rows = facts(table)
    counted = {rung.name: roadmap.cost(rung.design, 224, 1000).macs / 1e9 for rung in roadmap.ladder(regime)}
    assert counted == pytest.approx({row["name"]: float(row["counted_gmacs"]) for row in rows}, abs=0.001)
    assert {row["name"] for row in rows if f"{counted[row['name']]:.2f}" != row["published_gflops"]} == misprinted


@pytest.mark.parametrize("row", facts("convnext_family.csv"), ids=lambda row: row["name"])
def test_convnexts_are_the_published_size(row: dict[str, str]) -> None:
    design = roadmap.design(row["name"])
    assert "-".join(map(str, design.depths)) == row["depths"]
    assert "-".join(str(design.width * 2**stage) for stage in range(4)) == row["dims"]
    cost = roadmap.cost(design)
    assert cost.params / 1e6 == pytest.approx(float(row["params_m"]), abs=0.001)  # cut, not rounded, there
    assert f"{cost.macs / 1e9:.1f}" == row["gflops_224"]


@pytest.mark.parametrize(
    ("size", "params_m", "gmacs"),  # as the authors' README has them, some to a per cent
    [
        ("atto", 3.7, 0.55),
        ("femto", 5.2, 0.78),
        ("pico", 9.1, 1.37),
        ("nano", 15.6, 2.45),
        ("tiny", 28.6, 4.47),
        ("base", 89, 15.4),
        ("large", 198, 34.4),
        ("huge", 660, 115),
    ],
)
def test_convnexts_v2_are_the_published_size(size: str, params_m: float, gmacs: float) -> None:
    cost = roadmap.cost(roadmap.design(f"convnextv2_{size}"))
    assert (cost.params / 1e6, cost.macs / 1e9) == pytest.approx((params_m, gmacs), rel=0.01)


@pytest.mark.parametrize(
    "name",
    ["resnet50", "resnet101", "resnet152", "convnext_tiny", "convnext_small", "convnext_base", "convnext_large"],
)
def test_named_designs_cost_what_torchvision_documents(name: str) -> None:
    documented = torchvision.models.get_model_weights(name).DEFAULT.meta
    cost = roadmap.cost(roadmap.design(name))
    assert cost.params == documented["num_params"]
    assert cost.macs / 1e9 == pytest.approx(documented["_ops"], abs=0.001)


@pytest.mark.parametrize(
    ("name", "library"), [("resnet50", torchvision), ("convnext_tiny", torchvision), ("convnextv2_tiny", timm)]
)
def test_any_network_counts_as_ours_does(name: str, library: ModuleType) -> None:
    with torch.device("meta"):
        theirs = getattr(library.models, name)()
    assert costs.count(theirs, 224) == roadmap.cost(roadmap.design(name))


@pytest.mark.parametrize(("name", "millions"), [("resnet50", 11.1), ("resnet101", 16.2), ("resnet152", 22.6)])
def test_activations_of_resnets_are_the_literatures(name: str, millions: float) -> None:
    """Radosavovic et al., Designing Network Design Spaces, 2020."""
    assert roadmap.cost(roadmap.design(name)).activations / 1e6 == pytest.approx(millions, abs=0.05)


@pytest.mark.parametrize("resolution", [64, 384])
@pytest.mark.parametrize("name", ["resnet50", "convnext_tiny"])
def test_multiply_adds_grow_with_the_area_but_for_the_classifiers(name: str, resolution: int) -> None:
    design = roadmap.design(name)
    classifier = {"resnet50": 2048, "convnext_tiny": 768}[name] * 1000
    at_224, other = roadmap.cost(design), roadmap.cost(design, resolution)
    assert (other.macs - classifier) * 224**2 == (at_224.macs - classifier) * resolution**2
    assert other.params == at_224.params


def test_classes_cost_the_classifier_alone() -> None:
    few, many = (roadmap.cost(roadmap.design("convnext_tiny"), num_classes=n) for n in (10, 1000))
    assert many.macs - few.macs == 990 * 768
    assert many.params - few.params == 990 * (768 + 1)
    assert many.activations - few.activations == 990


def test_counting_allocates_no_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    """An XL's 350 million parameters must not be drawn to be counted."""
    on_meta = []

    def build(*args) -> roadmap.Network:
        network = roadmap.build(*args)
        on_meta.extend(tensor.is_meta for tensor in network.state_dict().values())
        return network

    monkeypatch.setattr(costs, "build", build)
    roadmap.cost.__wrapped__(roadmap.design("convnext_tiny"))
    assert on_meta
    assert all(on_meta)
