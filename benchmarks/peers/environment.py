"""The peers' own environments, below ``build/peers``: made once, pinned, built for this machine."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Peer:
    """A package with its exact version, and how it is best built from source on this machine."""

    name: str
    requirement: str
    build: dict[str, str]


LLAMA_CPP = Peer(
    "llama-cpp",
    "llama-cpp-python==0.3.36",
    {
        "CMAKE_ARGS": "-DGGML_NATIVE=ON -DGGML_OPENMP=ON -DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF "
        "-DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TESTS=OFF "
        "-DLLAMA_BUILD_SERVER=OFF -DLLAMA_CURL=OFF",
    },
)


def python_of(peer: Peer) -> Path:
    """The interpreter of the peer's environment; makes the environment first if need be.

    Compiling llama.cpp takes five to ten minutes on two cores, once.
    """
    folder = ROOT / "build" / "peers" / peer.name
    python, ready = folder / "bin" / "python", folder / "ready"
    wanted = f"{peer.requirement} {peer.build}"
    if ready.exists() and ready.read_text() == wanted:
        return python
    print(f"building {peer.requirement} (once, several minutes)", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    package = peer.requirement.partition("==")[0]
    install = [str(python), "-m", "pip", "install", "--quiet", "--no-binary", package]
    environment = {**os.environ, **peer.build}
    subprocess.run([*install, peer.requirement], check=True, env=environment, stdout=2)
    ready.write_text(wanted)
    return python
