"""Who may manage a server: whoever has the admin key, or the API key of the account ``admin``.

`routes/admin` asks. With neither set there is no administration over HTTP at all.
"""

import hmac
import secrets
from pathlib import Path

from starlette.requests import Request

from slipstream.errors import MachineError
from slipstream.serve.keys import KEY_LENGTH_MIN, KeyRing
from slipstream.serve.refusal import Forbidden, Unauthorized

ACCOUNT = "admin"


class AdminKey:
    """One key, kept as a hash. MachineError when it is too short to be one."""

    def __init__(self, key: str) -> None:
        if len(key) < KEY_LENGTH_MIN:
            raise MachineError(f"the admin key must have at least {KEY_LENGTH_MIN} characters")
        self._secret = secrets.token_bytes(32)
        self._digest = self._hashed(key)

    @classmethod
    def read(cls, file: Path) -> "AdminKey":
        """The key in a file, without the space around it."""
        try:
            return cls(file.read_text("utf-8").strip())
        except (OSError, UnicodeDecodeError) as error:
            raise MachineError(f"the admin key in {file} cannot be read: {error}") from error

    def opens(self, key: str) -> bool:
        """Whether it is this one; takes as long for any."""
        return hmac.compare_digest(self._hashed(key), self._digest)

    def _hashed(self, key: str) -> bytes:
        return hmac.digest(self._secret, key.encode(errors="replace"), "sha256")


def check_admin(http: Request, keyring: KeyRing, admin_key: AdminKey | None) -> None:
    """Forbidden or Unauthorized unless the request has a key that may manage this server."""
    if admin_key is None and not keyring.has(ACCOUNT):
        raise Forbidden(
            "this server is not managed over HTTP: start it with --admin-key-file, or give an API "
            f"key to the account '{ACCOUNT}'"
        )
    kind, _, key = http.headers.get("authorization", "").partition(" ")
    key = key.strip() if kind.lower() == "bearer" else http.headers.get("x-api-key", "")
    if not key:
        raise Unauthorized("managing this server needs its admin key: Authorization: Bearer KEY")
    if keyring.name_of(key) != ACCOUNT and not (admin_key is not None and admin_key.opens(key)):
        raise Unauthorized("this key may not manage the server")
