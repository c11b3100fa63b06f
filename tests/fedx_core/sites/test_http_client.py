"""Requests of a site: bounded, private, clear when they fail; the server misbehaves on order."""

import contextlib
import hashlib
import ipaddress
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from fedx_core.base.errors import (
    AlreadyExistsError,
    ClockError,
    ConfigError,
    StoreError,
    TooBigError,
)
from fedx_core.sites import http_client
from fedx_core.sites.grants import Grant, GrantedStore
from fedx_core.sites.http_client import HttpClient, check_address
from fedx_core.store import FileStore

Behaviour = Callable[["Handler", int], None]
"""What the server does at a request, given how many came before."""


class Handler(BaseHTTPRequestHandler):
    behaviour: Behaviour
    seen: int = 0

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        number, type(self).seen = type(self).seen, type(self).seen + 1
        type(self).behaviour(self, number)

    do_PUT = do_GET

    def answer(self, status: int, body: bytes = b"", length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None: ...


@contextmanager
def serving(behaviour: Behaviour, context: ssl.SSLContext | None = None) -> Iterator[str]:
    handler = type("Once", (Handler,), {"behaviour": behaviour, "seen": 0})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"{'https' if context else 'http'}://127.0.0.1:{server.server_address[1]}/bucket/key"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def hasty(attempts: int = 5) -> HttpClient:
    return HttpClient(attempts=attempts, first_pause=0.001)


def test_a_failing_store_is_asked_again(tmp_path: Path) -> None:
    def fails_twice(handler: Handler, number: int) -> None:
        handler.answer(*((503, b"") if number < 2 else (200, b"bytes")))

    with serving(fails_twice) as url:
        assert hasty().get(url, 5, "it").data == b"bytes"


def test_a_store_that_keeps_failing_is_given_up_in_words_without_the_url() -> None:
    with serving(lambda handler, _: handler.answer(500)) as url:
        signed = f"{url}?X-Amz-Signature=canary"
        with pytest.raises(StoreError, match=r"failed 3 times, last with HTTP 500") as refused:
            hasty(3).get(signed, 5, "'base'")
    assert "canary" not in f"{refused.value}{refused.value.__cause__}"
    assert refused.value.__suppress_context__ or refused.value.__context__ is None


def test_a_body_that_is_cut_short_is_fetched_again() -> None:
    def cut_once(handler: Handler, number: int) -> None:
        handler.answer(200, b"byt" if number == 0 else b"bytes", length=5)
        handler.close_connection = True

    with serving(cut_once) as url:
        assert hasty().get(url, 5, "it").data == b"bytes"


def test_a_long_body_is_not_read_whether_it_says_so_or_not() -> None:
    with (
        serving(lambda handler, _: handler.answer(200, b"x" * 100_000)) as url,
        pytest.raises(TooBigError, match="100000 bytes, at most 10"),
    ):
        hasty().get(url, 10, "it")

    def unsaid(handler: Handler, _: int) -> None:
        handler.send_response(200)
        handler.end_headers()
        handler.wfile.write(b"x" * 100_000)
        handler.close_connection = True

    with serving(unsaid) as url, pytest.raises(TooBigError, match="more than the 10 bytes"):
        hasty().get(url, 10, "it")


def test_a_redirection_is_not_followed() -> None:
    def elsewhere(handler: Handler, _: int) -> None:
        handler.send_response(307)
        handler.send_header("Location", "http://192.0.2.1/")
        handler.send_header("Content-Length", "0")
        handler.end_headers()

    with serving(elsewhere) as url:
        assert hasty().get(url, 10, "it").status == 307


def test_an_answer_that_got_lost_makes_the_next_attempt_meet_its_own_object(tmp_path: Path) -> None:
    def loses_first_answer(handler: Handler, number: int) -> None:
        if number == 0:
            handler.close_connection = True  # stored, and nothing said
        else:
            handler.answer(412, b"<Error><Code>PreconditionFailed</Code></Error>")

    with serving(loses_first_answer) as url:
        grant = Grant("put", "uplink", 4, url, {}, 0.0)
        assert GrantedStore([grant], None, hasty()).create("uplink", b"mine").size == 4


def test_a_restarted_site_knows_its_own_object_and_no_other(tmp_path: Path) -> None:
    with serving(lambda handler, _: handler.answer(412)) as url:
        grant = Grant("put", "uplink", 4, url, {}, 0.0)
        with pytest.raises(AlreadyExistsError):
            GrantedStore([grant], None, hasty()).create("uplink", b"mine")
        # As a site leaves it that was killed while it stored.
        FileStore(tmp_path).put("uplink", _sha256(b"mine"))
        again = GrantedStore([grant], FileStore(tmp_path), hasty())
        assert again.create("uplink", b"mine").size == 4
        with pytest.raises(AlreadyExistsError, match="did not store"):
            again.create("uplink", b"else")


def test_a_clock_that_is_off_is_named() -> None:
    body = b"<Error><Code>RequestTimeTooSkewed</Code></Error>"
    with (
        serving(lambda handler, _: handler.answer(403, body)) as url,
        pytest.raises(ClockError, match="set the coordinator's clock"),
    ):
        hasty().get(url, 10, "it")


@pytest.mark.parametrize("url", ["http://192.0.2.1/b/k", "http://store.example/b/k?a=b"])
def test_plain_http_is_for_loopback_unless_somebody_allows_it(url: str) -> None:
    with pytest.raises(ConfigError, match=r"plain HTTP.*FEDX_PLAIN_HTTP=allowed") as refused:
        hasty(1).get(url, 10, "it")
    assert "a=b" not in str(refused.value)
    check_address(url, plain_http=True)
    check_address(url.replace("http:", "https:"))
    for here in ("http://127.0.0.1:8333/b/k", "http://localhost/b", "http://[::1]:8333/b"):
        check_address(here)


@pytest.mark.parametrize("url", ["ftp://127.0.0.1/b", "file:///etc/passwd", "https:///b", ""])
def test_what_is_no_address_is_refused(url: str) -> None:
    with pytest.raises(ConfigError, match="no address of an object store"):
        check_address(url, plain_http=True)


def test_a_certificate_that_nobody_vouches_for_is_refused_and_can_be_trusted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = _certificate(tmp_path, days=2)
    with serving(lambda handler, _: handler.answer(200, b"bytes"), context) as url:
        with pytest.raises(StoreError, match=r"can't be trusted: .*self.signed.*SSL_CERT_FILE"):
            hasty().get(url, 5, "it")
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
        assert hasty().get(url, 5, "it").data == b"bytes"


def test_an_expired_certificate_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    context = _certificate(tmp_path, days=-1)
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "cert.pem"))
    with (
        serving(lambda handler, _: handler.answer(200), context) as url,
        pytest.raises(StoreError, match=r"expired.*have the certificate renewed"),
    ):
        hasty().get(url, 5, "it")


