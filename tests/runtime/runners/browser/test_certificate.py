"""A certificate for one run."""

import datetime
import hashlib
import ssl
from pathlib import Path

import pytest

from edgeseed.runtime.runners.browser.certificate import make_certificate

x509 = pytest.importorskip("cryptography.x509", reason="pip install 'edgeseed[browser]'")


@pytest.mark.parametrize(
    ("host", "kind"), [("192.168.1.5", "IP Address"), ("fe80::1", "IP Address"), ("pc", "DNS")]
)
def test_it_is_for_the_host_as_browsers_compare_it(tmp_path: Path, host: str, kind: str) -> None:
    made = make_certificate(host, tmp_path)
    certificate = x509.load_pem_x509_certificate(made.path.read_bytes())
    (name,) = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert str(name.value) == host
    assert isinstance(name, x509.DNSName if kind == "DNS" else x509.IPAddress)


def test_a_server_can_use_the_file_and_nobody_else_can_read_it(tmp_path: Path) -> None:
    made = make_certificate("127.0.0.1", tmp_path)
    ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(made.path)
    assert made.path.stat().st_mode & 0o077 == 0


def test_the_fingerprint_is_that_of_the_certificate(tmp_path: Path) -> None:
    made = make_certificate("127.0.0.1", tmp_path)
    pem = made.path.read_text()
    der = ssl.PEM_cert_to_DER_cert(pem[pem.index("-----BEGIN CERTIFICATE") :])
    assert made.fingerprint == hashlib.sha256(der).digest().hex(":").upper()


def test_it_is_valid_for_a_day_and_for_a_phone_whose_clock_lags(tmp_path: Path) -> None:
    made = make_certificate("127.0.0.1", tmp_path)
    certificate = x509.load_pem_x509_certificate(made.path.read_bytes())
    now = datetime.datetime.now(datetime.UTC)
    hours = datetime.timedelta(hours=20)
    assert certificate.not_valid_before_utc < now - hours
    assert now + hours < certificate.not_valid_after_utc < now + 2 * hours


def test_no_two_runs_have_the_same_key(tmp_path: Path) -> None:
    (tmp_path / "again").mkdir()
    first = make_certificate("127.0.0.1", tmp_path)
    assert first.fingerprint != make_certificate("127.0.0.1", tmp_path / "again").fingerprint
