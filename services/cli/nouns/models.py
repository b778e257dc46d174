"""`meridian models …` and `meridian credentials …`"""

from __future__ import annotations

from services.cli.command import Command, Option, Pages, Place, View
from services.cli.kinds import FIELDS, WHOLE
from services.cli.options import wanted, word
from services.cli.shapes import member, only

_PARAMS = (
    Option("--api-base", "litellm_params.api_base", "address of the provider"),
    Option(
        "--credential", "litellm_params.litellm_credential_name", "stored credential to call with"
    ),
    Option("--rpm", "litellm_params.rpm", "requests per minute of the deployment", WHOLE),
    Option("--tpm", "litellm_params.tpm", "tokens per minute of the deployment", WHOLE),
    Option(
        "--param",
        "litellm_params",
        "any other of litellm_params; @FILE reads it, for an api_key",
        FIELDS,
    ),
    Option("--mode", "model_info.mode", "what it does, such as chat or embedding"),
    Option("--info", "model_info", "any other of model_info", FIELDS),
)
_MODEL_ID = word("MODEL_ID", "model_id", "id of the deployment")
_SHOWN = (
    "name:model_name",
    "model:litellm_params.model",
    "mode:model_info.mode",
    "in:model_info.input_cost_per_token",
    "out:model_info.output_cost_per_token",
    "stored:model_info.db_model",
    "blocked:model_info.blocked",
    "id:model_info.id",
)

MODELS: tuple[Command, ...] = (
    Command(
        words=("models", "list"),
        help="list the deployments of all models",
        method="GET",
        path="/v2/model/info",
        options=(
            wanted("--model", "model", "of this model"),
            wanted("--search", "search", "by a part of name or id"),
            wanted("--team-id", "teamId", "that a team may use"),
        ),
        view=View(_SHOWN),
        pages=Pages("data", size="size"),
    ),
    Command(
        words=("models", "info"),
        also=("get",),
        help="show a deployment",
        method="GET",
        path="/v2/model/info",
        options=(word("MODEL_ID", "modelId", "id of the deployment", Place.QUERY),),
        view=View(shape=only("data", "model")),
    ),
    Command(
        words=("models", "create"),
        also=("add", "new"),
        help="add a deployment",
        method="POST",
        path="/model/new",
        options=(
            word("NAME", "model_name", "name that clients ask for"),
            Option(
                "--model",
                "litellm_params.model",
                "provider and its model, such as openai/gpt-4o",
                required=True,
            ),
            *_PARAMS,
            Option("--id", "model_info.id", "id; made up if not given"),
            Option("--team-id", "model_info.team_id", "the one team that may use it"),
        ),
        fields=True,
    ),
    Command(
        words=("models", "update"),
        help="change what is given of a deployment",
        method="PATCH",
        path="/model/{model_id}/update",
        options=(
            word("MODEL_ID", "model_id", "id of the deployment", Place.PATH),
            Option("--name", "model_name", "name that clients ask for"),
            Option("--model", "litellm_params.model", "provider and its model"),
            *_PARAMS,
        ),
        fields=True,
    ),
    Command(
        words=("models", "delete"),
        help="delete a deployment",
        method="POST",
        path="/model/delete",
        options=(word("MODEL_ID", "id", "id of the deployment"),),
    ),
    Command(
        words=("models", "block"),
        help="stop serving a deployment",
        method="POST",
        path="/model/block",
        options=(_MODEL_ID,),
    ),
    Command(
        words=("models", "unblock"),
        help="serve a deployment again",
        method="POST",
        path="/model/unblock",
        options=(_MODEL_ID,),
    ),
)

CREDENTIALS: tuple[Command, ...] = (
    Command(
        words=("credentials", "list"),
        help="list stored credentials, without their secrets",
        method="GET",
        path="/credentials",
        view=View(
            (
                "name:credential_name",
                "provider:credential_info.custom_llm_provider",
                "values:credential_values",
            ),
            member("credentials"),
        ),
    ),
)
