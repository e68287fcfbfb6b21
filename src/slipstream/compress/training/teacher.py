"""What the original says of a text: whole distributions as training goes, or the likeliest tokens
kept on disk.

Kept sparsely, a portion of 512 tokens with 64 tokens a row takes 0.2 MB instead of 100 MB of
SmolLM2's logits, every epoch reads it again, and the teacher need not be in memory while the
student is trained.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from slipstream.checkpoint.safetensors import SafetensorsFile
from slipstream.checkpoint.safetensors_write import write_safetensors
from slipstream.compress.corpus import Corpus, Portion
from slipstream.compress.training.losses import Sparse, log_softmax
from slipstream.compress.training.network import Network, Trace, Wanted


@dataclass(frozen=True)
class Teacher:
    """Runs beside the student, without gradients."""

    network: Network

    def trace(self, portion: Portion, wanted: Wanted) -> Trace:
        """Logits and whatever else is wanted, in float32."""
        with torch.no_grad(), torch.autocast(self._device, enabled=False):
            return self.network.run(portion, wanted)

    @property
    def _device(self) -> str:
        return "cpu" if self.network.device is None else torch.device(self.network.device).type


def likeliest(logits: torch.Tensor, k: int, temperature: float) -> Sparse:
    """The k likeliest tokens of each row [L, V] at a temperature, and the rest together."""
    logs = log_softmax(logits, temperature)
    found = logs.topk(min(k, logs.shape[-1] - 1), dim=-1)
    rest = logs.scatter(-1, found.indices, -torch.inf).logsumexp(dim=-1)
    return Sparse(found.indices, found.values, rest)


class Kept:
    """A folder of sparse distributions, one file a portion."""

    def __init__(self, folder: Path, device: str | None) -> None:
        self.folder = folder
        self.device = device

    def write(self, number: int, sparse: Sparse) -> None:
        """Ids as uint32 (uint16 where they fit), logs as float16, the rest as float32."""
        ids = sparse.ids.cpu().numpy()
        narrow = np.uint16 if ids.max(initial=0) < 1 << 16 else np.uint32
        arrays = {
            "ids": ids.astype(narrow),
            "logs": sparse.logs.cpu().numpy().astype(np.float16),
            "rest": sparse.rest.cpu().numpy().astype(np.float32),
        }
        write_safetensors(self._path(number), arrays)

    def read(self, number: int) -> Sparse:
        """What `write` kept."""
        file = SafetensorsFile(self._path(number))
        ids = np.asarray(file.array("ids")).astype(np.int64)
        logs = np.asarray(file.array("logs")).astype(np.float32)
        rest = np.array(file.array("rest"))
        return Sparse(*(torch.from_numpy(part).to(self.device) for part in (ids, logs, rest)))

    def __contains__(self, number: int) -> bool:
        return self._path(number).exists()

    def _path(self, number: int) -> Path:
        return self.folder / f"portion-{number:06}.safetensors"


def keep_likeliest(
    corpus: Corpus,
    kept: Kept,
    teacher: Callable[[], Teacher],
    *,
    k: int,
    temperature: float,
    advance: Callable[[float], None],
) -> None:
    """Fills the folder for every portion; what an earlier run kept stays.

    The teacher is made only if something is missing.
    """
    kept.folder.mkdir(parents=True, exist_ok=True)
    missing = [number for number in range(len(corpus.portions)) if number not in kept]
    advance(len(corpus.portions) - len(missing))
    running = teacher() if missing else None
    for number in missing:
        assert running is not None
        logits = running.trace(corpus.portions[number], Wanted()).logits
        kept.write(number, likeliest(logits, k, temperature))
        advance(1)
