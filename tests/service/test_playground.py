"""The page in a real Chromium, over the real service: what it plays, shows, sends and records."""

import json
import re

import numpy as np
import pytest
import pytest_asyncio
import soundfile as sf
from browser_page import (
    CHROMIUM,
    CLIP,
    NO_CHROMIUM,
    PATIENCE_MS,
    describe,
    done,
    opened,
    rendered,
    shown,
    speaks_with,
    until,
)
from playwright.async_api import expect

from serve_app.audio.mark import COMMENT

if CHROMIUM is None:
    pytest.skip(NO_CHROMIUM, allow_module_level=True)


@pytest_asyncio.fixture(loop_scope="session")
async def page(service, browser):
    async with opened(browser, service.address) as made:
        await expect(made.locator("#voice option:checked")).to_have_text("Austen", timeout=PATIENCE_MS)
        yield made


@pytest.mark.parametrize("encoding", ["pcm16", "pcm_f32"])
async def test_the_page_renders_every_sample_that_was_sent_in_order_and_without_a_gap(page, encoding, tmp_path):
    await page.locator("summary").click()
    await page.select_option("#encoding", encoding)
    await page.fill("#seed", "7")
    await page.locator("#speak").click()
    await done(page)
    kind, unit = ("<i2", 32768) if encoding == "pcm16" else ("<f4", 1)
    sent = np.frombuffer(b"".join(page.sent), kind).astype(np.float32) / unit
    heard, gaps = await rendered(page)
    assert len(sent) > 24_000
    np.testing.assert_array_equal(heard, sent)
    assert gaps == int(await shown(page, "underruns"))
    assert await shown(page, "duration") == f"{len(sent) / 24_000:.2f} s"
    assert await shown(page, "used-seed") == "7"
    assert re.fullmatch(r"\d+ ms", await shown(page, "ttfa-here"))
    assert re.fullmatch(r"\d+ ms", await shown(page, "ttfa"))
    assert re.fullmatch(r"\d+\.\d\d", await shown(page, "rtf"))
    assert await shown(page, "captions") == await page.input_value("#text")
    async with page.expect_download() as downloading:
        await page.locator("#download").click()
    await (await downloading.value).save_as(tmp_path / "speech.wav")
    saved, rate_hz = sf.read(tmp_path / "speech.wav", dtype="float32")
    assert rate_hz == 24_000
    np.testing.assert_array_equal(saved, sent)
    with sf.SoundFile(tmp_path / "speech.wav") as file:
        assert file.comment == COMMENT


async def test_the_page_says_plainly_that_weights_are_random(page):
    await expect(page.locator("#notice")).to_contain_text("noise, not speech", timeout=PATIENCE_MS)


@pytest.mark.slow
async def test_words_are_said_while_they_are_typed(page):
    sentence, rest = "This sentence is said as soon as it is certain.", " And then some"
    await page.fill("#text", "")
    await page.locator("#live").check()
    await page.locator("#text").press_sequentially(sentence + rest, delay=20)
    await expect(page.locator("#captions")).to_contain_text(sentence, timeout=PATIENCE_MS)
    assert all(not message["final"] for message in page.said)
    await page.locator("#text").press("Control+Enter")
    await done(page)
    assert "".join(message["text"] for message in page.said) == sentence + rest
    assert page.said[-1]["final"]
    assert len({message["utterance_id"] for message in page.said}) == 1
    heard, _ = await rendered(page)
    assert len(heard) == len(b"".join(page.sent)) // 2
    assert await page.input_value("#text") == ""


async def test_the_keyboard_speaks_and_cancels_and_silence_comes_at_once(page):
    await page.fill("#text", "This goes on. " * 30)
    await page.locator("#text").press("Control+Enter")
    await expect(page.locator("#status")).to_have_text("Speaking…", timeout=PATIENCE_MS)
    await until(page, "rendered.length > 20")
    await page.keyboard.press("Escape")
    await expect(page.locator("#status")).to_have_text("Cancelled.")
    assert page.said[-1] == {"type": "cancel", "utterance_id": page.said[0]["utterance_id"]}
    await page.wait_for_timeout(200)
    before = await page.evaluate("rendered.length")
    await page.wait_for_timeout(300)
    assert await page.evaluate("rendered.length") == before
    assert await page.locator("#cancel").is_disabled()


async def test_fields_are_sent_as_they_were_set(page):
    await page.locator("summary").click()
    await page.fill("#temperature", "0.8")
    await page.fill("#top_k", "40")
    await page.select_option("#language", "english")
    await page.locator("#speak").click()
    await done(page)
    (message,) = page.said
    assert message["sampling"] == {"temperature": 0.8, "top_k": 40}
    assert (message["language"], message["voice"], message["encoding"]) == ("english", "austen", "pcm16")
    assert 0 <= message["seed"] < 2**32


