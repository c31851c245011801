"""The official node client of OpenAI, over TLS on loopback, because its Realtime client speaks wss only."""

import datetime
import ipaddress
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from mirasol.serve.engine import Engine
from tests.serve.conftest import start
from tests.serve.live_media import live_media

HERE = Path(__file__).parent


def node_is_missing() -> str:
    """What is missing to run the node client, empty if nothing is."""
    if shutil.which("node") is None:
        return "needs node"
    found = subprocess.run(
        ["node", "-e", "require.resolve('openai/realtime/ws'); require.resolve('ws')"], capture_output=True
    )
    return "" if found.returncode == 0 else "needs the npm packages openai and ws, in a folder that NODE_PATH names"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory) -> tuple[str, str]:
    """Files of a certificate for 127.0.0.1 and its key."""
    x509 = pytest.importorskip("cryptography.x509", reason="needs the package cryptography")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mirasol test")])
    now = datetime.datetime.now(datetime.UTC)
    address = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    made = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    made = made.serial_number(x509.random_serial_number()).not_valid_before(now - datetime.timedelta(days=1))
    made = made.not_valid_after(now + datetime.timedelta(days=1)).add_extension(address, critical=False)
    folder = tmp_path_factory.mktemp("tls")
    files = folder / "certificate.pem", folder / "key.pem"
    files[0].write_bytes(made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    formats = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    files[1].write_bytes(key.private_bytes(serialization.Encoding.PEM, *formats))
    return str(files[0]), str(files[1])


@pytest.mark.slow
def test_chat_files_and_a_live_session(shipped, tmp_path, grid_root, clip, certificate):
    if missing := node_is_missing():
        pytest.skip(missing)
    (tmp_path / "pieces.json").write_text(json.dumps(live_media(clip).pieces()))
    file, key = certificate
    for server in start(Engine(shipped, tmp_path / "kept"), ssl_certfile=file, ssl_keyfile=key):
        words = ["node", HERE / "node_client.cjs", server.address, grid_root / "clips" / "bbaf4p.mp4"]
        run = subprocess.run(
            [*words, tmp_path / "pieces.json"], capture_output=True, text=True, timeout=120,
            env={**os.environ, "NODE_EXTRA_CA_CERTS": file},
        )  # fmt: skip
    assert run.returncode == 0, run.stderr
    found = json.loads(run.stdout)
    assert found["chat"] == found["streamed"] == "blue" and found["file"].startswith("file_")
    live = found["live"]
    assert (live["text"], live["status"], live["protocol"]) == ("blue", "completed", "wss:") and live["chunks"] >= 9
