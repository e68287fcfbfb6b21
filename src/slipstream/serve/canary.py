"""A canary: a version that gets a share of a model's requests, to see how it does.

Who gets it is decided by a hash: the same caller always meets the same version, and raising the
share only moves callers over to the canary, never back and forth.
"""

import hashlib
from dataclasses import dataclass

from slipstream.errors import RequestError


@dataclass(frozen=True)
class Canary:
    """`percent` (0…100) of the callers of a model are answered by `version`."""

    version: str
    percent: float

    def __post_init__(self) -> None:
        if not 0 <= self.percent <= 100:
            raise RequestError(f"percent must be in 0…100, not {self.percent}")

    def takes(self, model: str, who: str) -> bool:
        """Whether the caller `who` (an account, a user, or the id of one request) gets it."""
        text = f"{model}\0{self.version}\0{who}".encode()
        place = int.from_bytes(hashlib.blake2b(text, digest_size=8).digest()) / 2**64
        return place * 100 < self.percent