def _certificate(folder: Path, days: int) -> ssl.SSLContext:
    """Have a key of 127.0.0.1 sign its own certificate, which ends in so many days."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    here = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - timedelta(days=10))
        .not_valid_after(now + timedelta(days=days))
        .add_extension(here, critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    secret = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "cert.pem").write_bytes(certificate.public_bytes(pem))
    (folder / "key.pem").write_bytes(secret)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
    return context


def _sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).hexdigest().encode()


def drips(handler: Handler, _: int) -> None:
    """Send a byte now and then, so that no single read takes long."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100000")
    handler.end_headers()
    with contextlib.suppress(OSError):
        while True:
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(0.05)


def drips_headers(handler: Handler, _: int) -> None:
    with contextlib.suppress(OSError):
        handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
        while True:
            handler.wfile.write(b"X-More: 1\r\n" if _ % 2 else b"X")
            handler.wfile.flush()
            time.sleep(0.05)


def drips_without_end(handler: Handler, _: int) -> None:
    handler.send_response(200)
    handler.end_headers()
    with contextlib.suppress(OSError):
        while True:
            handler.wfile.write(b"x")
            handler.wfile.flush()
            time.sleep(0.05)


@pytest.mark.parametrize("slow", [drips, drips_headers, drips_without_end])
def test_a_request_ends_however_slowly_the_store_goes_on(slow: Behaviour) -> None:
    with serving(slow) as url, pytest.raises(StoreError, match=r"given up after .* as a whole"):
        HttpClient(whole=0.5).get(url, 100_000, "it")


def test_a_request_ends_though_nobody_takes_what_it_sends(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http_client, "SLOWEST", 2**30)
    with socket.create_server(("127.0.0.1", 0)) as server:
        url = f"http://127.0.0.1:{server.getsockname()[1]}/x"
        with pytest.raises(StoreError, match="given up after"):
            HttpClient(whole=0.5).put(url, bytes(16 * 2**20), "it", {})


def test_a_request_ends_amid_a_handshake(tmp_path: Path) -> None:
    """A server that takes the line and says a byte of TLS now and then."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]

        def one() -> None:
            line, _ = server.accept()
            with line, contextlib.suppress(OSError):
                line.sendall(b"\x16\x03\x03\x40\x00")
                while True:
                    line.sendall(b"\x02")
                    time.sleep(0.05)

        thread = threading.Thread(target=one)
        thread.start()
        with pytest.raises(StoreError, match="given up"):
            HttpClient(whole=0.5).get(f"https://127.0.0.1:{port}/x", 5, "it")
        thread.join(10)
        assert not thread.is_alive()
