"""The house has floors: a file imports from lower floors or from its own room, and nothing else."""

import ast
from pathlib import Path

import pytest

SOURCE = Path(__file__).resolve().parent.parent / "src" / "slipstream"

# As drawn in docs/architecture.md: graph stands on formats, models on checkpoint, half a floor up.
# it. So do `errors` and `machine`.
FLOORS = {
    "errors": 0,
    "svg": 0,
    "machine": 0.5,
    "formats": 1,
    "graph": 1.5,
    "checkpoint": 2,
    "models": 2.5,
    "backends": 3,
    "engine": 4,
    "serve": 5,
    "evaluate": 5,
    "bench": 5,
    "compress": 6,
    "optimize": 7,
    "deploy": 7,
    "cli": 8,
}
TORCH_ROOMS = {"backends/cuda", "compress/train"}
FILES = sorted(SOURCE.rglob("*.py"))


def room_of(path: Path) -> str:
    room = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    return "machine" if room.startswith("machine_") else room


def imports_of(path: Path) -> list[str]:
    names: list[str] = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def imported_rooms(path: Path) -> set[str]:
    ours = [name.split(".") for name in imports_of(path) if name.startswith("slipstream.")]
    return {parts[1] for parts in ours if parts[1] in FLOORS}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_imports_go_down(path: Path) -> None:
    room = room_of(path)
    if room == "__init__":
        return
    for other in imported_rooms(path) - {room}:
        assert FLOORS[other] < FLOORS[room], f"{room} (floor {FLOORS[room]}) imports {other}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(SOURCE)))
def test_only_training_and_gpus_import_torch(path: Path) -> None:
    if any(str(path.relative_to(SOURCE)).startswith(room) for room in TORCH_ROOMS):
        return
    heavy = {"torch", "transformers", "gguf", "safetensors"}
    if path.name == "gguf_write.py":  # inside a function: only who writes GGUF needs its writer
        heavy -= {"gguf"}
    assert not heavy & {name.split(".")[0] for name in imports_of(path)}


def test_every_room_has_a_floor() -> None:
    assert {room_of(path) for path in FILES} - {"__init__", "__main__", "_native"} <= set(FLOORS)


@pytest.mark.parametrize("magnet", ["utils", "common", "base", "manager", "helpers", "misc"])
def test_no_magnet_names(magnet: str) -> None:
    assert not [path for path in FILES if magnet in path.stem.split("_")]


def test_environment_is_read_on_the_ground_floor_only() -> None:
    readers = [p for p in FILES if "os.environ" in p.read_text() or "os.getenv" in p.read_text()]
    assert {room_of(path) for path in readers} <= {"machine"}
