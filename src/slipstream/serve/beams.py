"""Beam search for a server's requests: `answering.completions` hands them over.

Its steps run beside everybody else's requests; nothing is streamed, since the best beam is known
at the end only.
"""

from collections.abc import Sequence

from slipstream.engine.answer import Completion
from slipstream.engine.beam import search_on
from slipstream.engine.request import Request
from slipstream.serve.served import Served


async def beam_completions(served: Served, requests: Sequence[Request]) -> list[Completion]:
    """The `n` best beams of each prompt; of siblings, the leader is the one that asks."""
    leaders = [request for request in requests if request.leader is None]
    found: list[Completion] = []
    with served.admission.places(leaders):
        for leader in leaders:
            best = await search_on(served.service, leader)
            served.admission.spend(leader, sum(len(beam.ids) for beam in best))
            found += best
    return found
