"""Which store a URI names."""

from pathlib import Path
from urllib.parse import urlsplit

from fedx_core.base.errors import ConfigError
from fedx_core.store import memory
from fedx_core.store.base import Store
from fedx_core.store.files import FileStore
from fedx_core.store.s3 import S3Store


def open_store(uri: str, *, durable: bool = True) -> Store:
    """Open a store by its URI.

    Args:
        uri: ``memory://NAME`` (this process only), ``s3://BUCKET/PREFIX`` (credentials and
            endpoint from boto3's environment, ``AWS_ENDPOINT_URL_S3`` among it), ``file:///PATH``
            or a plain path.
        durable: whether files are forced onto the disk; see :mod:`fedx_core.store`.

    Raises:
        ConfigError: another scheme.
    """
    parts = urlsplit(uri)
    if parts.scheme == "memory":
        return memory.named(f"{parts.netloc}{parts.path}")
    if parts.scheme == "s3":
        return S3Store(parts.netloc, parts.path.strip("/"))
    if parts.scheme in ("file", ""):
        return FileStore(Path(parts.path if parts.scheme else uri), durable=durable)
    raise ConfigError(f"no store for {uri!r}; use memory://, file://, s3:// or a path")
