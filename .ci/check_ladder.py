"""What `make ladder` promises, held against the table that it wrote: 17 rungs, 3 seeds each, every one 70 % or more."""

import csv
import sys
from pathlib import Path

with Path(sys.argv[1]).open(newline="", encoding="utf-8") as file:
    rows = list(csv.DictReader(file))
missing = [row["rung"] for row in rows if int(row["n"]) < 3]
low = [f"{row['rung']} {float(row['mean']):.1f} %" for row in rows if float(row["mean"] or 0) < 70]
if len(rows) != 17 or missing or low:
    sys.exit(f"{len(rows)} rungs; fewer than 3 seeds: {missing or 'none'}; below 70 %: {low or 'none'}")
print(f"17 rungs, 3 seeds each, the lowest at {min(float(row['mean']) for row in rows):.1f} %")
