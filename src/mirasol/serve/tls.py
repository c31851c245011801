"""A self-signed certificate, with which a browser on another machine lets the page use camera and microphone."""

import ipaddress
import os
import socket
from datetime import UTC, datetime, timedelta
from pathlib import Path

DAYS = 397  # browsers refuse a longer validity
NAMES = ("localhost", "127.0.0.1", "::1")


def own_certificate(folder: Path, host: str) -> tuple[Path, Path, str]:
    """Return certificate, private key and the certificate's SHA-256.

    They are made if they are absent, expire within a day, or are for other names.

    Raises:
        ValueError: The package cryptography is absent.
    """
    try:
        from cryptography import x509
        from cryptography.hazmat.primitives import hashes, serialization
        from cryptography.hazmat.primitives.asymmetric import ec
    except ModuleNotFoundError as error:
        raise ValueError(
            "Expected the package cryptography to make a certificate, found that it is not installed. Run pip install "
            "'mirasol[serve]', or pass --tls-cert and --tls-key."
        ) from error
    names = list(dict.fromkeys([*NAMES, socket.gethostname(), host]))
    alternatives = x509.SubjectAlternativeName([_general_name(x509, name) for name in names])
    certificate_file, key_file = folder / "tls" / "certificate.pem", folder / "tls" / "key.pem"
    now = datetime.now(UTC)
    if certificate_file.is_file() and key_file.is_file():
        found = x509.load_pem_x509_certificate(certificate_file.read_bytes())
        known = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        if found.not_valid_after_utc > now + timedelta(days=1) and known == alternatives:
            return certificate_file, key_file, found.fingerprint(hashes.SHA256()).hex(":")
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mirasol")])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=DAYS))
        .add_extension(alternatives, critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    folder.joinpath("tls").mkdir(parents=True, exist_ok=True, mode=0o700)
    _write_private(key_file, private)
    _write_private(certificate_file, certificate.public_bytes(serialization.Encoding.PEM))
    return certificate_file, key_file, certificate.fingerprint(hashes.SHA256()).hex(":")


def _general_name(x509, name: str):
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write_private(path: Path, data: bytes) -> None:
    """Write a file that no other user can read at any time."""
    path.unlink(missing_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(data)
