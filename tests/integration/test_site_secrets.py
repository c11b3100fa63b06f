"""T17 of the threat model: a run at sites, and no secret in anything that it leaves or says."""

import base64
import json
import logging
import os
import shutil
import sqlite3
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

import leaks
from bed import tiny
from fedx_core.base import config
from fedx_core.rounds import audit
from fedx_core.sites.home import Home
from fedx_core.sites.http_client import HttpClient
from fedx_core.sites.key_files import FILE
from fedx_core.sites.keys import Keys
from fedx_core.sites.registry import Registry
from fedx_core.store import S3Store, open_store
from flows.running.experiment import carry_out, settle
from flows.runs.live import display
from flows.settings.request import Request
from flows.sites.inboxes import Inboxes, Sent
from flows.sites.post import Post
from flows.sites.serve import Serving
from flows.tracking import tracker
from infra.stack.identities import MLFLOW_PART
from institutions import at_work

pytestmark = pytest.mark.integration

CLIENTS = ("client-00", "client-01", "client-02")


@dataclass(frozen=True)
class Party:
    """A coordinator and the sites it has admitted."""

    registry: Registry
    homes: Sequence[Home]
    shards: Path

    @property
    def secrets(self) -> dict[str, bytes]:
        """Every secret, by what it is."""
        owners: list[Keys] = [self.registry.keys, *(home.keys for home in self.homes)]
        found = {"s3": b"canary-of-s3", "prefect": b"canary-of-prefect"}
        for owner in owners:
            found |= {
                f"{owner.name} signing": owner.signing,
                f"{owner.name} sealing": owner.sealing,
            }
        return found

    def serving(self, bucket: str, said: list[str]) -> list[Serving]:
        """All sites, which know where their letters will lie."""
        inboxes = Inboxes(self.registry, bucket)
        for home in self.homes:
            Post(home.folder, home.keys).invited(inboxes.invite(home.keys.name))
        return [
            Serving(home, self.shards / home.keys.name, HttpClient(), said.append)
            for home in self.homes
        ]

    def leaked(self, said: bytes) -> list[str]:
        """Name the secrets in bytes, and whether a signed URL is among them."""
        return leaks.leaked(said, self.secrets)


