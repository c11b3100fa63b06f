"""Every error that FedX raises on purpose.

    FedXError
    ├── ConfigError (ValueError)             E_CONFIG     a setting that can't be
    │   └── UnknownNameError                 E_NAME       no plug-in of that name
    ├── DataError (ValueError)               E_DATA       unusable images, labels or shards
    │   ├── SourceMissingError (FileNotFoundError)  E_SOURCE  a raw data set that isn't there
    │   └── ReferenceSetError                E_REFERENCE  reference set empty or without a class
    ├── MaskError (ValueError)               E_MASK       a mask that doesn't fit its model
    ├── PayloadError (ValueError)            E_PAYLOAD    corrupt, truncated or foreign bytes
    │   ├── SchemaError                      E_SCHEMA     names, shapes or dtypes other than agreed
    │   └── NonFiniteError                   E_NONFINITE  NaN or infinity in an update
    ├── StoreError (OSError)                 E_STORAGE    a store that can't be read or written
    │   ├── AlreadyExistsError (FileExistsError)   E_EXISTS   a write-once key is taken
    │   └── ObjectMissingError (FileNotFoundError) E_MISSING  no object of that key
    ├── TrackingError (OSError)              E_TRACKING   MLflow lacks what a run has written down
    └── RunError (RuntimeError)              E_RUN        a run that can't start or go on
        ├── QuorumError                      E_QUORUM     too few clients reported
        ├── StoppedError                     E_STOPPED    a run that ended before its last round
        ├── RunExistsError                   E_RUN_EXISTS the run folder holds another run
        ├── VersionError                     E_VERSION    written by another version
        └── LostRaceError                    E_LOST_RACE  another server commits this run

Each message says what was found, what was wanted and what to do next.
"""

from collections.abc import Mapping


class FedXError(Exception):
    """Base of all deliberate errors; ``code`` is stable and meant for machines."""

    code = "E_FEDX"


class ConfigError(FedXError, ValueError):
    """A setting has the wrong type, an impossible value or an unknown name."""

    code = "E_CONFIG"


class UnknownNameError(ConfigError):
    """No plug-in file of that name exists."""

    code = "E_NAME"


class DataError(FedXError, ValueError):
    """Images, labels or shards can't be used as they are."""

    code = "E_DATA"


class SourceMissingError(DataError, FileNotFoundError):
    """A raw data set is not where it was looked for."""

    code = "E_SOURCE"


class ReferenceSetError(DataError):
    """The reference set is empty or lacks a class."""

    code = "E_REFERENCE"


class MaskError(FedXError, ValueError):
    """A mask does not fit the model it is meant for."""

    code = "E_MASK"


class PayloadError(FedXError, ValueError):
    """Bytes are corrupt, truncated or of another format."""

    code = "E_PAYLOAD"


class SchemaError(PayloadError):
    """Names, shapes or dtypes differ from what both sides agreed on."""

    code = "E_SCHEMA"


class NonFiniteError(PayloadError):
    """An update holds NaN or infinity."""

    code = "E_NONFINITE"


class StoreError(FedXError, OSError):
    """A store can't be read or written."""

    code = "E_STORAGE"


class AlreadyExistsError(StoreError, FileExistsError):
    """A write-once key is taken."""

    code = "E_EXISTS"


class ObjectMissingError(StoreError, FileNotFoundError):
    """No object has that key."""

    code = "E_MISSING"


class TrackingError(FedXError, OSError):
    """A copy in MLflow could not be brought up to date."""

    code = "E_TRACKING"


class RunError(FedXError, RuntimeError):
    """A run can't start or can't go on."""

    code = "E_RUN"


class QuorumError(RunError):
    """Fewer clients reported than the round needs.

    Args:
        said: the message.
        lost: why each lost client does not count, by its name.
    """

    code = "E_QUORUM"

    def __init__(self, said: str, lost: Mapping[str, str] | None = None) -> None:
        super().__init__(said)
        self.lost = dict(lost or {})


class StoppedError(RunError):
    """A run ended before its last round; it can be resumed."""

    code = "E_STOPPED"


class RunExistsError(RunError):
    """The run folder holds a run already."""

    code = "E_RUN_EXISTS"


class VersionError(RunError):
    """Something was written by another version of FedX."""

    code = "E_VERSION"


class LostRaceError(RunError):
    """Another server is committing the same run."""

    code = "E_LOST_RACE"
