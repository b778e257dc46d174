"""A strict reader of Prometheus' text format (version 0.0.4), for tests of what is scraped.

It refuses what Prometheus would refuse or silently misread: samples before their `# TYPE`, a
metric told twice, a repeated label set, unescaped label values, histograms whose buckets do not
grow or do not end in +Inf.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

Labels = frozenset[tuple[str, str]]

_SAMPLE = re.compile(
    r"^(?P<name>[a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(?P<labels>.*)\})? (?P<value>[^ ]+)$"
)
_LABEL = re.compile(r'(?P<name>[a-zA-Z_][a-zA-Z0-9_]*)="(?P<value>(?:[^"\\\n]|\\["\\n])*)"(?:,|$)')
_ESCAPE = re.compile(r"\\(.)")


class Exposition:
    """A parsed body: metric types by name, and samples by name and label set."""

    def __init__(self, body: bytes) -> None:
        self.types: dict[str, str] = {}
        self.helps: dict[str, str] = {}
        self.samples: dict[tuple[str, Labels], float] = {}
        text = body.decode("utf-8")
        assert text == "" or text.endswith("\n"), "the last line must end in a line feed"
        current = ""
        for line in text.split("\n")[:-1]:
            if line.startswith("# "):
                current = self._comment(line)
            else:
                self._sample(line, current)
        for name, kind in self.types.items():
            if kind == "histogram":
                self._check_histogram(name)

    def value(self, name: str, **labels: str) -> float:
        """The sample of exactly these labels."""
        return self.samples[name, frozenset(labels.items())]

    def total(self, name: str, **labels: str) -> float:
        """The sum over samples that have at least these labels."""
        wanted = frozenset(labels.items())
        return sum(
            value for (each, had), value in self.samples.items() if each == name and wanted <= had
        )

    def label_sets(self, name: str) -> list[dict[str, str]]:
        """The label sets of a metric."""
        return [dict(labels) for each, labels in self.samples if each == name]

    def buckets(self, name: str, **labels: str) -> dict[str, float]:
        """Cumulative counts of a histogram by upper bound, in order."""
        wanted = frozenset(labels.items())
        return {
            dict(had)["le"]: value
            for (each, had), value in self.samples.items()
            if each == f"{name}_bucket" and had - {("le", dict(had)["le"])} == wanted
        }

    def _comment(self, line: str) -> str:
        _, word, name, rest = line.split(" ", 3)
        known = {"HELP": self.helps, "TYPE": self.types}[word]
        assert name not in known, f"{name} is told twice"
        known[name] = rest
        return name

    def _sample(self, line: str, current: str) -> None:
        match = _SAMPLE.match(line)
        assert match, f"no sample: {line!r}"
        name = match["name"]
        kind = self.types.get(current)
        suffixes = ("_bucket", "_sum", "_count") if kind == "histogram" else ("",)
        assert name in {current + suffix for suffix in suffixes}, f"{name} without its # TYPE"
        labels = dict(_labels(match["labels"] or ""))
        key = name, frozenset(labels.items())
        assert key not in self.samples, f"twice: {line!r}"
        self.samples[key] = float(match["value"])

    def _check_histogram(self, name: str) -> None:
        for sample, labels in list(self.samples):
            if sample == f"{name}_count":
                buckets = self.buckets(name, **dict(labels))
                bounds = [float(bound) for bound in buckets]
                assert bounds == sorted(set(bounds)), f"{name}: bounds out of order"
                assert bounds[-1] == float("inf"), f"{name}: no +Inf"
                counts = list(buckets.values())
                assert counts == sorted(counts), f"{name}: buckets are not cumulative"
                assert counts[-1] == self.samples[sample, labels], f"{name}: count is not +Inf's"
                assert (f"{name}_sum", labels) in self.samples


def _labels(text: str) -> Iterator[tuple[str, str]]:
    position = 0
    while position < len(text):
        match = _LABEL.match(text, position)
        assert match, f"no label: {text[position:]!r}"
        yield match["name"], _ESCAPE.sub(lambda m: "\n" if m[1] == "n" else m[1], match["value"])
        position = match.end()
