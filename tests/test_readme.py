"""Every command of the README runs, in its order, as a newcomer would paste it.

The README is read as a script: ```sh blocks run one after another in one folder; a line that
serves runs in the background until the end. `make demo` and `make test` are CI's own steps
(running them here would never end): of them only the target's existence is checked.
"""

import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
README = ROOT / "README.md"
pytestmark = pytest.mark.slow


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README.read_text(), re.M | re.S)


def shell_lines() -> list[str]:
    text = "".join(blocks("sh")).replace("\\\n", " ")
    return [line for line in text.splitlines() if line.strip() and not line.startswith("#")]


@pytest.fixture
def workplace(tmp_path: Path) -> Iterator[dict[str, str]]:
    """A folder with an environment in which `slipstream` and `python` are the tested ones."""
    bin_folder = str(Path(sys.executable).parent)
    yield {**os.environ, "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}"}


def wait_until_listening(port: int, timeout_s: float = 60) -> None:
    end = time.monotonic() + timeout_s
    while time.monotonic() < end:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.1)
    raise TimeoutError(f"nothing listens on port {port}")


def test_the_readme_opens_with_the_two_commands() -> None:
    makes = [line.split("#")[0].strip() for line in shell_lines() if line.startswith("make ")]
    assert makes[:2] == ["make demo", "make test"]
    for command in makes:
        subprocess.run([*command.split(), "--dry-run"], cwd=ROOT, check=True, capture_output=True)


def test_every_command_of_the_readme_runs(
    tmp_path: Path, workplace: dict[str, str], smollm2_path: Path
) -> None:
    assert shutil.which("slipstream", path=workplace["PATH"]), "the package is not installed"
    servers: list[subprocess.Popen[bytes]] = []
    try:
        for line in shell_lines():
            if line.startswith(("make ", "source ", ". ")):
                continue
            if line.startswith("slipstream serve"):
                servers.append(subprocess.Popen(line.split(), cwd=tmp_path, env=workplace))
                wait_until_listening(8000)
                continue
            done = subprocess.run(
                line, shell=True, cwd=tmp_path, env=workplace, timeout=900, capture_output=True,
                text=True, stdin=subprocess.DEVNULL, executable="/bin/bash", check=False,
            )  # fmt: skip
            assert done.returncode == 0, f"{line}\n{done.stdout}\n{done.stderr}"
        for number, code in enumerate(blocks("python")):
            script = tmp_path / f"example{number}.py"
            script.write_text(code)
            subprocess.run(
                [sys.executable, script], cwd=tmp_path, env=workplace, check=True, timeout=300
            )
    finally:
        for server in servers:
            server.terminate()
            server.wait(30)
