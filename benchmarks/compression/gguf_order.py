"""What `gguf.py` is asked for: its command line, read once."""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "benchmarks" / "peers"))
from environment import llama_programs  # noqa: E402

TYPES = (
    "Q2_K", "IQ4_XS", "IQ4_NL", "Q4_0", "Q3_K_M", "Q4_1", "Q4_K_S", "Q4_K_M", "Q5_K_M", "Q6_K",
    "Q8_0",
)  # fmt: skip
RECIPES = Path(__file__).parent / "recipes"


@dataclass(frozen=True)
class Order:
    """What was asked for."""

    model: Path
    train: Path
    test: Path
    chunks: int
    calibration: int
    importance: int
    served: bool
    reproduce: bool
    types: tuple[str, ...]
    recipes: tuple[Path, ...]
    programs: Path
    work: Path
    name: str


def read_order() -> Order:
    """The command line."""
    parser = argparse.ArgumentParser(description="Our recipes against GGUF, at equal file size.")
    parser.add_argument("model", type=Path)
    parser.add_argument("--train", type=Path, required=True, help="calibration text")
    parser.add_argument("--test", type=Path, required=True, help="text to measure on")
    parser.add_argument("--chunks", type=int, default=64)
    parser.add_argument("--calibration", type=int, default=64, help="chunks for our recipes")
    parser.add_argument("--importance", type=int, default=100, help="chunks for llama.cpp's matrix")
    parser.add_argument("--served", action="store_true", help="score ours with its own inputs too")
    parser.add_argument(
        "--reproduce", action="store_true", help="KL by llama.cpp's own runtime beside ours"
    )
    parser.add_argument("--types", nargs="*", default=TYPES)
    parser.add_argument("--recipes", nargs="*", help="names in recipes/; default: all")
    parser.add_argument("--programs", type=Path, help="folder of llama-quantize and llama-imatrix")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "compression")
    parser.add_argument("--name", help="of the files in results/; default: the model's")
    given = parser.parse_args()
    names = given.recipes
    recipes = (
        sorted(RECIPES.glob("*.toml")) if names is None else [RECIPES / f"{n}.toml" for n in names]
    )
    programs = given.programs or llama_programs("llama-quantize", "llama-imatrix")
    return Order(
        given.model, given.train, given.test, given.chunks, given.calibration, given.importance,
        given.served, given.reproduce, tuple(given.types), tuple(recipes), programs, given.work,
        given.name or given.model.stem,
    )  # fmt: skip
