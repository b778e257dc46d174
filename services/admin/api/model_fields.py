"""The fields of models in request bodies (management contract §3.8).

What `litellm_params` and `model_info` hold is for the readers of the configuration file to judge;
here they are only objects that can be stored.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from services.admin.api.body import Field, Place, read_fields
from services.admin.api.refusals import Issue, Unprocessable
from services.admin.api.values import Loc, Reader, document, flag, members_of, reader, text
from shared.config.secret import MASK
from shared.domain.errors import InvalidRequest
from shared.secrets.members import paths_of
from shared.secrets.sealing import is_sealed

# What of `model_info` is the row's own and not for a request to say.
OF_THE_ROW = frozenset({"db_model", "created_at", "created_by", "updated_at", "updated_by"})


@reader(**text.schema, minLength=1)
def name(value: Any, loc: Loc) -> str:
    """A name or an id: text that is not empty."""
    given = text(value, loc)
    if not given.strip():
        path = ".".join(map(str, loc[1:]))
        raise InvalidRequest(f"{path} must not be empty", param=path)
    return given


_INFO_READERS: Mapping[str, Reader] = MappingProxyType(
    {"id": name, "team_id": name, "team_public_model_name": name, "blocked": flag}
)


@reader(**document.schema)
def members(value: Any, loc: Loc) -> dict[str, Any]:
    """An object without anything that looks like an envelope of ours."""
    given = document(value, loc)
    forged = paths_of(given, is_sealed, str(loc[-1]))
    if forged:
        raise InvalidRequest(f"{forged[0]} cannot begin like that", param=forged[0])
    return given


@reader(**members_of(**_INFO_READERS))
def info(value: Any, loc: Loc) -> dict[str, Any]:
    """`model_info` without what is the row's own."""
    given = members(value, loc)
    for each, read in _INFO_READERS.items():
        if given.get(each) is not None:
            given[each] = read(given[each], (*loc, each))
    return {key: inner for key, inner in given.items() if key not in OF_THE_ROW}


_MODEL_NAME = Field("model_name", name)
_PARAMS = Field("litellm_params", members, empty={})
_INFO = Field("model_info", info, empty={})

NEW_FIELDS = (
    Field("model_name", name, required=True),
    Field("litellm_params", members, required=True),
    _INFO,
)
UPDATE_FIELDS = (_MODEL_NAME, _PARAMS, _INFO)
PATCH_FIELDS = (*UPDATE_FIELDS, Field("blocked", flag))
DELETE_FIELDS = (Field("id", name, Place.CONTROL, required=True),)
BLOCK_FIELDS = (Field("model_id", name, Place.CONTROL, required=True),)


def read_new(body: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a new model. Raises as `read_fields` does."""
    values = read_fields(body, NEW_FIELDS)
    params = values["litellm_params"]
    if params.get("model") is None:
        loc = ("body", "litellm_params", "model")
        raise Unprocessable([Issue("missing", loc, "Field required")])
    refuse_masks(params, "litellm_params")
    return {**values, "model_info": values.get("model_info") or {}}


def refuse_masks(value: Any, path: str) -> None:
    """Raises for a mask that stands for nothing: somebody sends back what an answer has hidden."""
    masks = paths_of(value, lambda found: found == MASK, path)
    if masks:
        raise InvalidRequest(f"{masks[0]} is a mask, and no secret is stored there", param=masks[0])
