"""`*` in model names and access lists: any text, the empty one included.

Matching is linear in the name: pieces between stars are looked for from the left, so no pattern
and no name can make it slow.
"""

from __future__ import annotations

LONGEST_NAME = 512


def matches(pattern: str, name: str) -> bool:
    """Whether a pattern covers a name; one without `*` covers itself."""
    return captures(pattern, name) is not None


def captures(pattern: str, name: str) -> tuple[str, ...] | None:
    """What each `*` stands for; `None` if the pattern does not cover the name."""
    first, *rest = pattern.split("*")
    if not rest:
        return () if pattern == name else None
    last = rest.pop()
    end = len(name) - len(last)
    if len(first) > end or not name.startswith(first) or not name.endswith(last):
        return None
    at = len(first)
    found: list[str] = []
    for piece in rest:
        place = name.find(piece, at, end)
        if place < 0:
            return None
        found.append(name[at:place])
        at = place + len(piece)
    found.append(name[at:end])
    return tuple(found)


def fill(template: str, found: tuple[str, ...]) -> str:
    """A template with its stars replaced in order; one without stars stays as it is."""
    first, *rest = template.split("*")
    return first + "".join(text + piece for text, piece in zip(found, rest, strict=False))


def specificity(pattern: str) -> tuple[int, int]:
    """Larger for the pattern that should win: the longer, then the one with more characters
    that are no letters or digits (LLM contract §4.1)."""
    return len(pattern), sum(not character.isalnum() for character in pattern)
