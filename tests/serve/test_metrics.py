"""The exposition and the dashboard: every query has its metric, every family its name once."""

import json
import re
from pathlib import Path

import httpx
import pytest
from fakes import FakeProgram, fake_engine, parrot
from live_server import live
from prometheus_client.parser import text_string_to_metric_families

from slipstream.serve.admission import AdmissionLimits
from slipstream.serve.app import make_server_app
from slipstream.serve.catalog import Catalog, Served
from slipstream.serve.server import Server

DASHBOARD = Path(__file__).parents[2] / "deploy/grafana/slipstream.json"
VLLM = (  # what a dashboard made for vLLM asks for
    "num_requests_running num_requests_waiting kv_cache_usage_perc num_preemptions prompt_tokens "
    "prefix_cache_queries prefix_cache_hits generation_tokens time_to_first_token_seconds "
    "inter_token_latency_seconds e2e_request_latency_seconds request_queue_time_seconds "
    "request_prefill_time_seconds request_decode_time_seconds request_prompt_tokens "
    "request_generation_tokens request_success"
)


@pytest.fixture(scope="module")
def text():
    """After one answer, one refusal and one hit of the response cache, of two models."""
    limits = AdmissionLimits()
    served = [
        Served(name, fake_engine(FakeProgram(257, parrot("Hello"))), limits)
        for name in ("one", "two")
    ]
    with live(make_server_app(Server(Catalog(served), limits))) as url:
        for name in ("one", "two", "three"):
            asked = {"model": name, "prompt": "x>", "temperature": 0}
            httpx.post(f"{url}/v1/completions", json=asked)
        for one in served:
            one.metrics.count_cache("hit")
        return httpx.get(f"{url}/metrics").text


def families(text):
    return {family.name: family for family in text_string_to_metric_families(text)}


def test_every_family_is_there_once_with_both_models(text):
    names = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    assert len(set(names)) == len(names)
    running = families(text)["slipstream:num_requests_running"]
    assert {s.labels["model_name"] for s in running.samples} == {"one", "two"}
    assert all(sample.labels["version"] for sample in running.samples)


def test_the_names_are_those_that_a_vllm_dashboard_knows(text):
    assert {f"slipstream:{name}" for name in VLLM.split()} <= set(families(text))


def test_what_happened_is_counted(text):
    found = families(text)

    def value(name, **labels):
        samples = found[f"slipstream:{name}"].samples
        return sum(
            s.value
            for s in samples
            if labels.items() <= s.labels.items() and not s.name.endswith("_created")
        )

    assert value("request_success", model_name="one", finished_reason="stop") == 1
    assert value("generation_tokens", model_name="two") == 6
    assert value("request_refused", status="404") == 1
    assert value("response_cache", model_name="one", outcome="hit") == 1
    assert value("prefix_cache_queries", model_name="one") >= 0


def test_every_query_of_the_dashboard_has_its_metric(text):
    samples = {sample.name for family in families(text).values() for sample in family.samples}
    panels = json.loads(DASHBOARD.read_text())["panels"]
    queries = [target["expr"] for panel in panels for target in panel["targets"]]
    assert len(queries) > 20
    for query in queries:
        asked = re.findall(r"slipstream:\w+", query)
        assert asked and set(asked) <= samples, query
    shown = {name for query in queries for name in re.findall(r"slipstream:\w+", query)}
    ours = {name.removesuffix("_total") for name in samples}
    bases = {re.sub(r"_(total|bucket)$", "", name) for name in shown}
    missing = {
        name for name in ours if re.sub(r"_(bucket|count|sum|created)$", "", name) not in bases
    }
    assert not missing, f"exported, and shown nowhere: {missing}"
