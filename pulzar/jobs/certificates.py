"""Who may talk to the scheduler: the cluster's certificate authority, made from the cluster's key.

Whoever has the key has the authority, and signs a certificate for itself; nothing is to be sent or
kept, and a master that has lost its disk makes the same one again. The authority's private key is
HKDF (RFC 5869) of the cluster's key; all keys are Ed25519. Dates say nothing here: they are wide,
and the clocks of machines do not matter.
"""

import datetime as dt

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

_FROM = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
_UNTIL = dt.datetime(2120, 1, 1, tzinfo=dt.UTC)
_AUTHORITY = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "Pulzar cluster")])


class Certificate(msgspec.Struct, frozen=True):
    """All in PEM: that of the authority, one that it has signed, and the private key of that."""

    authority: str
    certificate: str
    private_key: str


def certificate(key: str, name: str) -> Certificate:
    """A fresh certificate of the cluster with that key (hex), for a program with a name."""
    secret = HKDF(hashes.SHA256(), length=32, salt=None, info=b"pulzar certificate authority")
    authority = Ed25519PrivateKey.from_private_bytes(secret.derive(bytes.fromhex(key)))
    own = Ed25519PrivateKey.generate()
    root = (
        _builder(_AUTHORITY)
        .public_key(authority.public_key())
        .serial_number(1)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(authority, None)
    )
    signed = (
        _builder(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name[:64])]))
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .sign(authority, None)
    )
    private = own.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    pem = serialization.Encoding.PEM
    return Certificate(
        root.public_bytes(pem).decode(), signed.public_bytes(pem).decode(), private.decode()
    )


def _builder(subject: x509.Name) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(_AUTHORITY)
        .not_valid_before(_FROM)
        .not_valid_after(_UNTIL)
    )
