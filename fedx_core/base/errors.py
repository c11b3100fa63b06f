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
    │   ├── NonFiniteError                   E_NONFINITE  NaN or infinity in an update
    │   ├── NormError                        E_NORM       an update larger than the settings allow
    │   ├── OutlierError                     E_OUTLIER    an update far from all others
    │   ├── DomainError                      E_DOMAIN     a value that can't be
    │   ├── TooBigError                      E_TOO_BIG    more bytes than agreed
    │   └── ExamplesError                    E_EXAMPLES   more examples than a site can have
    ├── StoreError (OSError)                 E_STORAGE    a store that can't be read or written
    │   ├── AlreadyExistsError (FileExistsError)   E_EXISTS   a write-once key is taken
    │   └── ObjectMissingError (FileNotFoundError) E_MISSING  no object of that key
    ├── TrackingError (OSError)              E_TRACKING   MLflow lacks what a run has written down
    ├── SiteError (PermissionError)          E_SITE       coordinator and site disagree, or no keys
    │   ├── SignatureError                   E_SIGNATURE  changed, or not from whom it says
    │   ├── KeyExpiredError                  E_EXPIRED    keys that are not believed any more
    │   ├── UnknownSiteError                 E_UNKNOWN_SITE  nobody of that name is admitted
    │   ├── IdentifierError (ValueError)     E_ID         a name or key that could lead elsewhere
    │   ├── StaleError                       E_STALE      an answer to another job, or a late order
    │   ├── PlanError                        E_PLAN       nobody at the site agreed to the plan
    │   ├── GrantError                       E_GRANT      not granted, refused or expired
    │   ├── OriginError                      E_ORIGIN     leads elsewhere than to the store
    │   └── ClockError                       E_SKEW       two clocks too far apart
    ├── PlatformError (OSError)              E_PLATFORM   a system that FedX does not run on
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


class NormError(PayloadError):
    """An update's norm is larger than the settings allow."""

    code = "E_NORM"


class OutlierError(PayloadError):
    """An update changes the model so much more than the others that it can't be meant."""

    code = "E_OUTLIER"


class DomainError(PayloadError):
    """A value that a client sends lies where none can lie, or nobody has said where it may."""

    code = "E_DOMAIN"


class TooBigError(PayloadError):
    """More bytes came, or were announced, than both sides agreed on."""

    code = "E_TOO_BIG"


class ExamplesError(PayloadError):
    """A site claims more examples than it was admitted with, or fewer than none."""

    code = "E_EXAMPLES"


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


class SiteError(FedXError, PermissionError):
    """Coordinator and site do not agree on something, or one of them lacks its keys."""

    code = "E_SITE"


class SignatureError(SiteError):
    """Something was changed, or does not come from whom it claims to."""

    code = "E_SIGNATURE"


class KeyExpiredError(SiteError):
    """Keys have reached the end of the time for which they were made."""

    code = "E_EXPIRED"


class UnknownSiteError(SiteError):
    """Nobody of that name is admitted here."""

    code = "E_UNKNOWN_SITE"


class IdentifierError(SiteError, ValueError):
    """A name or key is not of the form that is safe in folders and stores."""

    code = "E_ID"


class StaleError(SiteError):
    """An answer to another job, or an order that came too late."""

    code = "E_STALE"


class PlanError(SiteError):
    """Nobody at the site has agreed to a plan."""

    code = "E_PLAN"


class GrantError(SiteError):
    """An object is not granted, or its grant was refused or has expired."""

    code = "E_GRANT"


class OriginError(SiteError):
    """A coordinator would have a site call another place than its store, or in another way."""

    code = "E_ORIGIN"


class ClockError(SiteError):
    """Two clocks are too far apart for grants that expire."""

    code = "E_SKEW"


class PlatformError(FedXError, OSError):
    """The operating system lacks what FedX needs."""

    code = "E_PLATFORM"


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
