"""Run records that nobody would write on purpose, from those of tests/records.py: seeded, so that a failure repeats."""

from __future__ import annotations

import json
import os
from pathlib import Path
from random import Random
from typing import Any

DEEP = "[" * 100_000 + "]" * 100_000
VALUES = [
    *(None, True, -1, 0, 1.5, 2**63, 10**400, 1e308, float("nan"), float("inf"), "", "7", "nobody knows"),
    *(
        "\x1b[31mred\x1b[0m\r\n",
        "\u202egpj",
        "\udcff",
        "=cmd|'/c calc'!A0",
        "<script>alert(1)</script>",
        r"$\frac{1&%_",
    ),
    *([], [None], ["a", ["b"]], {}, {"a": {"b": "c"}}, [[[[[]]]]], json.loads("[" * 200 + "]" * 200), "x" * 5000),
]
FILES = [
    b"",
    b"null",
    b"[]",
    b'"text"',
    b"7",
    b"NaN",
    b"{",
    b"\x00\xff\xfe",
    DEEP.encode(),
    b'{"a": ' * 500 + b"1" + b"}" * 500,
]
NAMES = ("config.json", "summary.json", "epochs.jsonl")


def spoil(run: Path, random: Random) -> None:
    """Make one file of a record something else: a value, a key, the text, or what kind of file it is."""
    path = run / random.choice(NAMES)
    if random.random() < 0.8 and path.suffix == ".json":
        record = json.loads(path.read_text())
        for _ in range(random.choice([1, 1, 3])):
            _spoil_value(record, random)
        path.write_text(json.dumps(record))
        return
    text = path.read_bytes()
    path.unlink()
    kind = random.randrange(6)
    if kind == 0:
        path.mkdir()
    elif kind == 1:
        os.mkfifo(path)
    elif kind == 2:
        path.symlink_to(path)
    elif kind == 3:
        path.write_bytes(text[: random.randrange(len(text))])
    elif kind == 4:
        place = random.randrange(len(text))
        path.write_bytes(text[:place] + random.randbytes(3) + text[place:])
    else:
        path.write_bytes(random.choice(FILES))


def _spoil_value(record: dict[str, Any], random: Random) -> None:
    """Replace a value, remove a key or add one, anywhere in a record."""
    at: Any = record
    while isinstance(at, dict) and at:
        key = random.choice(sorted(at))
        if not isinstance(at[key], dict) or random.random() < 0.3:
            break
        at = at[key]
    else:
        return
    if random.random() < 0.15:
        del at[key]
    elif random.random() < 0.1:
        at[random.choice([one for one in VALUES if isinstance(one, str)])] = random.choice(VALUES)
    else:
        at[key] = random.choice(VALUES)
