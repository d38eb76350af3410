"""What check_cert says of certificates, also of odd ones: each is made here, byte by byte."""

from __future__ import annotations

import datetime
import functools
import ssl
import subprocess
from pathlib import Path

import pytest
from fake_server import run_plugin, serving

from dmonitor.probe import certificate
from dmonitor.probe.outcome import Fail

CERT = Path(__file__).parents[1] / "plugins/check_cert"
NAME, ORGANIZATION = b"\x55\4\3", b"\x55\4\x0a"  # object identifiers
UTF8, OCTETS, SEQUENCE, SET = 0x0C, 0x04, 0x30, 0x31


def element(tag: int, *parts: bytes) -> bytes:
    value = b"".join(parts)
    if len(value) < 128:
        return bytes([tag, len(value)]) + value
    return bytes([tag, 0x82]) + len(value).to_bytes(2, "big") + value


def named(kind: bytes, value: bytes, tag: int = UTF8) -> bytes:
    return element(SET, element(SEQUENCE, element(6, kind), element(tag, value)))


def days_ahead(days: float) -> bytes:
    moment = datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=days)
    return element(0x17, moment.strftime("%y%m%d%H%M%SZ").encode())


@functools.cache
def key() -> tuple[str, bytes]:
    """Return a private key, and its public key as DER."""
    made = subprocess.run(
        ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"],
        capture_output=True, check=True,
    ).stdout  # fmt: skip
    public = subprocess.run(
        ["openssl", "pkey", "-pubout", "-outform", "DER"],
        input=made, capture_output=True, check=True,
    ).stdout  # fmt: skip
    return made.decode(), public


VERSION_3 = element(0xA0, b"\2\1\2")


def certified(issuer: bytes, subject: bytes, ends: bytes, version: bytes = VERSION_3) -> bytes:
    """Return a certificate as DER; its signature is none."""
    algorithm = element(SEQUENCE, element(6, bytes.fromhex("2a8648ce3d040302")))
    times = element(SEQUENCE, days_ahead(-10), ends)
    names = element(SEQUENCE, issuer), times, element(SEQUENCE, subject)
    fields = version, element(2, b"\1"), algorithm, *names, key()[1]
    signature = element(3, b"\0", element(SEQUENCE, element(2, b"\1"), element(2, b"\1")))
    return element(SEQUENCE, element(SEQUENCE, *fields), algorithm, signature)


def said_of(directory: Path, *shown: bytes) -> str:
    """Return what check_cert says of a server that shows these."""
    path = directory / "pem"
    path.write_text(key()[0] + "".join(map(ssl.DER_cert_to_PEM_cert, shown)))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return asked(context)


def asked(context: ssl.SSLContext) -> str:
    with serving([context, 0.5]) as server:
        said = run_plugin(CERT, "127.0.0.1", PORT=server.port)
        assert server.reached()
    return said


@pytest.mark.parametrize(
    "subject",
    [
        b"",
        named(ORGANIZATION, b"nobody"),
        named(NAME, "bücher.example".encode()),
        named(NAME, b"b\xfccher.example", 0x14),
        named(NAME, b"www.example.com\0.example.net"),
        named(NAME, b"x" * 10_000),
    ],
)
def test_whatever_name_a_certificate_has_it_lasts(subject: bytes, tmp_path: Path) -> None:
    shown = certified(b"", subject, days_ahead(40.5))
    assert said_of(tmp_path, shown).startswith("OK the certificate ends in 40 days, on ")


@pytest.mark.parametrize(
    ("subject", "name"),
    [
        (b"", "without a name"),
        (named(ORGANIZATION, b"nobody"), "without a name"),
        (named(ORGANIZATION, b"x") + named(NAME, "Büro".encode()), "Büro"),
        # The object identifier of a common name, in the midst of something else.
        (named(ORGANIZATION, b"x\6\3\x55\4\3"), "without a name"),
        (named(ORGANIZATION, b"x\6\3\x55\4\3\x0c\x7fy"), "without a name"),
    ],
)
def test_an_authority_is_named(subject: bytes, name: str, tmp_path: Path) -> None:
    chain = certified(subject, b"", days_ahead(40)), certified(b"", subject, days_ahead(5.5))
    assert said_of(tmp_path, *chain).startswith(f"FAIL the authority {name} ends in 5 days, on ")


@pytest.mark.parametrize(
    "ends", [b"", b"3012312359Z", b"301331235959Z", b"301231235959+0100", b"\xff" * 13]
)
def test_a_date_that_is_none(ends: bytes) -> None:
    """Newer versions of OpenSSL make no server that shows some of these."""
    shown = certified(b"", b"", element(0x17, ends))
    with pytest.raises(Fail, match="its certificate cannot be read"):
        certificate.read(shown)


def test_every_cut_of_a_certificate_is_a_fault_of_its_server() -> None:
    whole = certified(named(NAME, b"issuer"), named(NAME, b"subject"), days_ahead(40))
    assert certificate.read(whole).name == "subject"
    for length in range(len(whole)):
        with pytest.raises(Fail):
            certificate.read(whole[:length])


def test_a_server_that_shows_no_certificate() -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.set_ciphers("aNULL:@SECLEVEL=0")
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    assert asked(context) == "FAIL it shows no certificate"


def test_an_odd_authority_of_this_machine_is_no_fault_of_the_host(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dmonitor.probe import lasting

    name, subject = named(NAME, b"odd"), named(NAME, b"authority")
    odd = certified(name, name, element(0x18, b"20401231235959.5Z"), b"")
    both = odd, certified(subject, subject, days_ahead(400), b"")
    roots = tmp_path / "roots"
    roots.write_text("".join(map(ssl.DER_cert_to_PEM_cert, both)))
    monkeypatch.setattr(lasting, "_AUTHORITIES", str(roots))
    with pytest.raises(Fail):
        certificate.read(odd)
    chain = certified(subject, b"", days_ahead(40)), certified(subject, subject, days_ahead(5))
    said = lasting.judge([certificate.read(each) for each in chain], 14)
    assert said.startswith("the certificate ends in ")
