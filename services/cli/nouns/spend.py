"""`meridian spend …`"""

from __future__ import annotations

from services.cli.activity import BREAKDOWNS, breakdown, by_day, in_all
from services.cli.command import Command, Option, Pages, Place, View
from services.cli.kinds import AMOUNT, DAY, FROM_SECOND, JSON_FILE, KEY, PROMPT, TO_SECOND, Kind
from services.cli.options import ORDER, wanted

_DAYS = (
    Option("--start-date", "start_date", "first day", DAY, Place.QUERY, default="29d"),
    Option("--end-date", "end_date", "last day, included", DAY, Place.QUERY, default="0d"),
)
_BY = Option(
    "--by",
    "by",
    f"what to split it by: {', '.join(BREAKDOWNS)}",
    Kind("WHAT", breakdown),
    Place.PATH,
    default="nothing",
)
_NARROWED = (
    wanted("--model", "model", "of this model"),
    wanted("--key-hash", "api_key", "of this key", KEY),
)
_PAGES = Pages("results", largest=1000, always=True)
_METRICS = ("spend", "requests", "failed", "tokens", "prompt", "completion")

SPEND: tuple[Command, ...] = (
    Command(
        words=("spend", "logs"),
        help="list calls, newest first",
        method="GET",
        path="/spend/logs/v2",
        options=(
            Option(
                "--start-date", "start_date", "from (UTC)", FROM_SECOND, Place.QUERY, default="7d"
            ),
            Option("--end-date", "end_date", "to (UTC)", TO_SECOND, Place.QUERY, default="0d"),
            wanted("--key-hash", "api_key", "of this key", KEY),
            wanted("--key-alias", "key_alias", "of the key with this alias"),
            wanted("--user-id", "user_id", "of a user"),
            wanted("--team-id", "team_id", "of a team"),
            wanted("--end-user", "end_user", "of an end user"),
            wanted("--model", "model", "of this model"),
            wanted("--request-id", "request_id", "this one"),
            wanted("--session-id", "session_id", "of a session"),
            wanted(
                "--status", "status_filter", "that ended like this", choices=("success", "failure")
            ),
            wanted("--min-spend", "min_spend", "that cost as much", AMOUNT),
            wanted("--max-spend", "max_spend", "that cost no more", AMOUNT),
            wanted("--search", "search", "by a part of what names it"),
            wanted("--sort-by", "sort_by", "column to sort by"),
            wanted("--sort-order", "sort_order", "direction", choices=ORDER),
        ),
        view=View(
            (
                "time:startTime",
                "status",
                "model",
                "spend",
                "tokens:total_tokens",
                "ms:request_duration_ms",
                "alias:metadata.user_api_key_alias",
                "user",
                "team:team_id",
                "request_id",
            )
        ),
        pages=Pages("data", largest=1000),
    ),
    Command(
        words=("spend", "report"),
        help="sums of a time, split by user, team, model, …",
        method="GET",
        path="/{by}/daily/activity",
        options=(_BY, *_DAYS, *_NARROWED),
        view=View(("name", *_METRICS, "id"), in_all),
        pages=_PAGES,
    ),
    Command(
        words=("spend", "activity"),
        help="sums of each day, split by user, team, model, …",
        method="GET",
        path="/{by}/daily/activity",
        options=(_BY, *_DAYS, *_NARROWED),
        view=View(("date", "name", *_METRICS, "id"), by_day),
        pages=_PAGES,
    ),
    Command(
        words=("spend", "keys"),
        help="keys by what they have spent",
        method="GET",
        path="/spend/keys",
        view=View(
            (
                "alias:key_alias",
                "key:key_name",
                "spend",
                "user:user_id",
                "team:team_id",
                "hash:token",
            )
        ),
    ),
    Command(
        words=("spend", "users"),
        help="users by what they have spent",
        method="GET",
        path="/spend/users",
        options=(wanted("--user-id", "user_id", "this one"),),
        view=View(("user_id", "email:user_email", "spend", "max_budget")),
    ),
    Command(
        words=("spend", "tags"),
        help="tags by what was spent with them",
        method="GET",
        path="/spend/tags",
        options=(
            wanted("--start-date", "start_date", "first day", DAY),
            wanted("--end-date", "end_date", "last day", DAY),
        ),
        view=View(("tag:individual_request_tag", "spend:total_spend", "calls:log_count")),
    ),
    Command(
        words=("spend", "calculate"),
        help="what a call costs",
        method="POST",
        path="/spend/calculate",
        options=(
            Option("--model", "model", "the model"),
            Option("--prompt", "messages", "text of a call", PROMPT),
            Option("--response", "completion_response", "a call's answer", JSON_FILE),
        ),
    ),
)
