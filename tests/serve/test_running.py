"""The service as a process with TLS and two workers: what it says of itself, and that all of it answers alike."""

import socket
import ssl
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from hypothesis import HealthCheck, given, settings

from tests.serve.conftest import client_of, served, trained

pytest.importorskip("starlette", reason="needs equifuse[serve]")
x509 = pytest.importorskip("cryptography.x509", reason="cryptography is not installed")
schemathesis = pytest.importorskip("schemathesis", reason="schemathesis is not installed")

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform == "win32", reason="signals")]


def write_certificate(folder):
    """A certificate for 127.0.0.1 that only who has it trusts, and its key."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "equifuse test")])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (folder / "cert.pem").write_bytes(made.public_bytes(pem))
    plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    (folder / "key.pem").write_bytes(key.private_bytes(pem, *plain))
    return folder / "cert.pem", folder / "key.pem"


@pytest.fixture(scope="module")
def service(sequences, tmp_path_factory):
    """A run that was trained with warm starts; a client of its service, and the certificate."""
    folder = tmp_path_factory.mktemp("running")
    options = {"fusion": "deq", "fusion_options": {"contraction": 0.7}, "warm_start": True, "modality_dropout": 0}
    run = trained(folder / "run", sequences.parent / "set.npz", **options, unimodal="none")
    certificate, key = write_certificate(folder)
    words = ("--workers", "2", "--max-rows", "64", "--certfile", str(certificate), "--keyfile", str(key))
    with served(run, folder / "log", *words, certificate=certificate) as (_, client, _):
        yield run, client, certificate


def test_only_tls_is_spoken_and_only_to_whom_trusts_the_certificate(service):
    _, client, certificate = service
    address = client.base_url.host, client.base_url.port
    with socket.create_connection(address, timeout=10) as plain:
        plain.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert not plain.recv(100).startswith(b"HTTP/1.1 200")
    with (
        socket.create_connection(address, timeout=10) as raw,
        pytest.raises(ssl.SSLCertVerificationError),
        ssl.create_default_context().wrap_socket(raw, server_hostname="127.0.0.1"),
    ):
        pass
    trusting = ssl.create_default_context(cafile=certificate)
    with (
        socket.create_connection(address, timeout=10) as raw,
        trusting.wrap_socket(raw, server_hostname="127.0.0.1") as safe,
    ):
        assert safe.version() in ("TLSv1.2", "TLSv1.3")


def test_every_worker_answers_what_the_run_predicts_although_it_was_trained_with_warm_starts(service, rows):
    run, client, _ = service
    expected = client_of(run).post("/predict", json=rows).json()["columns"]["prob_no"]
    some = [[i, (i + 1) % 12] for i in range(12)] * 3

    def asked(chosen):
        inputs = {m: [values[i] for i in chosen] for m, values in rows["inputs"].items()}
        return client.post("/predict", json={"inputs": inputs}).raise_for_status().json()["columns"]["prob_no"]

    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(asked, some))
    for chosen, answer in zip(some, answers, strict=True):
        assert answer == pytest.approx([expected[i] for i in chosen], abs=1e-3)


@pytest.mark.parametrize(
    ("mode", "method", "path"),
    [("positive", "POST", "/predict"), ("negative", "POST", "/predict"), ("positive", "GET", "/model")],
)
def test_the_process_is_as_it_describes_itself(service, mode, method, path):
    _, client, certificate = service
    base = str(client.base_url).rstrip("/")
    schema = schemathesis.openapi.from_url(f"{base}/openapi.json", verify=str(certificate))
    beyond = [schemathesis.checks.positive_data_acceptance]

    @settings(max_examples=8 if method == "POST" else 2, deadline=None, suppress_health_check=list(HealthCheck))
    @given(schema[path][method].as_strategy(schemathesis.GenerationMode(mode)))
    def check(case):
        case.call_and_validate(base_url=base, verify=str(certificate), excluded_checks=beyond)

    check()
