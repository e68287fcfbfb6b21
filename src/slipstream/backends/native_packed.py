"""Where a program's packed weights come from: the cache of an earlier start, or the model itself.

`backends.native` calls `load_weights`, then `start_writing`. What was packed is written to the
cache by a thread of its own while the program already runs; a process that ends first waits for it.
"""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from slipstream.backends.native_module import native_module
from slipstream.backends.native_weights import (
    PackedWeights,
    map_weights,
    pack_weights,
    packed_weights,
)
from slipstream.backends.packed_cache import PackedCache, default_cache, packed_key
from slipstream.backends.sparse_forms import SparseForms, SparseMode, resolved
from slipstream.formats.tensor import Tensor


@dataclass(frozen=True)
class WeightsSource:
    """How a program came to its packed weights.

    kind  "mapped" from the file at `path`; "packed" from the model and being written there;
          "packed" without a path: not kept
    """

    kind: Literal["packed", "mapped"]
    path: Path | None = None
    writer: threading.Thread | None = None

    def start_writing(self) -> None:
        """Begins to write what was packed; `load_weights` leaves it to its caller when."""
        if self.writer is not None:
            self.writer.start()

    def wait(self) -> None:
        """Returns when what was packed is in the cache, or could not be written."""
        if self.writer is not None:
            self.writer.join()


def packed_path(
    identity: str, names: Sequence[str], sparse: SparseMode = "measured"
) -> Path | None:
    """Where the packed form of these weights is, or would be; None where nothing is kept."""
    cache = default_cache()
    if cache is None:
        return None
    return cache.path(_key(identity, names, resolved(sparse)))


def load_weights(
    builder: Any,
    weights: Mapping[str, Tensor],
    names: Sequence[str],
    identity: str | None,
    sparse: SparseForms,
) -> tuple[PackedWeights, WeightsSource]:
    """The weights in the builder, mapped if they can be. `identity` None: nothing is kept.

    What was mapped has the forms that were chosen when it was packed.
    """
    cache = None if identity is None else default_cache()
    if cache is None or identity is None:
        return pack_weights(builder, weights, names, sparse), WeightsSource("packed")
    key = _key(identity, names, sparse.mode)
    mapped = _mapped(builder, cache, key, names)
    if mapped is not None:
        return mapped, WeightsSource("mapped", cache.path(key))
    packed = pack_weights(builder, weights, names, sparse)
    kept = packed_weights(builder, packed)
    writer = threading.Thread(target=cache.store, args=(key, kept), name="packed weights")
    return packed, WeightsSource("packed", cache.path(key), writer)


def _key(identity: str, names: Sequence[str], sparse: SparseMode) -> str:
    return packed_key(identity, [*names, f"sparse {sparse}"], native_module().PACKED_LAYOUT)


def _mapped(
    builder: Any, cache: PackedCache, key: str, names: Sequence[str]
) -> PackedWeights | None:
    stored = cache.load(key)
    if stored is None or [weight.name for weight in stored] != list(names):
        return None
    try:
        return map_weights(builder, stored)
    except (ValueError, TypeError):  # a header that no version of ours wrote
        return None
