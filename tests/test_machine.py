"""What the machine says about itself, on trees of small files that stand for other machines."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from slipstream import machine as here
from slipstream.errors import MachineError
from slipstream.machine_ceilings import (
    Ceilings,
    Rate,
    cache_probe_bytes,
    dram_probe_bytes,
    load,
    rate,
    store,
)
from slipstream.machine_facts import Cache, Machine, read_machine

AVX512 = "avx2 fma f16c avx512f avx512bw avx512dq avx512vl avx512_vnni"
RATE = Rate(2.0, 1.0, 3.0)
CEILINGS = Ceilings("avx2", 2, *[RATE] * 7)


@pytest.fixture
def tree(tmp_path: Path):
    """Writes files below a root that `read_machine` takes for ``/``."""

    def write(files: dict[str, str]) -> Path:
        for name, text in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return tmp_path

    return write


@pytest.fixture
def one_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """A machine of three cores and AVX2, an empty environment and an empty cache."""
    machine = Machine("Test", ("portable", "avx2"), 3, 8 << 30, 1, (Cache(3, 32 << 20, 2),))
    monkeypatch.setattr(here, "machine", lambda: machine)
    for name in ("SLIPSTREAM_THREADS", "SLIPSTREAM_ISA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("SLIPSTREAM_CACHE", str(tmp_path / "cache"))
    return machine


@pytest.mark.parametrize(
    ("features", "best"),
    [("fp asimd asimddp", "neon"), ("fp asimd", "portable"), ("fp asimd asimddp i8mm", "i8mm")],
)
def test_isas_follow_the_features_of_an_arm_processor(tree, features: str, best: str) -> None:
    root = tree({"proc/cpuinfo": f"BogoMIPS\t: 50.00\nFeatures\t: {features}\n"})
    assert read_machine(root).isas[-1] == best


@pytest.mark.parametrize(
    ("flags", "best"),
    [
        ("sse2", "portable"),
        ("avx2 fma f16c", "avx2"),
        ("avx2 f16c", "portable"),
        (AVX512, "avx512"),
        (AVX512 + " amx_tile amx_int8", "amx"),
        (AVX512.replace("avx512_vnni", ""), "avx2"),
    ],
)
def test_isas_follow_the_processor_flags(tree, flags: str, best: str) -> None:
    root = tree({"proc/cpuinfo": f"model name\t: Some CPU\nflags\t\t: {flags}\n"})
    found = read_machine(root)
    assert found.cpu == "Some CPU"
    assert found.isas[0] == "portable" and found.isas[-1] == best


def test_cgroup_2_limits_cores_and_memory_of_any_ancestor(tree, monkeypatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    root = tree(
        {
            "proc/self/cgroup": "0::/user/job\n",
            "proc/meminfo": f"MemTotal: {64 << 20} kB\n",
            "sys/fs/cgroup/user/job/cpu.max": "max 100000",
            "sys/fs/cgroup/user/cpu.max": "250000 100000",
            "sys/fs/cgroup/user/job/memory.max": str(3 << 30),
            "sys/fs/cgroup/user/memory.max": "max",
        }
    )
    assert read_machine(root).cores == 2
    assert read_machine(root).memory_bytes == 3 << 30


def test_cgroup_1_limits_show_at_the_mount_when_the_path_is_the_hosts(tree, monkeypatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(16)))
    root = tree(
        {
            "proc/self/cgroup": "4:memory:/docker/1f\n2:cpu,cpuacct:/docker/1f\n",
            "proc/meminfo": f"MemTotal: {64 << 20} kB\n",
            "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "400000",
            "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000",
            "sys/fs/cgroup/memory/memory.limit_in_bytes": str(9 << 30),
        }
    )
    assert read_machine(root).cores == 4
    assert read_machine(root).memory_bytes == 9 << 30


def test_half_a_core_is_one_core(tree) -> None:
    root = tree({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000"})
    assert read_machine(root).cores == 1


def test_caches_and_nodes_are_counted(tree) -> None:
    cpu = "sys/devices/system/cpu/cpu0/cache"
    root = tree(
        {
            f"{cpu}/index0/level": "1",
            f"{cpu}/index0/type": "Instruction",
            f"{cpu}/index0/size": "32K",
            f"{cpu}/index3/level": "3",
            f"{cpu}/index3/type": "Unified",
            f"{cpu}/index3/size": "32M",
            f"{cpu}/index3/shared_cpu_list": "0-3,8",
            "sys/devices/system/node/node0/cpulist": "0-3",
            "sys/devices/system/node/node1/cpulist": "4-7",
        }
    )
    found = read_machine(root)
    assert found.caches == (Cache(3, 32 << 20, 5),)
    assert found.cache_bytes(3) == 32 << 20 and found.cache_bytes(2) == 0
    assert found.numa_nodes == 2


NODES = {
    "sys/devices/system/node/node0/cpulist": "0-7",
    "sys/devices/system/node/node1/cpulist": "8-15",
}


def machine_with(tree, monkeypatch, cpus: int, files: dict[str, str]) -> Machine:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(cpus)))
    return read_machine(tree(files))


def test_threads_stay_on_one_node(tree, monkeypatch) -> None:
    found = machine_with(tree, monkeypatch, 16, NODES)
    assert (found.cores, found.node_cores, found.threads) == (16, 8, 8)


def test_threads_stay_on_the_node_that_has_most_of_the_allowed_cores(tree, monkeypatch) -> None:
    found = machine_with(tree, monkeypatch, 11, NODES)
    assert (found.cores, found.threads) == (11, 8)


def test_a_quota_below_a_node_decides(tree, monkeypatch) -> None:
    quota = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "300000 100000"}
    assert machine_with(tree, monkeypatch, 16, NODES | quota).threads == 3


def test_a_system_that_says_nothing_of_nodes_uses_all_cores(tree, monkeypatch) -> None:
    assert machine_with(tree, monkeypatch, 6, {}).threads == 6


@pytest.mark.parametrize(
    "files",
    [
        {
            "proc/self/cgroup": "0::/job\n",
            "sys/fs/cgroup/job/cpuset.cpus.effective": "2-4,9",
            "sys/fs/cgroup/cpuset.cpus.effective": "0-15",
        },
        {
            "proc/self/cgroup": "5:cpuset:/docker/1f\n",
            "sys/fs/cgroup/cpuset/cpuset.effective_cpus": "2-4,9",
        },
        {
            "proc/self/cgroup": "5:cpuset:/docker/1f\n",
            "sys/fs/cgroup/cpuset/docker/1f/cpuset.cpus": "2-4,9",
        },
    ],
)
def test_a_cpuset_limits_cores_in_both_versions_of_cgroups(tree, monkeypatch, files) -> None:
    found = machine_with(tree, monkeypatch, 16, NODES | files)
    assert (found.cores, found.node_cores) == (4, 3)


@pytest.mark.parametrize("text", ["", "none", "5-", "-3", "1-x", "900-999"])
def test_a_cpuset_that_makes_no_sense_is_not_obeyed(tree, monkeypatch, text: str) -> None:
    files = {"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpuset.cpus.effective": text}
    assert machine_with(tree, monkeypatch, 4, files).cores >= 1


def test_an_empty_system_is_still_a_machine(tmp_path: Path) -> None:
    found = read_machine(tmp_path)
    assert found.isas == ("portable",) and found.cores >= 1 and found.memory_bytes > 0


def test_the_fingerprint_ignores_memory_and_sees_the_rest(one_machine: Machine) -> None:
    assert dataclasses.replace(one_machine, memory_bytes=1).fingerprint == one_machine.fingerprint
    assert dataclasses.replace(one_machine, cores=5).fingerprint != one_machine.fingerprint


def test_threads_default_to_the_usable_cores(one_machine: Machine, monkeypatch) -> None:
    assert here.thread_count() == 3
    monkeypatch.setenv("SLIPSTREAM_THREADS", "7")
    assert here.thread_count() == 7


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", "99999", "²"])
def test_a_senseless_thread_count_is_refused(one_machine: Machine, monkeypatch, text: str) -> None:
    monkeypatch.setenv("SLIPSTREAM_THREADS", text)
    with pytest.raises(MachineError, match="SLIPSTREAM_THREADS"):
        here.thread_count()


def test_isa_is_forced_only_onto_what_the_machine_has(one_machine: Machine, monkeypatch) -> None:
    assert here.forced_isa() is None
    monkeypatch.setenv("SLIPSTREAM_ISA", "AVX2")
    assert here.forced_isa() == "avx2"
    monkeypatch.setenv("SLIPSTREAM_ISA", "amx")
    with pytest.raises(MachineError, match=r"lacks .*'amx'; choose portable, avx2"):
        here.forced_isa()
    monkeypatch.setenv("SLIPSTREAM_ISA", "mmx")
    with pytest.raises(MachineError, match="there is no"):
        here.forced_isa()


def test_a_rate_is_a_median_and_its_range() -> None:
    assert rate([5.0, 1.0, 3.0]) == Rate(3.0, 1.0, 5.0)


@pytest.mark.parametrize("threads", [1, 2, 64])
@pytest.mark.parametrize("last", [0, 8 << 20, 1 << 30])
def test_probes_stay_within_and_beyond_the_last_cache(threads: int, last: int) -> None:
    caches = (Cache(2, 1 << 19, 1), Cache(3, last, 8)) if last else (Cache(2, 1 << 19, 1),)
    machine = Machine("Test", ("portable",), threads, 64 << 30, 1, caches)
    assert cache_probe_bytes(machine, threads) <= max(last // 2, (1 << 18) * threads)
    assert last < dram_probe_bytes(machine) + 1 <= (1 << 30) + 1


def test_ceilings_are_probed_once_then_read(one_machine: Machine, monkeypatch) -> None:
    probes = []
    monkeypatch.setattr(here, "probe", lambda *a: probes.append(a) or CEILINGS)
    assert here.ceilings() == CEILINGS == here.ceilings()
    assert probes == [(one_machine, "avx2", 3)]
    here.ceilings(refresh=True)
    assert len(probes) == 2


def test_other_threads_or_isas_have_their_own_ceilings(one_machine, monkeypatch) -> None:
    probes = []
    monkeypatch.setattr(here, "probe", lambda *a: probes.append(a[1:]) or CEILINGS)
    here.ceilings()
    monkeypatch.setenv("SLIPSTREAM_THREADS", "1")
    here.ceilings()
    monkeypatch.setenv("SLIPSTREAM_ISA", "portable")
    here.ceilings()
    assert probes == [("avx2", 3), ("avx2", 1), ("portable", 1)]


def damages() -> list[str]:
    whole = {"version": 1, **dataclasses.asdict(CEILINGS)}
    text = json.dumps(whole)
    changed = [
        {**whole, "version": 0},
        {key: value for key, value in whole.items() if key != "int8"},
        {**whole, "dram": {"median": -1.0, "low": -2.0, "high": 3.0}},
        {**whole, "dram": {"median": float("nan"), "low": 1.0, "high": 3.0}},
        {**whole, "dram": [1, 2, 3]},
    ]
    return ["", "[]", "3", text[:100], *[json.dumps(item) for item in changed]]


@pytest.mark.parametrize("text", damages())
def test_a_damaged_file_of_ceilings_is_no_file(tmp_path: Path, text: str) -> None:
    path = tmp_path / "c.json"
    path.write_text(text)
    assert load(path) is None


def test_what_is_stored_is_loaded(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "c.json"
    store(path, CEILINGS)
    assert load(path) == CEILINGS
    assert [item.name for item in path.parent.iterdir()] == ["c.json"]


def test_a_cache_that_cannot_be_written_costs_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store(tmp_path / "file" / "c.json", CEILINGS)  # its folder is a file: no error


def test_the_native_probes_measure_something_sensible(one_machine, monkeypatch) -> None:
    native = pytest.importorskip("slipstream._native")
    one, other = native.probe_read(1 << 20, 1, 2, 0.002)
    assert 1e8 < min(one, other) < 1e13
    for kind in ("f32", "int8", "bf16"):
        for isa in read_machine().isas:
            assert 1e7 < native.probe_dot(kind, isa, 2, 1, 0.002)[0] < 1e16
    with pytest.raises(ValueError, match="mmx"):
        native.probe_dot("f32", "mmx", 1, 1, 0.002)
    with pytest.raises(ValueError, match="samples"):
        native.probe_dot("f32", "portable", 1, 0, 0.002)


def test_importing_the_machine_needs_no_numpy() -> None:
    code = "import sys, slipstream.machine; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
