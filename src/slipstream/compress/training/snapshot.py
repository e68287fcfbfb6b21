"""Everything that a training needs to go on as if it had never stopped, in one file.

Parameters, the optimizer's moments, torch's random state and what was measured so far; the data's
position follows from the number of updates. Written whole or not at all.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from slipstream.checkpoint.safetensors import SafetensorsFile
from slipstream.checkpoint.safetensors_write import write_safetensors

Moments = ("exp_avg", "exp_avg_sq")


@dataclass
class Progress:
    """How far it is: updates done, and the measurements on held-out text, as plain data."""

    updates: int = 0
    curve: list[dict[str, float]] = field(default_factory=list)


def save_snapshot(
    path: Path,
    parameters: dict[str, torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    progress: Progress,
) -> None:
    """Replaces the file at `path`."""
    arrays: dict[str, np.ndarray] = {"random": torch.get_rng_state().numpy()}
    for name, value in parameters.items():
        arrays[f"value|{name}"] = value.detach().cpu().numpy()
        state = optimizer.state.get(value, {})
        arrays.update({f"{m}|{name}": state[m].cpu().numpy() for m in Moments if m in state})
    facts = {"updates": progress.updates, "curve": progress.curve}
    write_safetensors(path, arrays, {"progress": json.dumps(facts)})


def load_snapshot(
    path: Path, parameters: dict[str, torch.nn.Parameter], optimizer: torch.optim.Optimizer
) -> Progress:
    """Puts back what `save_snapshot` kept; a fresh start where there is none."""
    if not path.exists():
        return Progress()
    file = SafetensorsFile(path)
    facts: dict[str, Any] = json.loads(file.metadata["progress"])
    stored = set(file.names())
    with torch.no_grad():
        for name, value in parameters.items():
            value.copy_(_tensor(file, f"value|{name}"))
            if f"{Moments[0]}|{name}" in stored:
                moments = {m: _tensor(file, f"{m}|{name}").to(value.device) for m in Moments}
                step = torch.tensor(float(facts["updates"]), device=_step_device(value))
                optimizer.state[value] = {"step": step, **moments}
    torch.set_rng_state(_tensor(file, "random"))
    return Progress(int(facts["updates"]), list(facts["curve"]))


def _step_device(value: torch.Tensor) -> torch.device:
    """Where fused AdamW keeps its count."""
    return value.device


def _tensor(file: SafetensorsFile, name: str) -> torch.Tensor:
    return torch.from_numpy(np.array(file.array(name)))
