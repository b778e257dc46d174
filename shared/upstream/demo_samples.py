"""What the demo makes up: values that fit a JSON schema, and vectors that belong to a text."""

from __future__ import annotations

import base64
import hashlib
import math
import struct
from typing import Any

_MAX_DEPTH = 8
_MAX_LENGTH = 64
_SAMPLES: dict[str, Any] = {"boolean": True, "null": None}


def sample(schema: Any, root: Any = None, depth: int = 0) -> Any:
    """A value that fits `schema` where it uses the common keywords; `None` where it is odd.

    `root` is the whole schema, for local references.
    """
    root = schema if root is None else root
    if not isinstance(schema, dict) or depth > _MAX_DEPTH:
        return None
    if isinstance(reference := schema.get("$ref"), str):
        return sample(_resolve(reference, root), root, depth + 1)
    for keyword in ("const", "default"):
        if keyword in schema:
            return schema[keyword]
    for keyword in ("enum", "examples"):
        if isinstance(values := schema.get(keyword), list) and values:
            return values[0]
    for keyword in ("anyOf", "oneOf", "allOf"):
        if isinstance(options := schema.get(keyword), list) and options:
            return sample(options[0], root, depth + 1)
    return _of_type(_type(schema), schema, root, depth)


def _type(schema: dict[str, Any]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        kind = next((name for name in kind if name != "null"), "null")
    if isinstance(kind, str):
        return kind
    return "object" if "properties" in schema else "string"


def _of_type(kind: str, schema: dict[str, Any], root: Any, depth: int) -> Any:
    if kind == "object":
        properties = schema.get("properties")
        if not isinstance(properties, dict):
            return {}
        required = schema.get("required")
        names = required if isinstance(required, list) and required else list(properties)
        return {str(name): sample(properties.get(name), root, depth + 1) for name in names}
    if kind == "array":
        count = _number(schema, "minItems", 1)
        item = sample(schema.get("items"), root, depth + 1)
        return [item] * int(min(max(count, 0), _MAX_LENGTH))
    if kind in {"integer", "number"}:
        low = _number(schema, "minimum", _number(schema, "exclusiveMinimum", 0) + 1)
        value = min(low, _number(schema, "maximum", low))
        return math.ceil(value) if kind == "integer" else value
    if kind == "string":
        low = int(min(max(_number(schema, "minLength", 0), 0), _MAX_LENGTH))
        high = int(max(_number(schema, "maxLength", _MAX_LENGTH), 0))
        return "demo".ljust(low, "o")[:high]
    return _SAMPLES.get(kind)


def _number(schema: dict[str, Any], keyword: str, default: float) -> float:
    value = schema.get(keyword)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else default


def _resolve(reference: str, root: Any) -> Any:
    found = root
    for step in reference.removeprefix("#").strip("/").split("/"):
        if not isinstance(found, dict):
            return None
        found = found.get(step.replace("~1", "/").replace("~0", "~"))
    return found


def vector(text: str, dimensions: int) -> list[float]:
    """A unit vector that depends on the text alone, in single precision."""
    seed = hashlib.shake_256(text.encode("utf-8", "surrogatepass")).digest(4 * dimensions)
    raw = [number / 2**31 - 1.0 for number in struct.unpack(f"<{dimensions}I", seed)]
    length = math.sqrt(math.fsum(value * value for value in raw)) or 1.0
    return list(struct.unpack(f"<{dimensions}f", packed([value / length for value in raw])))


def packed(values: list[float]) -> bytes:
    """Little-endian single-precision floats, as `encoding_format: base64` wants them."""
    return struct.pack(f"<{len(values)}f", *values)


def encoded(values: list[float]) -> str:
    """The same in base64."""
    return base64.b64encode(packed(values)).decode("ascii")
