"""The real model, loaded and unloaded beside itself: same answers, and its memory goes back."""

import pytest
from live_server import run_async

from slipstream.engine.options import EngineOptions
from slipstream.engine.request import SamplingParams
from slipstream.serve.admission import AdmissionLimits
from slipstream.serve.answering import completions
from slipstream.serve.caller import Caller
from slipstream.serve.catalog import Catalog, Served
from slipstream.serve.leases import exchange
from slipstream.serve.loader import Loader, open_model

GREEDY = SamplingParams(max_tokens=8, ignore_eos=True)


def resident_bytes():
    with open("/proc/self/status") as status:
        fields = dict(line.split(":", 1) for line in status)
    return int(fields["VmRSS"].split()[0]) * 1024


async def ask(catalog, name):
    with exchange():
        one = catalog.choose(name)
        requests = await one.requests(["The sea is"], GREEDY, Caller())
        return (await completions(one, requests))[0].text


@pytest.mark.slow
@run_async
async def test_versions_of_smollm2_come_and_go_without_a_trace(smollm2_path):
    options = EngineOptions(max_batch=4, context=512)
    opened = open_model(str(smollm2_path), options)
    first = Served("smol", opened.engine, AdmissionLimits(), content=opened.content)
    del opened
    catalog = Catalog([first], loader=Loader(options))
    del first
    catalog.start()
    text = await ask(catalog, "smol")
    alone = []
    for version in ("2", "3", "4"):
        await catalog.load("smol", str(smollm2_path), version, default=True)
        assert await ask(catalog, "smol") == await ask(catalog, f"smol:{version}") == text
        both = resident_bytes()
        await catalog.unload("smol", str(int(version) - 1))
        alone.append(resident_bytes())
        assert both - alone[-1] > 50e6  # weights and KV pages of about 100 MB
    assert alone[-1] - alone[0] < 30e6
    await catalog.stop()
