"""What each user of the object store may do there, tried on the real server."""

import contextlib
import json
import urllib.error
from typing import Any

import pytest
from botocore.exceptions import ClientError

import tracked
from fedx_core.base import plugins
from infra.stack import identities
from infra.stack.settings import Settings

pytestmark = pytest.mark.integration
Up = tuple[Any, Settings]
KEYS = (
    "runs/a/rounds/0001.closed",
    "runs/a/uplink/0001/client-00.0",
    "runs/a/evaluate/0001/client-00.0.report",
    "inbox/north/x",
    "mlflow/1/model",
    "mlflowed/x",
)


def client(settings: Settings, user: str) -> Any:
    from boto3.session import Session
    from botocore.config import Config

    keys = settings.s3_keys(user)
    return Session(
        aws_access_key_id=keys["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=keys["AWS_SECRET_ACCESS_KEY"],
        region_name="us-east-1",
    ).client(
        "s3",
        endpoint_url=settings.s3,
        config=Config(signature_version="s3v4", s3={"addressing_style": "path"}, proxies={}),
    )


def may(ask: Any, **arguments: Any) -> bool:
    try:
        ask(Bucket="fedx", **arguments)
    except ClientError as error:
        if error.response["Error"]["Code"] != "AccessDenied":
            raise
        return False
    return True


@pytest.fixture
def filled(stack: Up) -> Settings:
    """A bucket with one object of each kind."""
    _, settings = stack
    coordinator, mlflow = client(settings, "fedx"), client(settings, "fedx-mlflow")
    for key in KEYS:
        owner = mlflow if key.startswith("mlflow/") else coordinator
        owner.put_object(Bucket="fedx", Key=key, Body=b"kept")
    return settings


@pytest.mark.parametrize(
    ("user", "reads", "writes"),
    [
        ("fedx", (0, 1, 2, 3, 5), (0, 1, 2, 3, 5)),
        ("fedx-worker", (0, 1, 2), (1, 2)),
        ("fedx-mlflow", (4,), (4,)),
    ],
)
def test_each_user_reaches_its_own_part_alone(
    filled: Settings, user: str, reads: tuple[int, ...], writes: tuple[int, ...]
) -> None:
    mine = client(filled, user)
    found = {
        verb: tuple(n for n, key in enumerate(KEYS) if may(ask, Key=key, **more))
        for verb, ask, more in (
            ("get", mine.get_object, {}),
            ("head", lambda **how: mine.get_object(Range="bytes=0-0", **how), {}),
            ("put", mine.put_object, {"Body": b"new"}),
            ("multipart", mine.create_multipart_upload, {}),
            ("delete", mine.delete_object, {}),
        )
    }
    assert found == {
        "get": reads, "head": reads, "put": writes, "multipart": writes, "delete": writes,
    }  # fmt: skip


@pytest.mark.parametrize("user", ["fedx", "fedx-worker", "fedx-mlflow"])
def test_nobody_administers_the_store(filled: Settings, user: str) -> None:
    mine = client(filled, user)
    with pytest.raises(ClientError, match="AccessDenied"):
        mine.create_bucket(Bucket="another")
    everybody = {
        "Version": "2012-10-17",
        "Statement": [
            {
                "Effect": "Allow",
                "Principal": "*",
                "Action": "s3:*",
                "Resource": "arn:aws:s3:::fedx/*",
            }
        ],
    }
    assert not may(mine.put_bucket_policy, Policy=json.dumps(everybody))
    assert not may(mine.delete_bucket)
    # Many at once are refused one by one, in an answer of their own.
    with contextlib.suppress(ClientError):
        mine.delete_objects(Bucket="fedx", Delete={"Objects": [{"Key": key} for key in KEYS]})
    left = set(KEYS) if user != "fedx" else {KEYS[4]}
    if user == "fedx-worker":
        left -= {KEYS[1], KEYS[2]}
    if user == "fedx-mlflow":
        left -= {KEYS[4]}
    readers = (client(filled, "fedx"), client(filled, "fedx-mlflow"))
    assert left == {key for key in KEYS if any(holds(reader, key) for reader in readers)}


def holds(reader: Any, key: str) -> bool:
    try:
        reader.get_object(Bucket="fedx", Key=key)
    except ClientError as error:
        if error.response["Error"]["Code"] not in ("AccessDenied", "NoSuchKey"):
            raise
        return False
    return True


def test_workers_and_mlflow_see_no_names_but_their_own(filled: Settings) -> None:
    for user, prefix, allowed in (
        ("fedx-worker", "", False),
        ("fedx-worker", "runs/", False),
        ("fedx-mlflow", "", False),
        ("fedx-mlflow", "runs/", False),
        ("fedx-mlflow", "mlflow/", True),
        ("fedx", "runs/", True),
    ):
        assert may(client(filled, user).list_objects_v2, Prefix=prefix) == allowed, (user, prefix)


def test_clients_write_where_jobs_have_them_write() -> None:
    folders = {"uplink" if purpose == "train" else purpose for purpose in plugins.names("asks")}
    assert set(identities.ANSWERS) == folders


def test_a_model_version_of_mlflow_whose_source_is_a_run_reads_nothing_of_it(
    filled: Settings,
) -> None:
    def read(model: str, source: str, path: str) -> bytes:
        tracked.ask(filled, "/api/2.0/mlflow/registered-models/create", {"name": model})
        tracked.ask(
            filled, "/api/2.0/mlflow/model-versions/create", {"name": model, "source": source}
        )
        return tracked.ask(
            filled, f"/model-versions/get-artifact?name={model}&version=1&path={path}"
        )

    assert read("honest", "s3://fedx/mlflow/1", "model") == b"kept"
    with pytest.raises(urllib.error.HTTPError) as refusal:
        read("thief", "s3://fedx/runs/a/rounds", "0001.closed")
    with refusal.value as said:
        assert b"kept" not in said.read()
