"""What calls that go well answer, as data for the document of the API."""

from __future__ import annotations

from attrs import frozen

from services.admin.api.body import Field

_JSON = ("application/json",)


@frozen
class Returns:
    """An answer: an object, or `many` of them in a list.

    `fields` are members that the objects have under the names that bodies give them, and that may
    be null there; they have others besides. A `nullable` answer is null where there is no such
    object. What is not JSON by its media types is text, and a
    status of 204 has no body.
    """

    fields: tuple[Field, ...] = ()
    many: bool = False
    nullable: bool = False
    status: int = 200
    media: tuple[str, ...] = _JSON


OBJECT = Returns()
LIST = Returns(many=True)
NOTHING = Returns(status=204, media=())
