"""A certificate for one run: browsers give threads, WebGPU and fine clocks to https pages only."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from edgeseed.core.optional import require

_LIFETIME = datetime.timedelta(days=1)
# A phone's clock may lag behind this machine's.
_CLOCK_SKEW = datetime.timedelta(days=1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """A self-signed certificate on disk.

    Attributes:
        path: certificate and private key in one PEM file.
        fingerprint: SHA-256 of the certificate, as browsers show it: `AB:CD:...`.
    """

    path: Path
    fingerprint: str


def make_certificate(host: str, folder: Path) -> Certificate:
    """Write a self-signed certificate for `host`, an IP address or a name, valid for a day.

    Raises:
        MissingDependencyError: If the library that makes it is not installed.
    """
    require("cryptography", extra="browser", why="https for --lan")
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, f"edgeseed on {host}")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SKEW)
        .not_valid_after(now + _LIFETIME)
        .add_extension(x509.SubjectAlternativeName([_general_name(host)]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = folder / "server.pem"
    path.touch(mode=0o600)
    path.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return Certificate(
        path=path, fingerprint=certificate.fingerprint(hashes.SHA256()).hex(":").upper()
    )


def _general_name(host: str):  # type: ignore[no-untyped-def]  # the types are cryptography's
    from cryptography import x509

    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        return x509.DNSName(host)
