"""API keys: read, hashed, compared, read again."""

import logging

import pytest

from slipstream.errors import MachineError
from slipstream.serve.keys import KeyRing
from slipstream.serve.rates import Accounts

ALICE, BATCH = "sk-alice-0123456789", "sk-batch-0123456789"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "keys"
    path.write_text(f"# ours\n\nalice:{ALICE}\n batch : {BATCH} : rpm=5, priority=9\n")
    path.chmod(0o600)
    return path


def test_each_key_has_its_name_and_limits(file):
    accounts = Accounts()
    ring = KeyRing(accounts, file=file)
    assert (ring.name_of(ALICE), ring.name_of(BATCH)) == ("alice", "batch")
    assert ring.name_of(ALICE + "x") is None and ring.name_of("") is None
    assert accounts.of("batch").limits.rpm == 5 and accounts.of("alice").limits.rpm is None
    assert not ring.open


def test_without_any_key_it_is_open():
    assert KeyRing(Accounts()).open


def test_the_environment_may_hold_them():
    ring = KeyRing(Accounts(), text=f"alice:{ALICE};batch:{BATCH}:tpm=7")
    assert ring.name_of(BATCH) == "batch"


def test_no_key_is_kept_or_shown(file):
    ring = KeyRing(Accounts(), file=file)
    assert ALICE not in repr(vars(ring)) and BATCH not in repr(vars(ring))


def test_keys_are_read_again(file):
    ring = KeyRing(Accounts(), file=file)
    file.write_text("bob:sk-bob-012345678901\n")
    ring.reload()
    assert ring.name_of("sk-bob-012345678901") == "bob" and ring.name_of(ALICE) is None


def test_a_file_with_a_mistake_changes_nothing_and_is_logged(file, caplog):
    ring = KeyRing(Accounts(), file=file)
    file.write_text(f"alice:{ALICE}\nbob\n")
    with caplog.at_level(logging.ERROR):
        ring.reload()
    assert ring.name_of(BATCH) == "batch"
    assert "line 2" in caplog.text and ALICE not in caplog.text


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("alice", "line 1"),
        ("alice:short", "16 to 512"),
        (":sk-0123456789abcdef", "name:key"),
        (f"a:{ALICE}:rpm=x", "rpm must be a whole number"),
        (f"a:{ALICE}\nb:{ALICE}", "given twice"),
        ("# nothing", "has no keys"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_without_the_key(tmp_path, text, words):
    path = tmp_path / "keys"
    path.write_text(text)
    with pytest.raises(MachineError, match=words) as caught:
        KeyRing(Accounts(), file=path)
    assert ALICE not in str(caught.value)


def test_a_file_open_to_everybody_is_warned_of(file, caplog):
    file.chmod(0o644)
    KeyRing(Accounts(), file=file)
    assert "chmod 600" in caplog.text


def test_a_missing_file_is_told(tmp_path):
    with pytest.raises(MachineError, match="cannot be read"):
        KeyRing(Accounts(), file=tmp_path / "none")
