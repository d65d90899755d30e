"""Every error that Pulzar raises on purpose, and what each one means to a caller.

    PulzarError
    |-- UsageError                 the caller's mistake: nothing was changed
    |   |-- InvalidKey             empty, too long, control character, not UTF-8
    |   |-- InvalidParameter       a query parameter, header or body that cannot be meant
    |   |-- InvalidSetting         an unknown or bad setting in server.conf, environment, flags
    |   |-- BodyTruncated          the body is shorter or longer than Content-Length says
    |   |-- BodyTimeout            the body did not come in time
    |   |-- ValueTooLarge          larger than limits allow
    |   |-- UnsupportedMediaType   a batch in a format that is not spoken here
    |   |-- BackupUnfit            a target that is no backup of this cluster, or not to be written
    |   |-- NotFoundPath           no such path
    |   `-- MethodNotAllowed       the path exists, the method does not
    |-- KeyNotFound                no such key, or deleted, or expired
    |-- Forbidden                  an internal call without the cluster's key
    |-- MemberRefused              a volume that may not be a member, or not now
    |-- NodeNotFound               no volume of that name in the cluster
    |-- ScriptNotFound             no such script, or directory of scripts
    |-- JobNotFound                no such job, or not any more
    |-- ExtensionNotFound          no such extension
    |-- ExtensionFailed            an extension raised, crashed, or gave back no JSON
    |-- ExtensionTimeout           an extension did not answer in time
    |-- Conflict                   what is asked for would do harm as things are
    |-- ConditionFailed            If-Match / If-None-Match did not hold: nothing was changed
    |-- RangeNotSatisfiable        the range begins behind the end of the value
    |-- HistoryTrimmed             a cursor from before the horizon, or of another opening
    |-- Unavailable                cannot be answered truthfully now; try again
    |   |-- OutcomeUnknown         the write may or may not have happened
    |   |-- WritesStopped          the volume met a disk error and takes no more writes
    |   |-- NotReady               still opening, or already closing
    |   |-- ViewBroken             a view is not to be believed any more: it is made anew
    |   |-- LinkBroken             another machine did not answer, or not in a way that tells
    |   |-- StaleSession           a master's append that is not the next one of the one session
    |   |-- BackupUnreachable      a target that does not answer, or breaks off
    |   `-- UnexpectedAnswer       what answers a client there is no Pulzar
    |-- OutOfSpace                 no room for a PUT; deletes and compaction still work
    |-- Damage                     bytes on disk that fail their checksum: never served
    `-- OpenError                  a directory that cannot be opened
        |-- NotAVolume             not ours
        |-- VolumeInUse            locked by another process
        |-- VolumeTooNew           written by a newer version of Pulzar
        |-- VolumeReadOnly         the file system does not let us write
        `-- SegmentMissing         a segment is neither here nor replaced by one that is

`status` is the HTTP status, `code` the stable word in the problem document (RFC 9457). The
mapping is total: `pulzar/http/problem.py` uses these two and nothing else.
"""

from typing import ClassVar


class PulzarError(Exception):
    """Root of the tree; never raised itself."""

    status: ClassVar[int] = 500
    code: ClassVar[str] = "internal"


# When the caller is wrong.


class UsageError(PulzarError):
    status = 400
    code = "bad_request"


class InvalidKey(UsageError):
    code = "invalid_key"


class InvalidParameter(UsageError):
    code = "invalid_parameter"


class InvalidSetting(UsageError):
    code = "invalid_setting"


class BodyTruncated(UsageError):
    code = "body_length"


class BodyTimeout(UsageError):
    status = 408
    code = "body_timeout"


class ValueTooLarge(UsageError):
    status = 413
    code = "too_large"


class UnsupportedMediaType(UsageError):
    status = 415
    code = "unsupported_media_type"


class NotFoundPath(UsageError):
    status = 404
    code = "unknown_path"


class MethodNotAllowed(UsageError):
    """`allow` are the methods that the path knows."""

    status = 405
    code = "method_not_allowed"

    def __init__(self, message: str, *, allow: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.allow = allow


# When the answer is no.


class KeyNotFound(PulzarError):
    status = 404
    code = "key_not_found"


class ConditionFailed(PulzarError):
    status = 412
    code = "condition_failed"


class Forbidden(PulzarError):
    status = 403
    code = "forbidden"


class MemberRefused(PulzarError):
    status = 409
    code = "member_refused"


class NodeNotFound(PulzarError):
    status = 404
    code = "unknown_node"


class ScriptNotFound(PulzarError):
    status = 404
    code = "unknown_script"


class JobNotFound(PulzarError):
    status = 404
    code = "unknown_job"


class ExtensionNotFound(PulzarError):
    status = 404
    code = "unknown_extension"


class ExtensionFailed(PulzarError):
    status = 502
    code = "extension_failed"


class ExtensionTimeout(PulzarError):
    status = 504
    code = "extension_timeout"


class Conflict(PulzarError):
    status = 409
    code = "conflict"


class RangeNotSatisfiable(PulzarError):
    """`size` is the length of the whole value."""

    status = 416
    code = "range_not_satisfiable"

    def __init__(self, message: str, *, size: int = 0) -> None:
        super().__init__(message)
        self.size = size


class HistoryTrimmed(PulzarError):
    status = 410
    code = "history_trimmed"


# When the answer cannot be given now.


class Unavailable(PulzarError):
    status = 503
    code = "unavailable"


class OutcomeUnknown(Unavailable):
    """The write may or may not have happened. `version` is the one it would have."""

    code = "outcome_unknown"

    def __init__(self, message: str, *, version: int = 0) -> None:
        super().__init__(message)
        self.version = version


class WritesStopped(Unavailable):
    code = "writes_stopped"


class NotReady(Unavailable):
    code = "not_ready"


class ViewBroken(Unavailable):
    """Reset the view and fill it from the log."""

    code = "view_broken"


class LinkBroken(Unavailable):
    code = "link_broken"


class StaleSession(Unavailable):
    status = 409
    code = "stale_session"


class UnexpectedAnswer(Unavailable):
    status = 502
    code = "unexpected_answer"


class BackupUnfit(UsageError):
    code = "backup_unfit"


class BackupUnreachable(Unavailable):
    code = "backup_unreachable"


class OutOfSpace(PulzarError):
    status = 507
    code = "out_of_space"


class Damage(PulzarError):
    status = 503
    code = "damaged"


# When a directory is opened.


class OpenError(PulzarError):
    status = 503
    code = "open_failed"


class NotAVolume(OpenError):
    code = "not_a_volume"


class VolumeInUse(OpenError):
    code = "volume_in_use"


class VolumeTooNew(OpenError):
    code = "volume_too_new"


class VolumeReadOnly(OpenError):
    code = "volume_read_only"


class SegmentMissing(OpenError):
    code = "segment_missing"
