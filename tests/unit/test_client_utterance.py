"""The agents' plugins' utterance against this service's web application, over sockets that break."""

import asyncio
import socket
import time
from itertools import pairwise

import pytest
from known_backend import expected, served
from meddling_proxy import CUT_BYTES, proxy_to
from websockets.exceptions import ConnectionClosed, InvalidStatus

from qwen3_tts_client import utterance as module
from qwen3_tts_client.captions import Timed
from qwen3_tts_client.utterance import Server, ServiceError, Utterance
from serve_app.config import AppConfig, SessionConfig
from serve_app.errors import CapacityError

TEXTS = ("The first sentence is here. ", "Another one follows.")
CONFIG = AppConfig(session=SessionConfig(max_lead_s=600, idle_timeout_s=1))


@pytest.fixture
async def host(backend):
    async with served(backend, CONFIG) as host:
        yield host


@pytest.fixture
async def proxy(host):
    async with proxy_to(host) as (proxy, url):
        yield proxy, url


class Listener:
    def __init__(self):
        self.pcm, self.timed = b"", []
        self.began = asyncio.Event()

    async def __call__(self, what):
        if isinstance(what, Timed):
            self.timed.append(what)
        else:
            self.pcm += what
            self.began.set()

    @property
    def text(self):
        return "".join(timed.text for timed in self.timed)


async def spoken(url, *pieces, pause_s=0.0, rate_hz=24_000, **fields):
    """What a listener hears of a text in pieces."""
    utterance, listener = Utterance(Server(url), rate_hz, fields), Listener()

    async def write():
        for piece in pieces:
            utterance.push(piece)
            await asyncio.sleep(pause_s)
        utterance.end()

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        tasks.create_task(write())
        tasks.create_task(utterance.speak(listener))
    return listener


async def test_a_text_is_heard_with_its_captions(host, backend):
    heard = await spoken(f"http://{host}", "".join(TEXTS), voice="makima", language=None)
    assert heard.pcm == expected(backend, *(request.text for request in backend.requests))
    assert heard.text == "".join(TEXTS)
    assert heard.timed[0] == Timed(TEXTS[0], 0.0, None)


@pytest.mark.parametrize("pause_s", [0.0, 0.01])
async def test_tokens_are_heard_as_the_whole_text_is(host, pause_s):
    whole = await spoken(f"http://{host}", "".join(TEXTS), seed=3)
    assert (await spoken(f"http://{host}", *"".join(TEXTS), pause_s=pause_s / 10, seed=3)).pcm == whole.pcm


@pytest.mark.parametrize("how", ["cut", "restart"])
@pytest.mark.parametrize("words", [None, True])
async def test_a_lost_connection_is_resumed_without_a_sample_lost_or_repeated(proxy, how, words):
    proxy, url = proxy
    whole = await spoken(f"{url}/{'words' if words else 'whole'}", *TEXTS, words=words)
    heard = await spoken(f"{url}/{how}-1", *TEXTS, words=words)
    assert len(whole.pcm) > 2 * CUT_BYTES
    assert heard.pcm == whole.pcm
    assert heard.text == whole.text == "".join(TEXTS)
    assert proxy.connections[f"{how}-1"] == 2
    first, again = (message for message in proxy.asked[f"{how}-1"] if "seed" in message)
    assert first == again


async def test_text_that_comes_after_the_connection_was_lost_is_spoken_too(proxy):
    _, url = proxy
    whole = await spoken(f"{url}/whole", *TEXTS)
    assert (await spoken(f"{url}/cut-1", *TEXTS, pause_s=0.4)).pcm == whole.pcm


async def test_word_times_replace_captions(proxy):
    _, url = proxy
    heard = await spoken(f"{url}/words", *TEXTS, words=True)
    assert [timed.text.strip() for timed in heard.timed] == "".join(TEXTS).split()
    assert heard.text == "".join(TEXTS)
    assert all(before.end_s <= after.start_s for before, after in pairwise(heard.timed))


async def test_a_checkpoint_without_word_times_gives_captions(proxy):
    _, url = proxy
    whole = await spoken(f"{url}/whole", *TEXTS)
    heard = await spoken(f"{url}/wordless", *TEXTS, words=True)
    assert (heard.pcm, heard.timed) == (whole.pcm, whole.timed)


@pytest.mark.parametrize("reads", [True, False])
async def test_an_interrupted_utterance_frees_its_stream_at_once(host, backend, reads):
    backend.frame_delay_s, backend.frames = 0.001, 10_000
    utterance, listener = Utterance(Server(f"http://{host}"), 24_000, {}), Listener()

    async def hear(what):
        await listener(what)
        await asyncio.sleep(0 if reads or isinstance(what, Timed) else 60)

    utterance.push("A long story.")
    utterance.end()
    speaking = asyncio.create_task(utterance.speak(hear))
    await asyncio.wait_for(listener.began.wait(), 5)
    await asyncio.sleep(0.2)  # more audio arrives
    asked = time.monotonic()
    speaking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await speaking
    assert time.monotonic() - asked < 0.5
    await asyncio.wait_for(backend.idle.wait(), 2)


