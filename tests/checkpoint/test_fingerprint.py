"""The quick identity: equal for the same files, another for changed ones."""

import os
import shutil

import pytest

from slipstream.checkpoint.artifact import MANIFEST
from slipstream.checkpoint.fingerprint import SAMPLE_BYTES, quick_identity


class Files:
    """What a fingerprint sees of a checkpoint."""

    def __init__(self, path, *names):
        self.path = path
        self._names = names

    def files(self):
        return [self.path / name for name in self._names]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "model.safetensors").write_bytes(bytes(range(256)) * 4096)
    (tmp_path / "one" / "config.json").write_text("{}")
    return tmp_path / "one"


def identity(folder):
    return quick_identity(Files(folder, "model.safetensors", "config.json"))


def test_the_same_files_have_the_same_identity(folder):
    assert identity(folder) == identity(folder)


def test_an_empty_file_has_an_identity(folder):
    (folder / "config.json").write_text("")
    assert len(identity(folder)) == 64


@pytest.mark.parametrize("place", [0, 4096 * 256 - 1, 4096 * 128 + SAMPLE_BYTES])
def test_a_change_in_place_is_seen_by_its_time_wherever_it_is(folder, place):
    before = identity(folder)
    with open(folder / "model.safetensors", "r+b") as file:
        file.seek(place)
        file.write(b"?")
    os.utime(folder / "model.safetensors", (1, 1))
    assert identity(folder) != before


@pytest.mark.parametrize("place", [0, 4096 * 256 - 1])
def test_a_change_at_an_end_is_seen_though_the_time_is_set_back(folder, place):
    path = folder / "model.safetensors"
    times = path.stat()
    before = identity(folder)
    with open(path, "r+b") as file:
        file.seek(place)
        file.write(b"?")
    os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert identity(folder) != before


def test_a_copy_of_plain_files_is_another_model_and_one_of_an_artifact_is_not(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "plain copy", copy_function=shutil.copy2)
    assert identity(tmp_path / "plain copy") != identity(folder)
    (folder / MANIFEST).write_text('{"schema": 1}')
    shutil.copytree(folder, tmp_path / "copy")
    assert identity(tmp_path / "copy") == identity(folder)
    (tmp_path / "copy" / MANIFEST).write_text('{"schema": 1, "files": {}}')
    assert identity(tmp_path / "copy") != identity(folder)