@pytest.fixture
def party(s3: str, tiny_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Party:
    monkeypatch.setenv("FEDX_COORDINATOR_HOME", str(tmp_path / "sites"))
    monkeypatch.setenv("PREFECT_API_AUTH_STRING", "fedx:canary-of-prefect")
    registry = Registry(tmp_path / "sites")
    homes = []
    for name in CLIENTS:
        home = Home(tmp_path / name)
        registry.admit(home.enroll(name).public, max_examples=100)
        audit.note(registry.folder, "admitted", site=name)
        home.trust(registry.keys.public, os.environ["AWS_ENDPOINT_URL_S3"])
        shard = tmp_path / "shards" / name / name
        shutil.copytree(tiny_data / "synthetic" / "shards" / name, shard)
        homes.append(home)
    return Party(registry, homes, tmp_path / "shards")


def stored(bucket: str) -> dict[str, bytes]:
    """Everything in a bucket but what MLflow keeps there, which the coordinator may not read."""
    store = open_store(f"s3://{bucket}")
    assert isinstance(store, S3Store)
    client: Any = store._client
    pages = client.get_paginator("list_objects_v2").paginate(Bucket=bucket)
    keys = [each["Key"] for page in pages for each in page.get("Contents", [])]
    keys = [key for key in keys if not key.startswith(f"{MLFLOW_PART}/")]
    return {key: client.get_object(Bucket=bucket, Key=key)["Body"].read() for key in keys}


def empty_mlflow(folder: Path) -> str:
    """Make a database of MLflow, and return its URI."""
    from mlflow import MlflowClient

    uri = f"sqlite:///{folder / 'mlflow.db'}"
    with warnings.catch_warnings():
        # MLflow 3.17 maps tables in a way that SQLAlchemy 2.1 is about to drop.
        warnings.simplefilter("ignore")
        MlflowClient(tracking_uri=uri).search_experiments()
    return uri


def test_a_run_at_sites_leaves_and_says_no_secret(
    party: Party,
    s3: str,
    tiny_data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", empty_mlflow(tmp_path))
    monkeypatch.chdir(tmp_path)
    params = tmp_path / "params.yaml"
    params.write_text(yaml.safe_dump(config.as_plain(tiny(federation__rounds=1)), sort_keys=False))
    order = settle(
        Request(
            run="secrets", params=str(params), run_root=str(tmp_path / "runs"),
            data_root=str(tiny_data), store=f"{s3}/secrets",
        )
    )  # fmt: skip
    bucket = s3.removeprefix("s3://")
    shown, letters, said = display("log"), list[bytes](), list[str]()
    send = Inboxes.send

    def kept(*arguments: Any, **named: Any) -> Sent:
        sent = send(*arguments, **named)
        letters.append(sent.letter)
        return sent

    monkeypatch.setattr(Inboxes, "send", kept)
    with at_work(*party.serving(bucket, said)):
        found = carry_out(
            order, run_at="sites", workers=1, display=shown,
            tracker=tracker("mlflow", shown.warn, shown.mention),
        )  # fmt: skip
    assert found["rounds"] == 1
    assert len([line for line in said if "train" in line]) == 3

    assert b"overall_accuracy" in (tmp_path / "mlflow.db").read_bytes()
    objects = stored(bucket)
    assert letters  # which are gone by now
    found_in = {key: party.leaked(data) for key, data in objects.items()}
    found_in["letters"] = party.leaked(b"".join(letters))
    found_in["letters in base64"] = party.leaked(b"".join(map(base64.b64encode, letters)))
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path.name != FILE]
    assert {"rounds.csv", "mlflow.db", audit.FILE, "post"} <= {path.name for path in files}
    found_in |= {str(path): party.leaked(path.read_bytes()) for path in files}
    printed = capfd.readouterr()
    found_in["log"] = party.leaked(caplog.text.encode())
    found_in["stdout"], found_in["stderr"] = (party.leaked(t.encode()) for t in printed)
    found_in["said"] = party.leaked("\n".join(said).encode())
    found_in["summary"] = party.leaked(repr(found).encode())
    assert "botocore" in caplog.text  # so the log does have what libraries say
    assert {place: names for place, names in found_in.items() if names} == {}


def test_the_search_finds_what_is_there(party: Party, tmp_path: Path) -> None:
    for home in party.homes:
        assert party.leaked((home.folder / FILE).read_bytes())
    url = b"https://s3/x?X-Amz-Signature=0123456789"
    assert party.leaked(url) == ["a signed URL"]
    for before in (b"", b"a", b"ab"):
        said = before + b'{"url": "' + url + b'"}'
        assert party.leaked(base64.b64encode(said)) == ["a signed URL in base64"]
        (found,) = leaks.leaked(
            base64.b64encode(before + b"/+canary-of-s3?"), {"s3": b"canary-of-s3"}
        )[:1]
        assert found.startswith("s3 base64")
    assert party.leaked(b"nothing") == []
    database = tmp_path / "found.db"
    with sqlite3.connect(database) as opened:
        opened.execute("CREATE TABLE one (text TEXT, blob BLOB, number INTEGER)")
        opened.execute("INSERT INTO one VALUES (?, ?, 7)", (json.dumps({"a": "ä/x"}), b"\0raw"))
    assert set(leaks.rows(database)) == {
        ("one.text", json.dumps({"a": "ä/x"}).encode()), ("one.text", b'{"a": "\xc3\xa4/x"}'),
        ("one.blob", b"\0raw"), ("one.number", b"7"),
    }  # fmt: skip
