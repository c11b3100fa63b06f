"""Who may do what in the object store: three users, none of whom is its administrator.

    fedx         the coordinator and its shell: all of the bucket but MLflow's part
    fedx-worker  clients' workers: read runs, and store and delete what clients send
    fedx-mlflow  MLflow's server: its own part

The policies are in AWS's language, for the stack's own server and for any other that speaks it.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fedx_core.base import strict_json
from infra.stack import certificates
from infra.stack.settings import BUCKET

ANSWERS = ("uplink", "evaluate", "statistics")
"""Folders of a run that clients write to: what they train, and what else they are asked."""

MLFLOW_PART = "mlflow"
"""Folder of the bucket that is MLflow's."""

_OBJECTS = (
    "s3:GetObject", "s3:PutObject", "s3:DeleteObject", "s3:AbortMultipartUpload",
    "s3:ListMultipartUploadParts",
)  # fmt: skip


def policies() -> dict[str, dict[str, Any]]:
    """Return each user's policy document; what it does not allow is refused."""
    return {
        "fedx": _policy(
            _allow(("s3:CreateBucket", "s3:ListBucket"), ""),
            _allow(_OBJECTS, "/*"),
            {**_allow(("s3:*",), f"/{MLFLOW_PART}/*"), "Effect": "Deny"},
        ),
        "fedx-worker": _policy(
            _allow(("s3:GetObject",), "/runs/*"),
            _allow(("s3:PutObject", "s3:DeleteObject"), *(f"/runs/*/{part}/*" for part in ANSWERS)),
        ),
        "fedx-mlflow": _policy(
            _allow(_OBJECTS, f"/{MLFLOW_PART}/*"),
            {
                **_allow(("s3:ListBucket",), ""),
                "Condition": {"StringLike": {"s3:prefix": [MLFLOW_PART, f"{MLFLOW_PART}/*"]}},
            },
        ),
    }


def write(path: Path, keys: Mapping[str, Mapping[str, str]]) -> None:
    """Write SeaweedFS's file of users, for its owner alone.

    Args:
        path: of the file; one that is there is replaced.
        keys: of each user, as boto3 has them in its environment.
    """
    users = [
        {
            "name": user,
            "credentials": [
                {"accessKey": each["AWS_ACCESS_KEY_ID"], "secretKey": each["AWS_SECRET_ACCESS_KEY"]}
            ],
            "policyNames": [user],
        }
        for user, each in keys.items()
    ]
    documents = [
        {"name": user, "content": strict_json.dumps(policy)} for user, policy in policies().items()
    ]
    said = strict_json.dumps({"identities": users, "policies": documents})
    certificates.write(path, said.encode())


def _policy(*statements: dict[str, Any]) -> dict[str, Any]:
    return {"Version": "2012-10-17", "Statement": list(statements)}


def _allow(actions: tuple[str, ...], *places: str) -> dict[str, Any]:
    return {
        "Effect": "Allow",
        "Action": list(actions),
        "Resource": [f"arn:aws:s3:::{BUCKET}{place}" for place in places],
    }
