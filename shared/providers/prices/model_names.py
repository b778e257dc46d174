"""The spellings under which a model's price may stand in the table."""

from __future__ import annotations

import re
from collections.abc import Iterator

LONGEST_NAME = 200
"""Names over this many characters have no price; they come from outside."""

# Inference profiles and regions in front of Bedrock and Azure model names.
_REGION_PATHS = re.compile(
    r"^(?:(?:[a-z]{2}(?:-[a-z]+)+-\d|us|eu|apac|ap|global|global-standard|data-zone"
    r"|converse|invoke|converse_like)/)+"
)
_REGION_PROFILE = re.compile(
    r"^(?:us-gov|us|eu|apac|ap|au|jp|ca|sa|me|af|global)\.(?=[a-z0-9-]+\.)"
)
_COMPACT_DATE = re.compile(r"[-@](20\d{2})(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])(?=$|-|:)")
# A release date or a release month and day, or the moving name of the newest release.
_RELEASE = re.compile(r"[-@](?:20\d{2}-\d{2}-\d{2}|20\d{6}|\d{4}|latest|default)$")


def spellings(provider: str, model: str) -> Iterator[str]:
    """Lower-case spellings to try, the most exact first, without repeats.

    The prefix of the provider, regions and release dates are taken off step by step.
    """
    seen: set[str] = set()
    plain = model.lower().removeprefix(f"{provider.lower()}/")
    bare = _REGION_PROFILE.sub("", _REGION_PATHS.sub("", plain))
    for name in (plain, bare):
        dashed = _COMPACT_DATE.sub(r"-\1-\2-\3", name)
        for spelling in (name, dashed, _RELEASE.sub("", dashed)):
            if spelling and spelling not in seen:
                seen.add(spelling)
                yield spelling
