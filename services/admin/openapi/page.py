"""The document as a page: rendered here, without scripts and without anything from elsewhere."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256
from importlib import resources

import jinja2
from attrs import frozen
from markupsafe import Markup

from services.admin.openapi.operations import Json
from services.admin.openapi.view import groups

_POLICY = (
    "default-src 'none'; style-src 'sha256-{}'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'"
)


@frozen
class Page:
    """A page and the policy that lets a browser show it and nothing else."""

    html: str
    policy: str


def render(document: Json, root_path: str = "") -> Page:
    """The page of a document. `root_path` is SERVER_ROOT_PATH, without a slash at its end."""
    folder = resources.files("services.admin.openapi.templates")
    style = folder.joinpath("docs.css").read_text(encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    template = environment.from_string(folder.joinpath("docs.html").read_text(encoding="utf-8"))
    html = template.render(
        info=document["info"],
        groups=groups(document),
        base=root_path,
        # A file of this package, so that its quotes and arrows need no escape.
        style=Markup(style),  # noqa: S704 - nothing of a request is in it
    )
    digest = b64encode(sha256(style.encode()).digest()).decode()
    return Page(html, _POLICY.format(digest))
