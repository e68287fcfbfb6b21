"""What an administrator loads is there again after a restart, and a damaged record is refused."""

import json
import os
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from live_server import run_async
from test_catalog import Adaptable, ask, open_fake, served

from slipstream.errors import FileFormatError
from slipstream.serve.admission import AdmissionLimits
from slipstream.serve.canary import Canary
from slipstream.serve.catalog import Catalog
from slipstream.serve.catalog_keeper import CatalogKeeper
from slipstream.serve.catalog_record import CatalogRecord, read_record
from slipstream.serve.loader import Loader, Opened


def open_adaptable(source, options):
    opened = open_fake(source, options)
    Adaptable(opened.engine)
    return Opened(opened.engine, content=source)


async def started(path):
    """A server's catalog with `m:1` from its command line, and its keeper."""
    one = served()
    Adaptable(one.engine)
    loader = Loader(open_one=open_adaptable)
    catalog = Catalog([one], loader=loader, limits=AdmissionLimits())
    keeper = CatalogKeeper(catalog, path)
    catalog.start()
    keeper.start()
    await keeper.restored()
    return catalog, keeper


async def stopped(catalog, keeper):
    await keeper.stop()
    await catalog.stop()


@run_async
async def test_models_adapters_and_labels_come_back_in_order(tmp_path):
    path = tmp_path / "state" / "catalog.json"
    catalog, keeper = await started(path)
    assert not path.exists(), "nothing was changed"
    for name, source, version in (("m", "two", "2"), ("n", "three", "1"), ("m", "four", "3")):
        await catalog.load(name, source, version)
    await catalog.load_adapter("poet", "/adapters/poet", "m:2")
    catalog.set_default("m", "2")
    catalog.set_canary("m", Canary("3", 30))
    keeper.save()
    said = [await ask(catalog, name, who="x") for name in ("m", "n", "m:3")]
    before = [(entry.label, entry.source) for entry in catalog.entries()]
    await stopped(catalog, keeper)

    catalog, keeper = await started(path)
    assert [(entry.label, entry.source) for entry in catalog.entries()] == before
    assert [await ask(catalog, name, who="x") for name in ("m", "n", "m:3")] == said
    assert catalog.versions("m").default == "2"
    assert catalog.versions("m").canary == Canary("3", 30)
    (poet,) = catalog.adapters
    assert poet.name == "poet" and poet.service is catalog.choose("m:2").service
    catalog.check()
    await catalog.adapters.unload("poet")
    catalog.set_canary("m", None)
    await catalog.unload("n")
    await catalog.unload("m", "1")
    keeper.save()
    await stopped(catalog, keeper)
    assert [m.name for m in read_record(path).models] == ["m", "m"]
    assert not read_record(path).adapters and not read_record(path).canaries
    catalog, keeper = await started(path)
    assert await ask(catalog, "m") == "two", "also where the command line brings another version"
    await stopped(catalog, keeper)


@run_async
async def test_what_cannot_be_brought_back_stays_in_the_record(tmp_path):
    path = tmp_path / "catalog.json"
    lost = {
        "models": [{"name": "n", "version": "1", "source": "broken"}],
        "adapters": [{"name": "poet", "source": "/adapters/broken", "base": "m:1"}],
        "defaults": {"gone": "2"},
    }
    path.write_text(json.dumps(lost))
    catalog, keeper = await started(path)
    assert [entry.state for entry in catalog.entries()] == ["serving", "failed"]
    assert await ask(catalog, "m") == "one"
    assert json.loads(path.read_text()) == lost, "nothing was changed"
    await catalog.load("o", "five")
    keeper.save()
    await stopped(catalog, keeper)
    record = read_record(path)
    assert [m.name for m in record.models] == ["n", "o"]
    assert [a.name for a in record.adapters] == ["poet"]


@run_async
async def test_a_server_that_stops_while_it_brings_back_forgets_nothing(tmp_path):
    path = tmp_path / "catalog.json"
    models = [{"name": f"m{n}", "version": "1", "source": "two"} for n in range(5)]
    path.write_text(json.dumps({"models": models}))
    catalog = Catalog([served()], loader=Loader(open_one=open_fake))
    keeper = CatalogKeeper(catalog, path)
    catalog.start()
    keeper.start()
    keeper.save()
    await stopped(catalog, keeper)
    keeper.save()
    assert json.loads(path.read_text()) == {"models": models}


def test_paths_mean_the_same_from_elsewhere(tmp_path, monkeypatch):
    (tmp_path / "model").mkdir()
    monkeypatch.chdir(tmp_path)

    @run_async
    async def change():
        catalog, keeper = await started(tmp_path / "catalog.json")
        await catalog.load("n", "model")
        keeper.save()
        await stopped(catalog, keeper)

    change()
    (model,) = read_record(tmp_path / "catalog.json").models
    assert os.path.isabs(model.source)


WRONG = [
    b"", b"[]", b"\xff\xfe", b"{", b'{"models": 3}', b'{"colour": 1}', b'{"schema_version": 2}',
    b'{"models": [{"name": "../x y", "version": "1", "source": "s"}]}',
    b'{"models": [{"name": "m", "version": "1", "source": ""}]}',
    b'{"models": [{"name": "m", "version": "1", "source": "a\\u0000b"}]}',
    b'{"models": [{"name": "m", "version": "1"}]}',
    b'{"canaries": {"m": {"version": "1", "percent": 101}}}',
    b'{"canaries": {"m": {"version": "1", "percent": NaN}}}',
    b'{"models": ' + b"[" * 100_000,
    b" " * (2**20 + 1),
    json.dumps({"models": [{"name": "m", "version": "1", "source": "s"}] * 2}).encode(),
]  # fmt: skip


@pytest.mark.parametrize("text", WRONG, ids=range(len(WRONG)))
def test_a_damaged_record_is_refused_in_words(tmp_path, text):
    path = tmp_path / "catalog.json"
    path.write_bytes(text)
    with pytest.raises(FileFormatError, match="is not what a server has written"):
        read_record(path)
    assert path.read_bytes() == text


@settings(max_examples=60)
@given(st.randoms(use_true_random=False))
def test_any_change_of_a_record_is_read_or_refused(tmp_path_factory, chance: random.Random):
    path = tmp_path_factory.mktemp("state") / "catalog.json"
    CatalogRecord.model_validate(
        {
            "models": [{"name": "m", "version": "2", "source": "/models/m"}],
            "adapters": [{"name": "poet", "source": "/a", "base": "m:2"}],
            "defaults": {"m": "2"},
            "canaries": {"m": {"version": "3", "percent": 5.0}},
        }
    ).write(path)
    whole = read_record(path)
    text = bytearray(path.read_bytes())
    for _ in range(chance.randint(1, 4)):
        text[chance.randrange(len(text))] = chance.randrange(256)
    path.write_bytes(text)
    try:
        found = read_record(path)
    except FileFormatError:
        return
    assert found.schema_version == whole.schema_version
