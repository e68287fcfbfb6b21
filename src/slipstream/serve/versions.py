"""The versions of one model that requests may be sent to: which is the default, which the canary.

Pure bookkeeping for the catalog: it knows nothing of engines, and decides who answers.
"""

from collections.abc import Iterator
from typing import Generic, TypeVar

from slipstream.errors import RequestError
from slipstream.serve.canary import Canary

One = TypeVar("One")


class Conflict(RequestError):
    """What is asked does not go together with what there is now."""

    http_status = 409


class Versions(Generic[One]):
    """What there is by version, never empty; the first one is the default until another is set."""

    def __init__(self, name: str, version: str, one: One) -> None:
        self.name = name
        self.default = version
        self.canary: Canary | None = None
        self._ones = {version: one}

    def __iter__(self) -> Iterator[One]:
        return iter(self._ones.values())

    def __len__(self) -> int:
        return len(self._ones)

    def __contains__(self, version: str) -> bool:
        return version in self._ones

    def __getitem__(self, version: str) -> One:
        return self._ones[version]

    def add(self, version: str, one: One) -> None:
        """One more version; it gets requests when they name it, or once it is default or canary."""
        assert version not in self._ones
        self._ones[version] = one

    def remove(self, version: str) -> One:
        """Takes a version out. Conflict: it is the default, and there are others to be that."""
        if version == self.default and len(self._ones) > 1:
            others = ", ".join(repr(other) for other in self._ones if other != version)
            raise Conflict(
                f"version '{version}' is the default of '{self.name}'; "
                f"make another one the default first: {others}"
            )
        if self.canary is not None and self.canary.version == version:
            self.canary = None
        return self._ones.pop(version)

    def set_default(self, version: str) -> None:
        """Requests that name no version go to this one from now on; a canary of it is done."""
        self._check(version)
        self.default = version
        if self.canary is not None and self.canary.version == version:
            self.canary = None

    def set_canary(self, canary: Canary | None) -> None:
        """A share of those requests goes to the canary from now on; None: to the default alone."""
        if canary is not None:
            self._check(canary.version)
            if canary.version == self.default:
                raise Conflict(f"version '{self.default}' is the default already, no canary")
        self.canary = canary

    def pick(self, who: str) -> One:
        """Who answers a request that names no version."""
        canary = self.canary
        if canary is not None and canary.takes(self.name, who):
            return self._ones[canary.version]
        return self._ones[self.default]

    def check(self) -> None:
        """Asserts that default and canary are there."""
        assert self.default in self._ones
        assert self.canary is None or self.canary.version in self._ones
        assert self.canary is None or self.canary.version != self.default

    def _check(self, version: str) -> None:
        if version not in self._ones:
            have = ", ".join(repr(other) for other in self._ones)
            raise RequestError(f"'{self.name}' has no version '{version}' that is ready: {have}")
