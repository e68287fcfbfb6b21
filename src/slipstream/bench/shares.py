"""What share of the machine a measured speed reaches: held against the ceilings, step by step."""

from collections.abc import Mapping

from slipstream.bench.workload import Workload
from slipstream.formats.kv import KVType
from slipstream.graph.cost import Cost, StepShape, Stored, compute_s, step_cost
from slipstream.graph.graph import Graph
from slipstream.machine import Ceilings


def decode_cost(
    graph: Graph, weights: Mapping[str, Stored], workload: Workload, kv: KVType = "bfloat16"
) -> Cost:
    """One decode step halfway through the workload, all streams together."""
    context = workload.depth + workload.decode_tokens // 2
    streams = workload.streams
    return step_cost(graph, weights, StepShape((1,) * streams, (context,) * streams, kv))


def prefill_cost(
    graph: Graph, weights: Mapping[str, Stored], workload: Workload, kv: KVType = "bfloat16"
) -> Cost:
    """The whole prompt in one step."""
    return step_cost(graph, weights, StepShape((workload.prompt_tokens,), (0,), kv))


def bandwidth_share(cost: Cost, step_s: float, ceilings: Ceilings) -> float:
    """Weights and keys read per second, as a share of what all threads read from memory."""
    return (cost.bytes_weights + cost.bytes_kv) / step_s / ceilings.dram.median


def compute_share(cost: Cost, step_s: float, ceilings: Ceilings) -> float:
    """The seconds that the arithmetic alone takes at its ceilings, as a share of the step."""
    return compute_s(cost, ceilings) / step_s
