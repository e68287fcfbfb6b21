"""Writing quantized tensors in the compressed-tensors layout, so that others can load them too.

`artifact.write_artifact` calls `plan_layout` once for a model and `encode` once per tensor. What
is written is what `compressed_tensors` reads back, to the bit.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from slipstream.checkpoint.compressed_tensors_codebook import codebook_parts
from slipstream.checkpoint.compressed_tensors_scheme import (
    HEAD,
    MXFP4_GROUP,
    Layout,
    Scheme,
    is_embedding,
    write_group,
)
from slipstream.errors import UnsupportedError
from slipstream.formats.bits import pack_bits
from slipstream.formats.nibbles import unpack_nibbles
from slipstream.formats.tensor import (
    Affine,
    AffineTensor,
    Codebook,
    CodebookTensor,
    DenseTensor,
    NestedTensor,
    Quantized,
    Tensor,
)
from slipstream.graph.ops import Activations


@dataclass(frozen=True)
class LayoutPlan:
    """Where each quantized module goes. `tied` names the embedding that the head is a copy of.

    input_scales  of modules whose inputs have a fixed scale
    """

    schemes: Mapping[str, Scheme]
    config: Mapping[str, Any]
    tied: str | None = None
    input_scales: Mapping[str, float] = field(default_factory=dict)


def plan_layout(
    tensors: Mapping[str, Tensor],
    activations: Mapping[str, Activations],
    *,
    tied: bool,
    plain: bool = False,
) -> LayoutPlan | None:
    """The ``quantization_config`` for `tensors`; None if all are dense.

    Weights that `activations` does not name run on float32 inputs. With `tied`, the head shares a
    quantized embedding: it has a scheme and scales of its own, so that others tie the codes, and
    what `activations` says of the embedding's weight is meant for the head. `plain`: a byte for
    each code, for loaders that read no packed zero points or embeddings (transformers).
    """
    schemes: dict[str, Scheme] = {}
    scales: dict[str, float] = {}
    dense: list[str] = []
    embedding: str | None = None
    for name in tensors:
        tensor, module = tensors[name], name.removesuffix(".weight")
        if isinstance(tensor, Quantized):
            tensor = _writable(tensor)
            inputs = activations.get(name, Activations())
            scheme = _scheme(name, tensor.format, replace(inputs, scale=None))
            if inputs.scale is not None:
                scheme, scales[module] = replace(scheme, static=True), inputs.scale
            schemes[module] = _plain(name, scheme) if plain else scheme
            embedding = module if is_embedding(module) else embedding
        elif module != name and len(tensor.shape) == 2 and not is_embedding(module):
            dense.append(module)
    if not schemes:
        return None
    shared = embedding if tied and HEAD not in schemes else None
    if shared is not None:
        schemes[HEAD] = schemes[shared]
        scales |= {HEAD: scales[shared]} if shared in scales else {}
    if embedding is not None:  # its inputs are token ids
        schemes[embedding] = replace(schemes[embedding], activations=Activations(), static=False)
        scales.pop(embedding, None)
    if HEAD not in schemes and HEAD not in dense:
        dense.append(HEAD)
    return LayoutPlan(schemes, _config(schemes, sorted(dense)), shared, scales)


def _writable(tensor: Quantized) -> AffineTensor | CodebookTensor:
    """The tensor in one of the two kinds that are written."""
    return tensor.affine() if isinstance(tensor, NestedTensor) else tensor


def _scheme(name: str, form: Affine | Codebook, activations: Activations) -> Scheme:
    module = name.removesuffix(".weight")
    if module == name:
        raise UnsupportedError(f"{name} is quantized, but compressed-tensors only holds X.weight")
    if isinstance(form, Codebook):
        plain = form.name == "mxfp4" and form.group == MXFP4_GROUP
        if form.name == "mxfp4" and not plain:
            raise UnsupportedError(f"{name}: MXFP4 has groups of 32, not {form.group}")
        layout: Layout = "mxfp4-pack-quantized" if plain else "slipstream-codebook"
        return Scheme(form, activations, layout)
    if form.zero == "minimum":
        raise UnsupportedError(
            f"{name} has float minimums (as GGUF's Q4_1 and Q4_K), which compressed-tensors cannot "
            "hold: round it again to a symmetric or zero_point format first"
        )
    return Scheme(form, activations, _layout(module, form, activations))


def _plain(name: str, scheme: Scheme) -> Scheme:
    """The same integers, a byte each; what is packed and loads everywhere stays so."""
    if isinstance(scheme.format, Codebook) and scheme.layout == "slipstream-codebook":
        raise UnsupportedError(
            f"{name} is {scheme.format.name}, a codebook that only Slipstream reads from "
            "compressed-tensors: export to gguf, or quantize to integers"
        )
    symmetric = isinstance(scheme.format, Affine) and scheme.format.zero == "symmetric"
    keeps = scheme.layout == "mxfp4-pack-quantized" or symmetric
    if keeps and not is_embedding(name.removesuffix(".weight")):
        return scheme
    return replace(scheme, layout="int-quantized")


def _layout(module: str, form: Affine, activations: Activations) -> Layout:
    """What others can load.

    vLLM wants weight-only matrices packed. transformers (5.23) loads only plain embeddings, and no
    packed zero points: those are avoided for 8 bits, for 4 they would cost twice the size. So it
    loads embeddings of 8 bits; smaller ones are packed, since they are chosen for their size.
    """
    if is_embedding(module):
        return "int-quantized" if form.bits == 8 else "pack-quantized"
    plain = form.bits == 8 and (activations.bits == 8 or form.zero == "zero_point")
    return "int-quantized" if plain else "pack-quantized"


def _config(schemes: Mapping[str, Scheme], ignore: list[str]) -> dict[str, Any]:
    """The commonest scheme of linears is everybody's; the others name their modules."""
    members: defaultdict[Scheme, list[str]] = defaultdict(list)
    for module, scheme in sorted(schemes.items()):
        members[scheme].append(module)
    ordered = sorted(members.items(), key=lambda item: (-len(item[1]), item[1]))
    groups = {}
    for index, (scheme, modules) in enumerate(reversed(ordered)):
        last = index == len(ordered) - 1
        named = [one for one in modules if not last or is_embedding(one) or one == HEAD]
        targets = [*named, "Linear"] if last else named
        groups[f"group_{index}"] = write_group(scheme, targets)
    layouts = {scheme.layout for scheme in members}
    return {
        "quant_method": "compressed-tensors",
        "format": layouts.pop() if len(layouts) == 1 else "mixed-precision",
        "quantization_status": "compressed",
        "config_groups": groups,
        "ignore": ignore,
        "kv_cache_scheme": None,
        "global_compression_ratio": None,
    }


