"""The account of a server's memory adds up, and says so where it cannot tell parts apart."""

import importlib.util
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[2] / "benchmarks/serving"
MB = 10**6


@pytest.fixture(scope="module")
def memory():
    sys.path.insert(0, str(FOLDER))
    spec = importlib.util.spec_from_file_location("serving_memory", FOLDER / "memory.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["serving_memory"] = module
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(FOLDER))
    for name in ("serving_memory", "servers"):
        sys.modules.pop(name, None)


def smaps(*rows):
    """(path, kB of address space, kB resident)."""
    return "".join(
        f"7f0000000000-7f00000a0000 rw-p 00000000 00:00 0{' ' * 20 + path if path else ' '}\n"
        f"Size:{size:12} kB\nKernelPageSize:        4 kB\nRss:{resident:12} kB\n"
        "Pss:  1 kB\nVmFlags: rd wr mr mw me ac sd hg\n"
        for path, size, resident in rows
    )


POOL = ("", 737_280, 10_240)
PACKED = ("/home/a b/.cache/slipstream/packed/e6.packed", 94_648, 94_648)
OTHERS = [("[heap]", 12_944, 12_564), ("", 18_748, 18_000), ("/usr/lib/libc.so.6", 2_000, 900)]


def test_every_resident_byte_is_in_one_part(memory):
    found = memory.account(smaps(PACKED, POOL, *OTHERS), 96 * MB, 737_280 * 1024)
    assert found.weights == 94_648 * 1024
    assert found.kv == 10_240 * 1024
    assert found.rest == (12_564 + 18_000 + 900) * 1024
    assert found.total == 1024 * sum(row[2] for row in (PACKED, POOL, *OTHERS))
    assert "weights 97, KV pages 10, the rest 32" in str(found)


def test_weights_that_were_packed_into_memory_are_what_the_engine_says(memory):
    arena = ("", 100_352, 100_352)
    found = memory.account(smaps(arena, POOL, *OTHERS), 96 * MB, 737_280 * 1024)
    assert found.weights == 96 * MB
    assert found.total == 1024 * sum(row[2] for row in (arena, POOL, *OTHERS))


@pytest.mark.parametrize("rows", [OTHERS, [POOL, POOL]])
def test_a_pool_that_cannot_be_told_apart_is_refused(memory, rows):
    with pytest.raises(ValueError, match="could be the KV pool"):
        memory.account(smaps(*rows), 0, 737_280 * 1024)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_real_process_is_read(memory):
    text = Path("/proc/self/smaps").read_text()
    status = Path("/proc/self/status").read_text()
    said = next(int(x.split()[1]) for x in status.splitlines() if x.startswith("VmRSS:")) * 1024
    total = sum(one.resident_bytes for one in memory.mappings(text))
    assert 0.8 * said < total < 1.25 * said
    assert any(one.path.endswith(".so") or ".so." in one.path for one in memory.mappings(text))
