"""`docs/metrics.md` lists exactly the metrics that the product declares."""

from __future__ import annotations

import re
from pathlib import Path

from shared.telemetry.catalogue import CATALOGUE, Merge

DOCS = Path(__file__).parents[2] / "docs" / "metrics.md"
_ROW = re.compile(
    r"^\| `(?P<name>\w+)` \| (?P<kind>\w+) \| (?P<labels>[^|]+) \| (?P<help>[^|]+) \|$"
)


def test_table_is_the_catalogue() -> None:
    """Name, kind, labels and meaning of every metric stand in the table, in the same order."""
    rows = [match for line in DOCS.read_text().splitlines() if (match := _ROW.match(line))]
    told = [
        (row["name"], row["kind"], tuple(re.findall(r"`(\w+)`", row["labels"])), row["help"])
        for row in rows
    ]
    assert told == [
        (metric.exposed, metric.kind, metric.labels, metric.help) for metric in CATALOGUE
    ]


def test_merge_rules_are_told() -> None:
    """Gauges that do not add up are named with how they merge."""
    paragraph = next(
        line for line in DOCS.read_text().splitlines() if line.startswith("Gauges of several")
    )
    highest, lowest = paragraph.split("the highest value")
    for metric in CATALOGUE:
        assert (f"`{metric.name}`" in highest) == (metric.merge is Merge.MAX)
        assert (f"`{metric.name}`" in lowest) == (metric.merge is Merge.MIN)


def test_buckets_are_told() -> None:
    """The bounds in the text are those of the histograms."""
    text = DOCS.read_text()
    for metric in CATALOGUE:
        if metric.buckets and metric.name.startswith("litellm_"):
            assert " ".join(f"{bound:g}" for bound in metric.buckets) in text
