"""What `slipstream inspect` says of packed weights: whether the next start can map them.

Every byte of the file is compared with its checksum here; a start looks at the ends of each matrix.
"""

from dataclasses import dataclass
from typing import Literal

from slipstream.backends.native_packed import packed_path
from slipstream.backends.packed_file import PackedFileError, check_all
from slipstream.models.model import Model

State = Literal["kept", "absent", "damaged", "off"]


@dataclass(frozen=True)
class Packed:
    """The file of a model's packed weights."""

    state: State
    path: str = ""
    size_bytes: int = 0

    def __str__(self) -> str:
        match self.state:
            case "kept":
                return f"{self.path} ({self.size_bytes / 1e6:.1f} MB, every byte verified)"
            case "absent":
                return f"not kept yet; the first start writes {self.path}"
            case "damaged":
                return f"{self.path} is damaged; the next start writes it again"
            case "off":
                return "not kept (SLIPSTREAM_PACKED_MB is 0, or the weights are in no file)"


def packed_of(model: Model) -> Packed:
    """Looks for the file, and verifies it."""
    identity = model.quick_identity()
    path = None if identity is None else packed_path(identity, model.graph.weight_names())
    if path is None:
        return Packed("off")
    try:
        check_all(path)
        return Packed("kept", str(path), path.stat().st_size)
    except PackedFileError:
        return Packed("damaged", str(path))
    except OSError:
        return Packed("absent", str(path))
