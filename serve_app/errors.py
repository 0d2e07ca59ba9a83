"""All errors that are reported to clients, with their codes, WebSocket close codes and HTTP statuses.

The tree::

    SpeechError
    ├── InvalidMessageError        INVALID_MESSAGE       the message itself is wrong
    ├── TextEmptyError             TEXT_EMPTY
    ├── TextTooLongError           TEXT_TOO_LONG
    ├── UnsupportedLanguageError   UNSUPPORTED_LANGUAGE
    ├── UnsupportedEncodingError   UNSUPPORTED_ENCODING
    ├── VoiceNotFoundError         VOICE_NOT_FOUND
    ├── VoiceInvalidError          VOICE_INVALID
    ├── VoiceConflictError         VOICE_CONFLICT        the id has another clip, or the voice may not be removed
    ├── UnauthorizedError          UNAUTHORIZED          no key, an unknown key, or one without this permission
    ├── HostNotAllowedError        HOST_NOT_ALLOWED      the Host header names another service
    ├── RateLimitedError           RATE_LIMITED          the key exceeds its own limits
    ├── WordTimesUnavailableError  WORD_TIMES_UNAVAILABLE  the model cannot tell when it speaks a word; speech goes on
    ├── CapacityError              CAPACITY              no stream can start in time: try again later
    ├── TtsUnavailableError        TTS_UNAVAILABLE       no generator is ready
    ├── SynthesisError             SYNTHESIS_ERROR       one utterance failed
    ├── SlowClientError            SLOW_CLIENT           the client does not read
    ├── SessionTimeoutError        SESSION_TIMEOUT       the client was silent too long
    └── ServiceRestartError        SERVICE_RESTART       this replica is being replaced: connect again

    KeysFileError                  the operator's file of API keys is wrong; clients never see this

This module knows nothing about sockets or models. Every other module may import it.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar


class SpeechError(Exception):
    """An error with a code of the protocol. Its message says what was wrong, what was given and what is allowed.

    Attributes:
        code: its code in the protocol.
        close_code: the WebSocket close code if it ends the socket; None if the socket stays open.
        http_status: the status of the HTTP response.
        retry_after_ms: milliseconds after which a retry may succeed; None if it cannot.
    """

    code: ClassVar[str] = "SYNTHESIS_ERROR"
    close_code: ClassVar[int | None] = None
    http_status: ClassVar[int] = 500

    def __init__(self, message: str, *, retry_after_ms: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_ms = retry_after_ms


class InvalidMessageError(SpeechError):
    """The message is not JSON, or has an unknown type or a wrong field."""

    code = "INVALID_MESSAGE"
    http_status = 400


class TextEmptyError(SpeechError):
    """The text is empty."""

    code = "TEXT_EMPTY"
    http_status = 400


class TextTooLongError(SpeechError):
    """The text exceeds the limit of one request."""

    code = "TEXT_TOO_LONG"
    http_status = 400


class UnsupportedLanguageError(SpeechError):
    """The model was not trained on this language."""

    code = "UNSUPPORTED_LANGUAGE"
    http_status = 400


class UnsupportedEncodingError(SpeechError):
    """The encoding or the sample rate is not served."""

    code = "UNSUPPORTED_ENCODING"
    http_status = 400


class VoiceNotFoundError(SpeechError):
    """There is no voice with this name, or its reference audio is missing."""

    code = "VOICE_NOT_FOUND"
    http_status = 404


class VoiceInvalidError(SpeechError):
    """The reference audio is not suitable for a voice.

    Attributes:
        report: the results of all checks, ready for JSON; empty if there was nothing to check.
    """

    code = "VOICE_INVALID"
    http_status = 422

    def __init__(
        self, message: str, *, retry_after_ms: int | None = None, report: Sequence[Mapping[str, object]] = ()
    ) -> None:
        super().__init__(message, retry_after_ms=retry_after_ms)
        self.report = report


class VoiceConflictError(SpeechError):
    """A voice with this id exists already, with another clip; or the voice cannot be removed."""

    code = "VOICE_CONFLICT"
    http_status = 409


class UnauthorizedError(SpeechError):
    """There is no API key, the key is unknown, or it lacks the permission."""

    code = "UNAUTHORIZED"
    close_code = 4401
    http_status = 401


class HostNotAllowedError(SpeechError):
    """The request's ``Host`` is not a name of this service; DNS rebinding causes such requests."""

    code = "HOST_NOT_ALLOWED"
    http_status = 403


class RateLimitedError(SpeechError):
    """The API key exceeds its limits."""

    code = "RATE_LIMITED"
    close_code = 4429
    http_status = 429


class WordTimesUnavailableError(SpeechError):
    """The loaded model cannot tell when it speaks which word; its speech is not affected."""

    code = "WORD_TIMES_UNAVAILABLE"
    http_status = 400


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
    """One utterance failed; all others continue."""


class SlowClientError(SpeechError):
    """The client does not read the audio that it requested."""

    code = "SLOW_CLIENT"
    close_code = 1008


class SessionTimeoutError(SpeechError):
    """The client was silent for too long."""

    code = "SESSION_TIMEOUT"
    close_code = 1008


class ServiceRestartError(SpeechError):
    """The replica that holds the socket is being replaced; another one accepts new sockets."""

    code = "SERVICE_RESTART"
    close_code = 1012
    http_status = 503


class KeysFileError(Exception):
    """The file of API keys cannot be used; the message does not quote the file."""


def error_of_code(code: str, message: str, retry_after_ms: int | None = None) -> SpeechError:
    """Build the error with this code; an unknown code becomes a :class:`SynthesisError`.

    Errors travel between processes as code and message, never as pickled exceptions.
    """
    for kind in SpeechError.__subclasses__():
        if kind.code == code:
            return kind(message, retry_after_ms=retry_after_ms)
    return SynthesisError(message, retry_after_ms=retry_after_ms)
