import pytest

from serve_app.errors import SpeechError, SynthesisError, VoiceNotFoundError, error_of_code

TABLE = {
    "INVALID_MESSAGE": (None, 400),
    "TEXT_EMPTY": (None, 400),
    "TEXT_TOO_LONG": (None, 400),
    "UNSUPPORTED_LANGUAGE": (None, 400),
    "UNSUPPORTED_ENCODING": (None, 400),
    "VOICE_NOT_FOUND": (None, 404),
    "VOICE_INVALID": (None, 422),
    "VOICE_CONFLICT": (None, 409),
    "WORD_TIMES_UNAVAILABLE": (None, 400),
    "UNAUTHORIZED": (4401, 401),
    "HOST_NOT_ALLOWED": (None, 403),
    "RATE_LIMITED": (4429, 429),
    "CAPACITY": (1013, 503),
    "TTS_UNAVAILABLE": (1013, 503),
    "SYNTHESIS_ERROR": (None, 500),
    "SLOW_CLIENT": (1008, 500),
    "SESSION_TIMEOUT": (1008, 500),
    "SERVICE_RESTART": (1012, 503),
}


def test_every_code_of_the_protocol_has_its_error():
    kinds = {kind.code: (kind.close_code, kind.http_status) for kind in SpeechError.__subclasses__()}
    assert kinds == TABLE


@pytest.mark.parametrize("code", TABLE)
def test_an_error_is_rebuilt_from_its_code(code):
    error = error_of_code(code, "why", 7)
    assert (error.code, error.message, error.retry_after_ms, str(error)) == (code, "why", 7, "why")


def test_an_unknown_code_becomes_a_synthesis_error():
    assert type(error_of_code("NEW", "why")) is SynthesisError
    assert type(error_of_code("VOICE_NOT_FOUND", "why")) is VoiceNotFoundError
