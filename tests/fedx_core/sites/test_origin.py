"""Where a coordinator can have a site send requests: to one store, with S3's own headers."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from asked import COORDINATOR, NORTH, NOW, grant, job, order
from fedx_core.base.errors import ConfigError, OriginError
from fedx_core.sites import invitation, key_files, keys, origin, serving
from fedx_core.sites.home import Home
from fedx_core.sites.http_client import HttpClient
from fedx_core.sites.orders import issue
from flows.sites import serve
from flows.sites.serve import Serving

STORE = "https://s3.example.org"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    key_files.save(NORTH, tmp_path)
    found = Home(tmp_path)
    found.trust(COORDINATOR.public, STORE)
    return found


@contextmanager
def neighbour() -> Iterator[tuple[str, list[str]]]:
    """A service of the site's own machine, and what it was asked."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.command} {self.path} {self.headers.get('Authorization')}")
            self.send_response(404)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_PUT = do_GET

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def leading(to: str, **headers: str) -> Any:
    """An order whose grants all lead somewhere."""
    asked = order()
    grants = tuple(
        grant(each.verb, each.key, each.size, url=f"{to}/x", headers=headers or each.headers)
        for each in asked.grants
    )
    inbox = grant("get", "inbox/north/5d", url=f"{to}/x")
    return order(grants=grants, inbox=inbox, expires=NOW * 2)


def letter(asked: Any) -> bytes:
    return issue(asked, COORDINATOR, NORTH.public)


@pytest.mark.parametrize("told", [None, STORE])
def test_no_letter_has_a_site_call_a_service_of_its_own_machine(
    tmp_path: Path, told: str | None
) -> None:
    key_files.save(NORTH, tmp_path)
    home = Home(tmp_path)
    home.trust(COORDINATOR.public, told)
    with neighbour() as (url, asked):
        evil = leading(url)
        site = Serving(home, tmp_path, HttpClient(attempts=1), lambda _: None)
        assert site.accept(letter(evil)) is None
        with pytest.raises(OriginError):
            serve.take(letter(evil), home, tmp_path, HttpClient(attempts=1))
        with pytest.raises(OriginError):
            serving.answer_or_refuse(evil, home, tmp_path, HttpClient(attempts=1))
        with pytest.raises(OriginError):
            site.invited(invitation.write(evil.inbox, COORDINATOR, NORTH.public))
    assert asked == []
    assert site._post.letters == {}
    assert (home.folder / "audit.jsonl").read_text().count("E_ORIGIN") == 1


@pytest.mark.parametrize(
    "url",
    [
        "http://127.0.0.1:8080", "https://127.0.0.1", "https://[::1]", "https://localhost",
        "https://10.0.0.1", "https://192.168.1.1", "https://169.254.169.254", "https://intranet",
        "http://s3.example.org", "https://a.localhost.", "https://0.0.0.0", "https://printer.local",
    ],
)  # fmt: skip
def test_an_address_nearby_or_in_the_clear_is_for_the_sites_people_to_say(
    tmp_path: Path, url: str
) -> None:
    key_files.save(NORTH, tmp_path)
    home = Home(tmp_path)
    home.trust(COORDINATOR.public)
    with pytest.raises(OriginError, match=r"fedx site trust coordinator\.json --store"):
        home.check(leading(url).all_grants)
    assert home.store is None
    home.trust(COORDINATOR.public, url)
    home.check(leading(url).all_grants)


def test_the_first_letter_names_the_store_where_people_have_not(tmp_path: Path) -> None:
    key_files.save(NORTH, tmp_path)
    home = Home(tmp_path)
    home.trust(COORDINATOR.public)
    home.check(leading(STORE).all_grants)
    assert home.store == f"{STORE}:443"
    with pytest.raises(OriginError, match=r"other\.example.*has moved"):
        home.check(leading("https://other.example").all_grants)
    home.trust(COORDINATOR.public, "https://other.example:443/bucket")
    home.check(leading("https://OTHER.example").all_grants)


def test_another_coordinator_has_another_store(home: Home) -> None:
    (home.folder / "coordinator.json").unlink()
    home.trust(keys.make("coordinator").public)
    assert home.store is None


@pytest.mark.parametrize(
    "url",
    [
        "https://s3.example.org:444", "http://s3.example.org:443", "https://s3.example.org.evil.io",
        "https://s3.example.org@evil.io", "https://evil.io/s3.example.org", "https://evil.io",
        "https://s3.example.org:99999", "file:///etc/passwd", "https://", "ftp://s3.example.org",
        "https://s3.example.org\\@evil.io",
    ],
)  # fmt: skip
def test_what_only_looks_like_the_store_is_refused(home: Home, url: str) -> None:
    with pytest.raises(OriginError):
        home.check(leading(url).all_grants)


def test_one_foreign_grant_among_many_is_enough(home: Home) -> None:
    rest = leading(STORE).grants
    for place in range(len(rest)):
        mixed = list(rest)
        mixed[place] = grant(rest[place].verb, rest[place].key, url="https://evil.io/x")
        with pytest.raises(OriginError):
            home.check(mixed)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("Authorization", "Basic x"), ("Proxy-Authorization", "x"), ("Cookie", "a=b"),
        ("Host", "internal"), ("X-Forwarded-For", "1"), ("Metadata-Flavor", "Google"),
        ("Transfer-Encoding", "chunked"), ("Content-Length", "9"),
        ("x-amz-copy-source", "/other/key"), ("x-amz-security-token", "x"),
        ("If-None-Match", "*\r\nAuthorization: x"), ("If-None-Match", "\u2603"),
        ("if-none-match", ""),
    ],
)  # fmt: skip
def test_headers_that_are_not_s3s_are_refused(home: Home, name: str, value: str) -> None:
    with pytest.raises(OriginError, match="wants the header"):
        home.check(leading(STORE, **{name: value}).all_grants)


def test_what_a_coordinator_signs_is_let_through(home: Home) -> None:
    home.check(leading(STORE, **{"If-None-Match": "*", "Content-Type": "a/b"}).all_grants)
    assert {"authorization", "cookie", "host"} & origin.HEADERS == set()


def test_an_impossible_store_is_refused_before_anybody_is_trusted(tmp_path: Path) -> None:
    key_files.save(NORTH, tmp_path)
    home = Home(tmp_path)
    with pytest.raises(ConfigError, match="https://HOST"):
        home.trust(COORDINATOR.public, "s3://fedx")
    assert not (tmp_path / "coordinator.json").exists()
    assert job().client == "north"
