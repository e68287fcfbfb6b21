"""Codebook matrices in the compressed-tensors layout: how they are read and written.

    mxfp4-pack-quantized   X.weight_packed uint8 [O, I / 2] · X.weight_scale uint8 [O, G]
    slipstream-codebook    the same, scales float16 or float32: NF4 and IQ4_NL, which only we read

The low nibble is the even input in both, and the scales of MXFP4 are OCP's exponents. What
`codebook_parts` writes, `read_codebook` gives back to the bit.
"""

import numpy as np
from numpy.typing import NDArray

from slipstream.checkpoint.foreign import Module
from slipstream.formats.codebook import Codebook, CodebookTensor
from slipstream.formats.scales import wide_scales


def codebook_parts(tensor: CodebookTensor) -> dict[str, NDArray]:
    """The arrays of one matrix by the ends of their names; nested scales become float32."""
    scales = tensor.scales
    if tensor.supers is not None:
        scales = wide_scales(scales, tensor.supers)
    return {"weight_packed": tensor.codes, "weight_scale": scales}


def read_codebook(module: Module, form: Codebook) -> CodebookTensor:
    """The tensor of a module; FileFormatError where its parts disagree."""
    codes = module.array("weight_packed", np.uint8, dimensions=2)
    rows, width = codes.shape[0], codes.shape[1] * 2
    group = form.group or width
    if not width or width % group:
        raise module.damaged(f"{width} inputs are no whole number of groups of {group}")
    if form.name == "mxfp4":
        scales = module.array("weight_scale", np.uint8, dimensions=2)
        if (scales == 255).any():
            raise module.damaged("its scales hold NaN")
    else:
        scales = module.scales("weight_scale", (rows, width // group))
    if scales.shape != (rows, width // group):
        raise module.damaged(f"its scales are of shape {scales.shape}")
    return CodebookTensor(form, codes, scales)