@pytest.mark.slow
async def test_an_api_key_goes_into_a_header_and_a_subprotocol_and_nowhere_else(page, service):
    await page.locator("summary").click()
    async with page.expect_request("**/v1/audio/voices") as asking:
        await page.fill("#key", "a-key")
        await page.locator("#key").press("Tab")
    assert (await (await asking.value).all_headers())["authorization"] == "Bearer a-key"
    await page.locator("#speak").click()
    await done(page)
    assert await page.evaluate("protocols") == [["tts.v1", "tts-key.a-key"]]
    assert "a-key" not in page.url
    assert await page.evaluate("[localStorage.length, document.cookie]") == [0, ""]


@pytest.mark.slow
async def test_a_lost_socket_is_replaced_and_not_a_sample_is_heard_twice(page):
    fields = {"language": "english", "text": "It goes on elsewhere, and nobody hears where it broke.", "seed": "3"}
    await page.select_option("#language", fields["language"])
    await page.fill("#text", fields["text"])
    await page.fill("#seed", fields["seed"])
    await page.locator("#speak").click()
    await done(page)
    whole, _ = await rendered(page)
    sockets = []

    async def between(route):
        sockets.append(route)
        server, count = route.connect_to_server(), 0

        async def pass_on(frame):
            nonlocal count
            count += isinstance(frame, bytes)
            if len(sockets) == 1 and count == 6:
                error = {"type": "error", "code": "SERVICE_RESTART", "retry_after_ms": 300, "fatal": True}
                route.send(json.dumps({**error, "message": "this server is being replaced"}))
                await route.close(code=1012, reason="SERVICE_RESTART")
            else:
                route.send(frame)

        server.on_message(pass_on)

    await page.route_web_socket(re.compile("/api/v1/speak"), between)
    await page.reload()
    await expect(page.locator("#voice option:checked")).to_have_text("Austen", timeout=PATIENCE_MS)
    await page.select_option("#language", fields["language"])
    await page.fill("#text", fields["text"])
    await page.fill("#seed", fields["seed"])
    await page.locator("#speak").click()
    await done(page)
    again, _ = await rendered(page)
    assert len(sockets) == 2
    assert len(again) == len(whole)
    assert np.abs(again - whole).max() <= 4 / 32768


async def test_the_page_is_as_wide_as_a_narrow_window_and_dark_where_that_is_wanted(page):
    await page.set_viewport_size({"width": 320, "height": 640})
    assert await page.evaluate("document.documentElement.scrollWidth") == 320
    bright = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    await page.emulate_media(color_scheme="dark")
    assert await page.evaluate("getComputedStyle(document.body).backgroundColor") != bright


async def test_every_field_has_a_label(page):
    fields = page.locator("input, select, textarea")
    for number in range(await fields.count()):
        assert await fields.nth(number).evaluate("field => field.labels.length") == 1


async def test_a_clip_is_uploaded_with_consent_checked_and_spoken_with(page, voices):
    await page.set_input_files("#clip", CLIP)
    await describe(page, "From a file")
    consent = await page.input_value("#consent")
    await page.fill("#consent", "")
    await page.locator("#add").click()
    assert await page.evaluate("document.activeElement.id") == "consent", "without it nothing is sent"
    await page.fill("#consent", consent)
    await page.locator("#add").click()
    await speaks_with(page, "from-a-file")
    assert "duration_s" in await shown(page, "report")
    assert voices.show("from-a-file")["consent"] == consent


@pytest.mark.slow
async def test_the_microphone_is_recorded_checked_and_spoken_with(page, voices):
    await page.locator("#record").click()
    await expect(page.locator("#record")).to_contain_text(re.compile(r"Stop \([5-9]\.\d s\)"), timeout=PATIENCE_MS)
    await page.locator("#record").click()
    await expect(page.locator("#preview")).to_be_visible()
    await until(page, "document.getElementById('preview').duration > 4")
    await describe(page, "From the microphone")
    await page.locator("#add").click()
    await speaks_with(page, "from-the-microphone")
    assert "signal_to_noise_db" in await shown(page, "report")


async def test_a_refused_clip_is_shown_with_what_was_measured(page, tmp_path):
    sf.write(tmp_path / "short.wav", np.zeros(24_000), 24_000)
    await page.set_input_files("#clip", tmp_path / "short.wav")
    await describe(page, "Nobody")
    await page.locator("#add").click()
    await expect(page.locator("#voice-status")).to_contain_text("VOICE_INVALID", timeout=PATIENCE_MS)
    assert await page.locator("#report tr.refuse").count() > 0
    page.complaints[:] = [line for line in page.complaints if "422" not in line]  # Chromium reports the status
