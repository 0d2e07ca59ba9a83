"""The page over a service that asks for API keys: it says so, takes one, and shows it where no log is."""

import asyncio
import re

import numpy as np
import pytest
import pytest_asyncio
from browser_page import CHROMIUM, CLIP, NO_CHROMIUM, PATIENCE_MS, describe, done, opened, rendered, speaks_with, until
from playwright.async_api import Page, expect
from running_service import Log, wait_until
from service_keys import SPEAKER, UPLOADER, WRONG

if CHROMIUM is None:
    pytest.skip(NO_CHROMIUM, allow_module_level=True)


@pytest_asyncio.fixture(loop_scope="session")
async def page(guarded, browser):
    """The page as a stranger finds it; Chromium reports each 401 as an error, which is the server's word here."""
    async with opened(browser, guarded.address + guarded.prefix) as made:
        await expect(made.locator("#status")).to_contain_text("requires an API key", timeout=PATIENCE_MS)
        yield made
        made.complaints[:] = [line for line in made.complaints if "401" not in line]


async def give(page: Page, key: str):
    """Type a key into the field that has the focus, over what is there."""
    assert await page.evaluate("document.activeElement.id") == "key"
    await page.keyboard.press("Control+A")
    await page.keyboard.type(key)
    await page.keyboard.press("Enter")


async def taken(page: Page):
    await expect(page.locator("#status")).to_have_text("The API key is accepted.", timeout=PATIENCE_MS)
    await expect(page.locator("#voice option:checked")).to_have_text("Austen")


async def test_a_stranger_is_led_to_the_field_and_a_wrong_key_is_refused_in_plain_words(page):
    assert await page.locator("#more").evaluate("details => details.open")
    await give(page, "two words")
    await expect(page.locator("#status")).to_have_text("This is not an API key: it has characters that no API key has.")
    await give(page, WRONG)
    refusal = "The service does not accept this API key: unknown API key."
    await expect(page.locator("#status")).to_have_text(refusal, timeout=PATIENCE_MS)
    assert await page.get_attribute("#key", "aria-invalid") == "true"
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.id") != "key", "nobody is held there"
    await page.fill("#text", "Not with this key.")
    await page.locator("#text").press("Control+Enter")
    await until(page, "protocols.length > 0 && document.activeElement.id === 'key'")
    await expect(page.locator("#status")).to_have_text(refusal)
    assert await page.locator("#cancel").is_disabled()
    assert page.sent == []


async def test_a_right_key_is_taken_from_the_keyboard_speaks_and_every_sample_arrives(page, guarded):
    await give(page, WRONG)
    await expect(page.locator("#status")).to_contain_text("unknown API key", timeout=PATIENCE_MS)
    await give(page, SPEAKER)
    await taken(page)
    assert await page.get_attribute("#key", "aria-invalid") is None
    assert await page.evaluate("protocols") == [], "Enter has taken the key, and said nothing"
    await page.fill("#seed", "7")  # with random weights some end at once
    await page.keyboard.press("Control+Enter")
    await done(page)
    assert await page.evaluate("protocols") == [["tts.v1", f"tts-key.{SPEAKER}"]]
    sent = np.frombuffer(b"".join(page.sent), "<i2").astype(np.float32) / 32768
    assert len(sent) > 24_000
    np.testing.assert_array_equal((await rendered(page))[0], sent)
    await page.reload()
    await expect(page.locator("#voice option:checked")).to_have_text("Austen", timeout=PATIENCE_MS)
    assert await page.input_value("#key") == SPEAKER, "its tab keeps it"
    assert await page.evaluate("[localStorage.length, document.cookie]") == [0, ""]
    another = await page.context.new_page()
    await another.goto(f"http://{guarded.address}{guarded.prefix}/")
    await expect(another.locator("#status")).to_contain_text("requires an API key", timeout=PATIENCE_MS)
    assert not [url for url in page.asked if "tts_" in url]


async def test_a_voice_is_uploaded_with_a_key_for_it_and_refused_with_another(page):
    await give(page, SPEAKER)
    await taken(page)
    await page.set_input_files("#clip", CLIP)
    await describe(page, "Behind a key")
    await page.locator("#add").click()
    refusal = "The service does not accept this API key: the API key lacks the scope voices; it has: speak."
    await expect(page.locator("#voice-status")).to_have_text(refusal, timeout=PATIENCE_MS)
    await page.locator("#key").focus()
    await give(page, UPLOADER)
    await taken(page)
    await page.locator("#add").click()
    await speaks_with(page, "behind-a-key")


async def test_what_it_says_of_keys_fits_into_a_narrow_window_and_is_seen_in_the_dark(page):
    await page.set_viewport_size({"width": 320, "height": 640})
    await give(page, WRONG)
    await expect(page.locator("#status")).to_contain_text("unknown API key", timeout=PATIENCE_MS)
    assert await page.evaluate("document.documentElement.scrollWidth") == 320
    field = page.locator("#key")
    look = "field => [getComputedStyle(field).borderColor, getComputedStyle(document.body).backgroundColor]"
    assert await field.evaluate("field => field.getBoundingClientRect().right") <= 320
    light = await field.evaluate(look)
    await page.emulate_media(color_scheme="dark")
    dark = await field.evaluate(look)
    assert light != dark
    bright = [max(map(int, re.findall(r"\d+", colour)[:3])) for colour in dark]
    assert bright[0] - bright[1] > 150, "the field that is meant stands out"


async def test_no_key_that_the_page_was_given_stands_in_a_log(page, guarded):
    for key in (WRONG, SPEAKER):
        await give(page, key)
        await expect(page.locator("#status")).not_to_contain_text("requires", timeout=PATIENCE_MS)
    await taken(page)
    await page.keyboard.press("Control+Enter")
    await done(page)
    log = Log(guarded)
    log._before.clear()
    await asyncio.to_thread(wait_until, lambda: "/v1/audio/voices" in log.text(), 15, "its requests are logged")
    written = log.text() + guarded.launched.printed
    assert not [key for key in (SPEAKER, UPLOADER, WRONG) if key in written]
