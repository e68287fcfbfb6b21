"""Lists in pages, as OpenAI's API gives them: limit, after, has_more."""

from collections.abc import Collection, Mapping, Sequence

from starlette.requests import Request

from slipstream.errors import RequestError
from slipstream.serve.replies import Json


def query_of(http: Request, known: Collection[str]) -> Mapping[str, str]:
    """The parameters of a query; one that is not known is refused, not ignored."""
    for name in http.query_params:
        if name not in known:
            raise RequestError(f"Unrecognized query parameter: {name[:60]}")
    return http.query_params


def page_of(cards: Sequence[Json], query: Mapping[str, str], usual: int, most: int) -> Json:
    """The page that `limit` and `after` (an id) ask for."""
    text = query.get("limit", str(usual))
    if not text.isascii() or not text.isdecimal() or not 1 <= int(text[:9]) <= most:
        raise RequestError(f"limit must be in 1…{most}")
    start = 0
    if "after" in query:
        ids = [card["id"] for card in cards]
        if query["after"] not in ids:
            raise RequestError("after must be the id of something in the list")
        start = ids.index(query["after"]) + 1
    page = list(cards[start : start + int(text)])
    return {
        "object": "list",
        "data": page,
        "first_id": page[0]["id"] if page else None,
        "last_id": page[-1]["id"] if page else None,
        "has_more": start + len(page) < len(cards),
    }
