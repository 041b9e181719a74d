"""What README says of `make ladder`, held against the table that it wrote: 17 rungs with two seeds each, all of which
train; the modern recipe gains accuracy, and the steps after it lose some of it again."""

import csv
import sys
from pathlib import Path

with Path(sys.argv[1]).open(newline="", encoding="utf-8") as file:
    rows = {row["rung"]: row for row in csv.DictReader(file)}
missing = [rung for rung, row in rows.items() if int(row["n"]) < 2]
means = {rung: float(row["mean"] or 0) for rung, row in rows.items()}
low = [f"{rung} {mean:.1f} %" for rung, mean in means.items() if mean < 70]
if len(rows) != 17 or missing or low:
    sys.exit(f"{len(rows)} rungs; fewer than 2 seeds: {missing or 'none'}; below 70 %: {low or 'none'}")
recipe = means["modern_recipe"] - means["resnet"]
architecture = means["separate_downsampling"] - means["modern_recipe"]
if recipe <= 0 or architecture >= 0:
    sys.exit(f"the modern recipe changes accuracy by {recipe:+.1f} points, the steps after it by {architecture:+.1f}")
print(
    f"17 rungs, 2 seeds each, the lowest at {min(means.values()):.1f} %; recipe {recipe:+.1f}, then {architecture:+.1f}"
)