def encode(name: str, tensor: Tensor, plan: LayoutPlan | None) -> dict[str, NDArray]:
    """The arrays that stand for one tensor, the tied head's copies among them."""
    if isinstance(tensor, DenseTensor):
        return {name: tensor.data}
    assert plan is not None, "a quantized tensor needs a plan"
    module = name.removesuffix(".weight")
    arrays = _parts(_writable(tensor), plan.schemes[module].layout)
    named = {f"{module}.{part}": array for part, array in arrays.items()}
    if module == plan.tied and "weight" in arrays:  # packed, nobody else ties them
        named |= {f"{HEAD}.{part}": array for part, array in arrays.items() if part != "weight"}
    for fed in (module, HEAD) if module == plan.tied else (module,):
        if fed in plan.input_scales:
            named[f"{fed}.input_scale"] = np.array([plan.input_scales[fed]], np.float32)
    return named


def _parts(tensor: AffineTensor | CodebookTensor, layout: Layout | None) -> dict[str, NDArray]:
    if isinstance(tensor, CodebookTensor):
        return codebook_parts(tensor)
    rows, width = tensor.shape
    form, bits = tensor.format, tensor.format.bits
    parts: dict[str, NDArray] = {"weight_scale": tensor.scales}
    if layout == "int-quantized":
        parts["weight"] = _signed(tensor.codes, form)
        if tensor.offsets is not None:
            zeros = tensor.offsets.view(np.int8)
            parts["weight_zero_point"] = zeros - np.int8(1 << bits - 1) if form.nibbles else zeros
        return parts
    parts["weight_packed"] = _words(_packed(tensor.codes, form))
    parts["weight_shape"] = np.array([rows, width], np.int64)
    if tensor.offsets is not None:
        unsigned: NDArray[np.uint8] = tensor.offsets.view(np.uint8)
        if not form.nibbles:
            unsigned = unsigned + np.uint8(1 << bits - 1)
        words = pack_words(unsigned.T, bits)
        parts["weight_zero_point"] = np.ascontiguousarray(words.T)
    return parts


def _packed(codes: NDArray, form: Affine) -> NDArray[np.uint8]:
    """Codes counted from the lowest, without gaps: those of 4 bits are so already."""
    data: NDArray[np.uint8] = codes.view(np.uint8)
    if form.bits == 4:
        return data
    if form.bits == 8:
        return np.bitwise_xor(data, np.uint8(0x80))
    single = unpack_nibbles(data) if form.nibbles else data
    return pack_bits(single - np.uint8(form.code_range[0] % 256), form.bits)


def _signed(codes: NDArray, form: Affine) -> NDArray[np.int8]:
    """One int8 per code, as compressed-tensors counts them (4 bits: -8…7)."""
    if not form.nibbles:
        return codes
    lowest = form.code_range[0] + (1 << form.bits - 1)
    return unpack_nibbles(codes).view(np.int8) - np.int8(lowest)


def pack_words(values: NDArray[np.uint8], bits: int) -> NDArray[np.int32]:
    """uint8 [R, N] of `bits` each → int32 [R, ⌈N·bits/32⌉], low bits first, padded with zeros."""
    return _words(pack_bits(values, bits))


def _words(data: NDArray[np.uint8]) -> NDArray[np.int32]:
    """Bytes as little-endian words, each row padded to whole ones."""
    padded = np.pad(data, ((0, 0), (0, -data.shape[1] % 4))) if data.shape[1] % 4 else data
    return np.ascontiguousarray(padded).view("<i4")