async def test_a_text_without_words_is_not_sent(host, backend):
    assert (await spoken(f"http://{host}", " ", "\n")).pcm == b""
    assert backend.requests == []


async def test_white_space_before_the_first_word_is_no_empty_text(host, backend):
    assert (await spoken(f"http://{host}", " ", "\n", "Hello.", " ")).pcm == expected(backend, "Hello.")


@pytest.mark.parametrize("rate_hz", [8000, 24_000])
async def test_a_text_with_nothing_to_pronounce_is_a_short_silence(host, rate_hz):
    assert (await spoken(f"http://{host}", "...", rate_hz=rate_hz)).pcm == bytes(rate_hz // 5)


async def test_an_error_says_what_was_wrong_and_whether_to_try_again(host, backend):
    async def error(**fields):
        with pytest.raises(ExceptionGroup) as raised:
            await spoken(f"http://{host}", "Hello.", **fields)
        (error,) = raised.value.exceptions
        assert isinstance(error, ServiceError)
        return error

    unknown = await error(voice="unknown")
    assert (unknown.code, unknown.retry_after_s) == ("VOICE_NOT_FOUND", None)
    assert "unknown" in str(unknown)
    backend.raises = CapacityError("all streams are busy", retry_after_ms=2000)
    full = await error()
    assert (full.code, full.retry_after_s) == ("CAPACITY", 2.0)


async def test_a_resumed_utterance_waits_for_a_server_that_is_not_ready(proxy, backend, monkeypatch):
    proxy, url = proxy
    whole = await spoken(f"{url}/whole", *TEXTS)
    speak = backend.speak

    def speak_on_the_third_connection(request):
        full = proxy.connections["cut-1"] == 2
        backend.raises = CapacityError("it starts", retry_after_ms=100) if full else None
        return speak(request)

    monkeypatch.setattr(backend, "speak", speak_on_the_third_connection)
    assert (await spoken(f"{url}/cut-1", *TEXTS)).pcm == whole.pcm
    assert proxy.connections["cut-1"] == 3


async def test_an_idle_connection_that_ended_is_opened_again_when_there_is_text(host, backend):
    utterance, listener = Utterance(Server(f"http://{host}"), 24_000, {}), Listener()
    speaking = asyncio.create_task(utterance.speak(listener))
    await asyncio.sleep(1.3)  # the server has ended the session
    utterance.push("Hello.")
    utterance.end()
    await asyncio.wait_for(speaking, 5)
    assert listener.pcm == expected(backend, "Hello.")


async def test_a_connection_is_not_tried_for_ever(proxy, monkeypatch):
    proxy, url = proxy
    monkeypatch.setattr(module, "RECONNECT_WAIT_S", 0.0)
    monkeypatch.setattr(module, "MAX_RECONNECTS", 3)
    with pytest.raises(ExceptionGroup) as raised:
        await spoken(f"{url}/always", *TEXTS)
    assert isinstance(raised.value.exceptions[0], ConnectionClosed)
    assert proxy.connections["always"] == 4


async def test_a_server_that_cannot_be_reached_is_an_error_at_once(host):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        nobody = f"http://127.0.0.1:{closed.getsockname()[1]}"
    for url, kind in ((nobody, OSError), (f"http://{host}/elsewhere", InvalidStatus)):
        with pytest.raises(ExceptionGroup) as raised:
            await spoken(url, "Hello.")
        assert isinstance(raised.value.exceptions[0], kind)


async def test_utterances_take_turns_from_their_first_word_on(backend):
    async with served(backend, CONFIG) as host:
        server, turn, listeners = Server(f"http://{host}"), asyncio.Lock(), [Listener() for _ in range(3)]
        waiting, *written = [Utterance(server, 24_000, {}) for _ in listeners]
        speaking = [
            asyncio.create_task(utterance.speak(listener, turn=turn))
            for utterance, listener in zip([waiting, *written], listeners, strict=True)
        ]
        for utterance in written:
            utterance.push("Hello.")
            utterance.end()
        await asyncio.wait_for(asyncio.gather(*speaking[1:]), 5)
        assert backend.most_running == 1
        waiting.end()
        await asyncio.wait_for(speaking[0], 5)


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://127.0.0.1", ""])
def test_an_address_needs_its_scheme(url):
    with pytest.raises(ValueError, match="allowed: http://HOST:PORT"):
        Server(url)


@pytest.mark.parametrize("field", ["encoding", "text", "sample_rate"])
def test_fields_of_the_plugin_are_refused(field):
    with pytest.raises(ValueError, match=f"{field}: set by the plugin"):
        Utterance(Server(), 24_000, {field: "opus"})


def test_the_key_is_not_shown():
    assert "secret" not in repr(Server("http://127.0.0.1:8000", "secret"))
