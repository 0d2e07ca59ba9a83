"""Every error a client can be told about, each with its wire code, its close code and its HTTP status.

The tree::

    SpeechError
    ├── InvalidMessageError        INVALID_MESSAGE       the message itself is wrong
    ├── TextEmptyError             TEXT_EMPTY
    ├── TextTooLongError           TEXT_TOO_LONG
    ├── UnsupportedLanguageError   UNSUPPORTED_LANGUAGE
    ├── UnsupportedEncodingError   UNSUPPORTED_ENCODING
    ├── VoiceNotFoundError         VOICE_NOT_FOUND
    ├── VoiceInvalidError          VOICE_INVALID
    ├── VoiceConflictError         VOICE_CONFLICT        another clip has that name, or it may not be removed
    ├── UnauthorizedError          UNAUTHORIZED          no key, an unknown one, or one that is not for this
    ├── HostNotAllowedError        HOST_NOT_ALLOWED      a name as Host under which this service is not reached
    ├── RateLimitedError           RATE_LIMITED          the key's own limits
    ├── CapacityError              CAPACITY              no stream can start in time: try again later
    ├── TtsUnavailableError        TTS_UNAVAILABLE       no generator is ready
    ├── SynthesisError             SYNTHESIS_ERROR       one utterance failed
    ├── SlowClientError            SLOW_CLIENT           the client does not read
    ├── SessionTimeoutError        SESSION_TIMEOUT       the client was silent too long
    └── ServiceRestartError        SERVICE_RESTART       this replica is being replaced: connect again

    KeysFileError                  no client's business: the operator's file of API keys is wrong

This module knows nothing of sockets or models; it is the root that everything may import.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar


class SpeechError(Exception):
    """An error with a code of the wire protocol; its message says what was wrong, given and allowed.

    Attributes:
        code: the wire's name for it.
        close_code: WebSocket close code when it ends the socket; None when the socket stays open.
        http_status: status of an HTTP answer.
        retry_after_ms: when trying again is worth it, in milliseconds; None where it is not.
    """

    code: ClassVar[str] = "SYNTHESIS_ERROR"
    close_code: ClassVar[int | None] = None
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_ms = retry_after_ms


class InvalidMessageError(SpeechError):
    """Not JSON, an unknown type, a wrong field."""

    code = "INVALID_MESSAGE"
    http_status = 400


class TextEmptyError(SpeechError):
    """Nothing to say."""

    code = "TEXT_EMPTY"
    http_status = 400


class TextTooLongError(SpeechError):
    """More text than one request may carry."""

    code = "TEXT_TOO_LONG"
    http_status = 400


class UnsupportedLanguageError(SpeechError):
    """A language that the model was not trained on."""

    code = "UNSUPPORTED_LANGUAGE"
    http_status = 400


class UnsupportedEncodingError(SpeechError):
    """An encoding or a sample rate that is not served."""

    code = "UNSUPPORTED_ENCODING"
    http_status = 400


class VoiceNotFoundError(SpeechError):
    """No voice of that name, or one whose reference audio is missing."""

    code = "VOICE_NOT_FOUND"
    http_status = 404


class VoiceInvalidError(SpeechError):
    """Reference audio that cannot give a good voice.

    Attributes:
        report: every check of it, ready for JSON; empty where there was nothing to check.
    """

    code = "VOICE_INVALID"
    http_status = 422

    def __init__(
        self, message: str, *, retry_after_ms: int | None = None, report: Sequence[Mapping[str, object]] = ()
    ) -> None:
        super().__init__(message, retry_after_ms=retry_after_ms)
        self.report = report


class VoiceConflictError(SpeechError):
    """A voice of that name is there already, with another clip; or it is not one that can be removed."""

    code = "VOICE_CONFLICT"
    http_status = 409


class UnauthorizedError(SpeechError):
    """No API key, one that is not known, or one that is not for this."""

    code = "UNAUTHORIZED"
    close_code = 4401
    http_status = 401


class HostNotAllowedError(SpeechError):
    """The request's ``Host`` is a name that this service does not answer to, as that of a rebound page."""

    code = "HOST_NOT_ALLOWED"
    http_status = 403


class RateLimitedError(SpeechError):
    """An API key asked for more than it may."""

    code = "RATE_LIMITED"
    close_code = 4429
    http_status = 429


class CapacityError(SpeechError):
    """No stream can start within its deadline."""

    code = "CAPACITY"
    close_code = 1013
    http_status = 503


class TtsUnavailableError(SpeechError):
    """No generator is ready."""

    code = "TTS_UNAVAILABLE"
    close_code = 1013
    http_status = 503


class SynthesisError(SpeechError):
    """One utterance failed; everybody else's goes on."""


class SlowClientError(SpeechError):
    """The client does not read what it asked for."""

    code = "SLOW_CLIENT"
    close_code = 1008


class SessionTimeoutError(SpeechError):
    """The client said nothing for too long."""

    code = "SESSION_TIMEOUT"
    close_code = 1008


class ServiceRestartError(SpeechError):
    """The replica that holds the socket is being replaced; another one takes the next socket."""

    code = "SERVICE_RESTART"
    close_code = 1012
    http_status = 503


class KeysFileError(Exception):
    """The file of API keys cannot be used; says why without its contents."""


def error_of_code(code: str, message: str, retry_after_ms: int | None = None) -> SpeechError:
    """Build the error whose wire code is ``code``; an unknown code becomes a :class:`SynthesisError`.

    Errors cross a process as their code and message, never as pickled exceptions.
    """
    for kind in SpeechError.__subclasses__():
        if kind.code == code:
            return kind(message, retry_after_ms=retry_after_ms)
    return SynthesisError(message, retry_after_ms=retry_after_ms)
