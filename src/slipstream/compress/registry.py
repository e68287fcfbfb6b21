"""Every method by its name in a recipe: the one list of what a pass can be."""

from typing import Any

from slipstream.compress.passes.awq import Awq
from slipstream.compress.passes.codebook import ToCodebook
from slipstream.compress.passes.distill import Distill
from slipstream.compress.passes.drop_blocks import DropBlocks
from slipstream.compress.passes.drop_inputs import DropHeads, DropNeurons
from slipstream.compress.passes.drop_width import DropWidth
from slipstream.compress.passes.kv_cache import KVCache
from slipstream.compress.passes.low_rank import LowRank
from slipstream.compress.passes.mixed import Mixed
from slipstream.compress.passes.pruners import Magnitude, SparseGpt, Wanda
from slipstream.compress.passes.qat import Qat
from slipstream.compress.passes.quantizers import Gptq, Hqq, Imatrix, Rtn
from slipstream.compress.passes.rotate import Rotate
from slipstream.compress.passes.share_layers import ShareLayers
from slipstream.compress.passes.signround import SignRound
from slipstream.compress.passes.smoothquant import SmoothQuant
from slipstream.compress.passes.static_inputs import StaticInputs
from slipstream.compress.passes.student import Student

METHODS: dict[str, type[Any]] = {
    "rtn": Rtn,
    "gptq": Gptq,
    "awq": Awq,
    "hqq": Hqq,
    "imatrix": Imatrix,
    "codebook": ToCodebook,
    "mixed": Mixed,
    "signround": SignRound,
    "smoothquant": SmoothQuant,
    "rotate": Rotate,
    "magnitude": Magnitude,
    "wanda": Wanda,
    "sparsegpt": SparseGpt,
    "drop_blocks": DropBlocks,
    "drop_heads": DropHeads,
    "drop_neurons": DropNeurons,
    "drop_width": DropWidth,
    "low_rank": LowRank,
    "kv_cache": KVCache,
    "static_inputs": StaticInputs,
    "share_layers": ShareLayers,
    "student": Student,
    "distill": Distill,
    "qat": Qat,
}
QUANTIZERS = ("rtn", "gptq", "awq", "hqq", "imatrix", "signround")
PRUNERS = ("magnitude", "wanda", "sparsegpt")
TRAINERS = ("distill", "qat")  # they need a text to train on, and torch
