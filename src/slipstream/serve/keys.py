"""API keys: who is who. Read from a file or the environment, kept only as hashes, never logged.

    # name : key : limits of `rates.AccountLimits` (optional)
    alice:sk-9f3c…
    batch:sk-77aa…:rpm=60,tpm=200000,concurrent=4,priority=100

The middleware asks `KeyRing.name_of`; SIGHUP calls `reload`.
"""

import hmac
import logging
import secrets
from pathlib import Path

from slipstream.errors import MachineError, RequestError
from slipstream.serve.rates import AccountLimits, Accounts

log = logging.getLogger("slipstream.serve")

KEY_LENGTH_MIN = 16
KEY_LENGTH_MAX = 512


class KeyRing:
    """The keys that open a server; with none at all it is open to everybody, as account ""."""

    def __init__(self, accounts: Accounts, *, file: Path | None = None, text: str = "") -> None:
        self._accounts = accounts
        self._file = file
        self._text = text
        self._secret = secrets.token_bytes(32)  # hashes are worth nothing outside this process
        self._digests: tuple[tuple[bytes, str], ...] = ()
        self._load()

    @property
    def open(self) -> bool:
        """Whether no key is needed."""
        return not self._digests

    def name_of(self, key: str) -> str | None:
        """The account of a key, or None. Takes as long whichever key it is, known or not."""
        asked = self._digest(key[: KEY_LENGTH_MAX + 1])
        found = None
        for digest, name in self._digests:
            if hmac.compare_digest(asked, digest):
                found = name
        return found

    def has(self, name: str) -> bool:
        """Whether an account has a key."""
        return any(name == other for _, other in self._digests)

    def reload(self) -> None:
        """Reads the file again; a file with a mistake changes nothing and is logged."""
        try:
            self._load()
        except MachineError as error:
            log.error("the API keys stay as they were: %s", error)
        else:
            log.info("%d API keys are in force", len(self._digests))

    def _load(self) -> None:
        lines = _lines(self._text.replace(";", "\n"), "SLIPSTREAM_API_KEYS")
        if self._file is not None:
            lines += _lines(_read(self._file), str(self._file))
            if not lines:
                raise MachineError(f"{self._file} has no keys: a server without any is open to all")
        names = [name for name, _, _ in lines]
        if len({key for _, key, _ in lines}) < len(lines):
            raise MachineError(f"one API key is given twice (to one of {', '.join(names)})")
        for name, _, limits in lines:
            self._accounts.limit(name, limits)
        self._digests = tuple((self._digest(key), name) for name, key, _ in lines)

    def _digest(self, key: str) -> bytes:
        return hmac.digest(self._secret, key.encode(errors="replace"), "sha256")


def _read(file: Path) -> str:
    try:
        if file.stat().st_mode & 0o007:
            log.warning("%s can be read by everybody on this machine; chmod 600 it", file)
        return file.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MachineError(f"the API keys in {file} cannot be read: {error}") from error


def _lines(text: str, source: str) -> list[tuple[str, str, AccountLimits | None]]:
    """(name, key, limits) of each line; a mistake is told by its line, without the key."""
    found = []
    for number, line in enumerate(map(str.strip, text.splitlines()), 1):
        if not line or line.startswith("#"):
            continue
        name, _, rest = line.partition(":")
        key, _, limits = rest.partition(":")
        where = f"{source}, line {number}"
        if not name.strip() or not KEY_LENGTH_MIN <= len(key.strip()) <= KEY_LENGTH_MAX:
            raise MachineError(
                f"{where}: write name:key or name:key:limits, "
                f"the key {KEY_LENGTH_MIN} to {KEY_LENGTH_MAX} characters long"
            )
        try:
            parsed = AccountLimits.parse(limits) if limits.strip() else None
        except RequestError as error:
            raise MachineError(f"{where}: {error}") from error
        found.append((name.strip(), key.strip(), parsed))
    return found
