"""Where bytes are kept: memory, files or S3 behind the same few verbs.

    put     an object, named by the caller; its reference carries hash and length
    get     an object by reference; no more than its length is fetched, and the hash is checked
    create  an object only if its key is free: the one thing that two servers can race for
    read    an object by key, or None; for the keys that are known in advance (journal, reports)
    delete  an object, if it is there

Nothing is ever listed: every key can be derived from the journal.

An object is there whole or not at all. A store of files also forces it onto the disk before it goes
on, unless it is opened as not ``durable``: then the machine going down (not the process) may take
the last seconds' objects along, or leave them cut short, and whoever wrote them has to be able to
write them again.
"""

from fedx_core.store.base import Buffer, Store, create_once, put_by_hash, reference
from fedx_core.store.files import FileStore
from fedx_core.store.memory import MemoryStore
from fedx_core.store.opening import open_store
from fedx_core.store.s3 import S3Store

__all__ = [
    "Buffer", "FileStore", "MemoryStore", "S3Store", "Store",
    "create_once", "open_store", "put_by_hash", "reference",
]  # fmt: skip
