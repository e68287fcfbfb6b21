"""What one HTTP request lets the response cache do, and what came of it.

`use_of` reads the request's Cache-Control; the reply says in X-Slipstream-Cache how it was made.
"""

from dataclasses import dataclass, field
from typing import Literal

from starlette.datastructures import MutableHeaders
from starlette.requests import Request

Outcome = Literal["hit", "shared", "miss", "bypass"]

HEADER = "X-Slipstream-Cache"
RANKS: tuple[Outcome, ...] = ("hit", "shared", "miss", "bypass")  # the last to occur is told


@dataclass
class CacheUse:
    """Permission and outcome for the answers of one HTTP request.

    read      answers may come from the cache or from a computation that has begun (not with
              ``Cache-Control: no-cache``)
    share     answers may be kept, and shared with equal requests (not with ``no-store``)
    headers   of the reply, once it has some
    """

    read: bool = True
    share: bool = True
    headers: MutableHeaders | None = None
    _outcomes: list[Outcome] = field(default_factory=list)

    def tell(self, outcome: Outcome) -> None:
        """Notes how one answer is made: from the cache, with an equal request, or by itself."""
        self._outcomes.append(outcome)
        if self.headers is not None:
            self.headers.update(self.told)

    @property
    def told(self) -> dict[str, str]:
        """The reply's header; where there are several answers, it tells the one that took most."""
        return {HEADER: max(self._outcomes, key=RANKS.index)} if self._outcomes else {}


def use_of(http: Request) -> CacheUse:
    """As the request's Cache-Control says; other directives are not about us."""
    said = http.headers.get("cache-control", "").lower()
    directives = {part.strip() for part in said.split(",")}
    if "no-store" in directives:
        return CacheUse(read=False, share=False)
    return CacheUse(read=not directives & {"no-cache", "max-age=0"})
