"""A real process: SIGTERM under load, SIGHUP, a Unix socket, TLS, logs."""

import asyncio
import datetime
import json
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from live_server import run_async

from slipstream.errors import MachineError
from slipstream.serve.run import Address, listen

pytestmark = pytest.mark.slow

PATH = "/v1/chat/completions"
ASKED = {"model": "fake", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 20}
ANSWER = "abcdefghij" * 2


@contextmanager
def process(**given):
    """(process, URL) of a `fake_server.py`."""
    program = [sys.executable, str(Path(__file__).with_name("fake_server.py")), json.dumps(given)]
    with subprocess.Popen(
        program, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as running:
        try:
            url = running.stdout.readline().strip()
            assert url, running.stderr.read()
            yield running, url
        finally:
            running.kill()


async def one(client, outcomes, stream):
    """Sends a request, notes what became of it: "whole", "refused", "no connection", or worse."""
    try:
        reply = await client.post(PATH, json={**ASKED, "stream": stream})
    except httpx.ConnectError:
        outcomes.append("no connection")
        return
    except httpx.HTTPError as error:
        outcomes.append(f"lost: {error!r}")
        return
    if reply.status_code == 503:
        outcomes.append("refused" if "stopping" in reply.text else reply.text)
    elif stream:
        ended = reply.text.endswith("data: [DONE]\n\n") and '"finish_reason":"length"' in reply.text
        outcomes.append("whole" if ended else reply.text)
    else:
        text = reply.json()["choices"][0]["message"]["content"]
        outcomes.append("whole" if text == ANSWER else reply.text)


async def keep_sending(client, outcomes, stream, until):
    while not until.is_set():
        await one(client, outcomes, stream)
        await asyncio.sleep(0.005)


@run_async
async def test_no_accepted_request_is_lost_when_the_server_is_told_to_stop():
    with process(step_s=0.01, limits={"queue": 100}) as (running, url):
        outcomes, over = [], asyncio.Event()
        anew = {"Connection": "close"}  # a connection for each request
        async with httpx.AsyncClient(base_url=url, timeout=20, headers=anew) as client:
            senders = [
                asyncio.create_task(keep_sending(client, outcomes, bool(i % 2), over))
                for i in range(16)
            ]
            while len(outcomes) <= 16:
                await asyncio.sleep(0.01)
            before = set(outcomes)
            running.send_signal(signal.SIGTERM)
            code = await asyncio.to_thread(running.wait, 20)
            over.set()
            await asyncio.gather(*senders)
    assert code == 0, running.stderr
    kinds = set(outcomes)
    assert kinds <= {"whole", "refused", "no connection"}, kinds
    assert before == {"whole"}
    assert "refused" in kinds  # while it drained, it still answered, in words


@run_async
async def test_what_does_not_end_within_the_drain_timeout_is_told():
    with process(step_s=0.2, run={"drain_timeout_s": 0.5}) as (running, url):
        async with httpx.AsyncClient(base_url=url, timeout=20) as client:
            asks = [client.post(PATH, json={**ASKED, "stream": s}) for s in (True, False)]
            tasks = [asyncio.create_task(ask) for ask in asks]
            await asyncio.sleep(1)
            running.send_signal(signal.SIGTERM)
            streamed, whole = await asyncio.gather(*tasks)
        assert await asyncio.to_thread(running.wait, 20) == 0
    assert streamed.status_code == 200 and "stopp" in streamed.text
    assert streamed.text.endswith("data: [DONE]\n\n")
    assert whole.status_code == 503 and "server" in whole.json()["error"]["message"]


def test_keys_change_on_sighup(tmp_path):
    file = tmp_path / "keys"
    file.write_text("old:sk-old-0123456789\n")
    file.chmod(0o600)
    with process(keys=str(file)) as (running, url):
        old, new = ({"Authorization": f"Bearer sk-{one}-0123456789"} for one in ("old", "new"))
        assert httpx.get(f"{url}/v1/models", headers=old).status_code == 200
        file.write_text("new:sk-new-0123456789\n")
        running.send_signal(signal.SIGHUP)
        end = time.monotonic() + 10
        while httpx.get(f"{url}/v1/models", headers=new).status_code != 200:
            assert time.monotonic() < end
        assert httpx.get(f"{url}/v1/models", headers=old).status_code == 401


def test_a_unix_socket(tmp_path):
    path = tmp_path / "socket"
    with process(address={"uds": str(path)}) as (running, url):
        assert url == f"unix:{path}"
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path))) as client:
            assert client.post(f"http://x{PATH}", json=ASKED).status_code == 200
        with pytest.raises(MachineError, match="cannot listen on"):
            listen(Address(uds=path))
        running.send_signal(signal.SIGTERM)
        assert running.wait(10) == 0 and not path.exists()
    left = listen(Address(uds=path))  # by a process that was killed
    left.close()
    listen(Address(uds=path)).close()


def certificate(folder):
    """Files of a self-signed certificate for localhost."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now, now + datetime.timedelta(1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        .sign(key, hashes.SHA256())
    )
    encoding = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(made.public_bytes(encoding))
    (folder / "key.pem").write_bytes(
        key.private_bytes(encoding, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return folder / "cert.pem", folder / "key.pem"


def test_tls(tmp_path):
    cert, key = certificate(tmp_path)
    with process(address={"cert": str(cert), "key": str(key)}) as (_, url):
        import ssl

        trust = ssl.create_default_context(cafile=str(cert))
        address = url.replace("127.0.0.1", "localhost")
        assert address.startswith("https://")
        assert httpx.post(f"{address}{PATH}", json=ASKED, verify=trust).status_code == 200
        with pytest.raises(httpx.HTTPError):
            httpx.get(f"http{address[5:]}/health")


def test_logs_are_json_with_the_id_and_never_the_prompt():
    with process(run={"json_logs": True}) as (running, url):
        asked = {**ASKED, "messages": [{"role": "user", "content": "a secret word"}]}
        httpx.post(f"{url}{PATH}", json=asked, headers={"X-Request-Id": "mine"})
        running.send_signal(signal.SIGTERM)
        lines = running.stderr.read()
    (request,) = [json.loads(line) for line in lines.splitlines() if '"mine"' in line]
    assert request["path"] == PATH and request["status"] == 200 and request["seconds"] > 0
    assert request["prompt_tokens"] == 31 and request["answer_tokens"] == 20
    assert request["model"] == "fake" and request["finish"] == "length"
    assert "secret" not in lines


def test_prompts_are_logged_for_those_who_ask():
    with process(limits={"log_prompts": True}, run={"json_logs": True}) as (running, url):
        httpx.post(f"{url}/v1/completions", json={"model": "fake", "prompt": "a secret word>"})
        running.send_signal(signal.SIGTERM)
        lines = running.stderr.read()
    assert '"prompt": "a secret word>"' in lines
