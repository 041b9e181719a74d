"""docs/library.md is true: its code runs, in order, and gives what its comments say."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch

PAGE = (Path(__file__).parents[1] / "docs" / "library.md").read_text("utf-8")


def test_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {}
    with torch.no_grad():
        for code in re.findall(r"```python\n(.*?)```", PAGE, re.S):
            exec(code, names)
        network, images = names["network"], names["images"]
        torch.testing.assert_close(names["theirs"].eval()(images), network(images), rtol=1e-4, atol=1e-5)
        loaded = torch.export.load("network.pt2").module()
        other = torch.randn(1, 3, 64, 97)
        torch.testing.assert_close(loaded(other), network(other))
    assert names["logits"].shape == (2, 10)
    assert names["layout"] == "torchvision"
    assert {name: tuple(map.shape) for name, map in names["maps"].items()} == {
        "p2": (2, 256, 32, 40),
        "p3": (2, 256, 16, 20),
        "p4": (2, 256, 8, 10),
        "p5": (2, 256, 4, 5),
    }
    assert "separate_downsampling 81.97 7" in capsys.readouterr().out
