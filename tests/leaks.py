"""Secrets as they might be written somewhere, and where to look for them."""

import base64
import json
import re
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

SIGNATURE = re.compile(rb"X-Amz-Signature(=|%3D)\w{8}", re.I)
_WORD = b"X-Amz-Signature"


def forms(secret: bytes) -> dict[str, bytes]:
    """Return a secret as it stands in files, by the name of the form.

    What is encoded together with other bytes may begin at each third of base64's groups; of those
    forms, only what depends on the secret alone is looked for.
    """
    found = {"raw": secret, "hex": secret.hex().encode(), "repr": repr(secret)[2:-1].encode()}
    for skip in range(3):
        coded = base64.b64encode(bytes(skip) + secret)
        inner = coded[4 * bool(skip) : len(coded) - 4 * ((skip + len(secret)) % 3 > 0)]
        found[f"base64 at {skip}"] = inner
        found[f"base64 for URLs at {skip}"] = inner.replace(b"+", b"-").replace(b"/", b"_")
    return found


def leaked(said: bytes, secrets: Mapping[str, bytes]) -> list[str]:
    """Name the secrets in bytes, and whether a signed URL is among them.

    Args:
        said: bytes to search.
        secrets: bytes of each, by what it is.
    """
    leaks = [
        f"{name} {form}"
        for name, secret in secrets.items()
        for form, coded in forms(secret).items()
        if coded in said
    ]
    leaks += ["a signed URL"] * bool(SIGNATURE.search(said))
    coded = (form for name, form in forms(_WORD).items() if name.startswith("base64"))
    return leaks + ["a signed URL in base64"] * any(form in said for form in coded)


def rows(database: Path) -> Iterator[tuple[str, bytes]]:
    """Give out every value in every table of an SQLite file: where it stands, and its bytes.

    Text within JSON is given out as it is meant, too: there, a path's or key's letters may be
    escaped.
    """
    with sqlite3.connect(f"file:{database}?mode=ro", uri=True) as opened:
        tables = opened.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall()
        for (table,) in tables:
            read = opened.execute(f'SELECT * FROM "{table}"')
            columns = [column[0] for column in read.description]
            for row in read:
                for column, value in zip(columns, row, strict=True):
                    place = f"{table}.{column}"
                    if isinstance(value, bytes):
                        yield place, value
                    elif value is not None:
                        text = str(value)
                        yield place, text.encode()
                        if text[:1] in "{[" and "\\" in text:
                            yield place, json.dumps(json.loads(text), ensure_ascii=False).encode()
