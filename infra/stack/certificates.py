"""Mutual TLS for SeaweedFS's inner doors: who lacks the key can't say a word there.

Master, volumes and files listen on ports of their own, over HTTP and over gRPC, and by themselves
ask nobody who they are. With these certificates each takes connections only from who has one of the
same authority, and that is SeaweedFS itself: authority and certificate are made anew each time that
it starts, and the authority's own key is written nowhere.
"""

import datetime
import ipaddress
from pathlib import Path

from fedx_core.base import unfinished

AUTHORITY, CERTIFICATE, KEY = "authority.pem", "certificate.pem", "key.pem"
VALID = datetime.timedelta(days=3650)
"""Longer than a server runs without a new start."""

_LISTENERS = ("MASTER", "VOLUME", "FILER", "ADMIN")
_GRPC_ONLY = ("S3", "MSG_BROKER", "MSG_AGENT", "WORKER", "MQ")


def make(folder: Path) -> None:
    """Write an authority, a certificate of it and that one's key, for their owner alone.

    Args:
        folder: that is there.
    """
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

    def certificate(
        name: str, public: ec.EllipticCurvePublicKey, issuer: str
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        subject, by = (
            x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)]) for text in (name, issuer)
        )
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(by)
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=1))  # clocks are set back at times
            .not_valid_after(now + VALID)
        )

    signer, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = (
        certificate("fedx stack", signer.public_key(), "fedx stack")
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(signer, hashes.SHA256())
    )
    own = (
        certificate("seaweedfs", key.public_key(), "fedx stack")
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.IPAddress(ipaddress.ip_address("127.0.0.1")), x509.DNSName("localhost")]
            ),
            critical=False,
        )
        .add_extension(
            x509.ExtendedKeyUsage(
                [ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH]
            ),
            critical=False,
        )
        .sign(signer, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    for name, data in (
        (AUTHORITY, authority.public_bytes(pem)),
        (CERTIFICATE, own.public_bytes(pem)),
        (KEY, secret),
    ):
        write(folder / name, data)


def write(path: Path, data: bytes) -> None:
    """Replace a file with one that its owner alone may read."""
    with unfinished.beside(path, mode=0o600) as under_way:
        under_way.write(data, durable=False)
        under_way.path.replace(path)


def environment(folder: Path) -> dict[str, str]:
    """Return what has SeaweedFS ask for a certificate at every inner door, and show its own.

    Names are those of its ``security.toml`` (`weed scaffold -config=security`), and go before it.
    """
    authority, certificate, key = (str(folder / name) for name in (AUTHORITY, CERTIFICATE, KEY))
    said = {"WEED_GRPC_CA": authority, "WEED_HTTPS_CLIENT_ENABLED": "true"}
    for who in (*_LISTENERS, "CLIENT", *_GRPC_ONLY):
        said |= {f"WEED_GRPC_{who}_CERT": certificate, f"WEED_GRPC_{who}_KEY": key}
    for who in (*_LISTENERS, "CLIENT"):
        said |= {
            f"WEED_HTTPS_{who}_CERT": certificate,
            f"WEED_HTTPS_{who}_KEY": key,
            f"WEED_HTTPS_{who}_CA": authority,
        }
    return said
