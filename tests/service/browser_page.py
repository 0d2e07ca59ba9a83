"""The page in a real Chromium, as tests see it: what left its player, what its sockets carried, what it asked for."""

import asyncio
import contextlib
import json
import re
import shutil
from collections.abc import AsyncIterator
from itertools import pairwise

import numpy as np
from playwright.async_api import Browser, Page, expect
from running_service import ROOT

CHROMIUM = shutil.which("chromium")
NO_CHROMIUM = "no Chromium is installed (Debian: apt-get install chromium)"
CLIP = ROOT / "voices" / "austen" / "reference.wav"
TRANSCRIPT = json.loads((ROOT / "voices" / "austen" / "manifest.json").read_text())["transcript"]
PATIENCE_MS = 60_000
MICROPHONE = [
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
    f"--use-file-for-fake-audio-capture={CLIP}",
]

# Listens where the player's blocks leave it, and to the protocols that sockets offer.
TAP = """
globalThis.rendered = [];
globalThis.protocols = [];
globalThis.AudioWorkletNode = class extends AudioWorkletNode {
  constructor(context, name, options) {
    super(context, name, options);
    if (name !== "player") return;
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = ({ data }) => rendered.push({ ...data, samples: Array.from(data.samples) });
    this.port.postMessage({ type: "tap", port: port2 }, [port2]);
  }
};
globalThis.WebSocket = class extends WebSocket {
  constructor(url, offered) {
    super(url, offered);
    protocols.push(offered);
  }
};
"""


@contextlib.asynccontextmanager
async def opened(browser: Browser, address: str) -> AsyncIterator[Page]:
    """The page in a window of its own, with what its browser complains of, asks for, and has on its sockets."""
    context = await browser.new_context(color_scheme="light")
    made = await context.new_page()
    made.complaints, made.asked, made.sent, made.said = [], [], [], []
    made.on("pageerror", lambda error: made.complaints.append(str(error)))
    made.on("console", lambda line: made.complaints.append(line.text) if line.type == "error" else None)
    made.on("request", lambda request: made.asked.append(request.url))
    made.on("websocket", lambda socket: listen(made, socket))
    await made.add_init_script(TAP)
    await made.goto(f"http://{address}/")
    yield made
    assert made.complaints == []
    await context.close()


def listen(page, socket):
    page.asked.append(socket.url)
    socket.on("framereceived", lambda frame: page.sent.append(frame) if isinstance(frame, bytes) else None)
    socket.on("framesent", lambda frame: page.said.append(json.loads(frame)))


async def done(page: Page):
    await expect(page.locator("#status")).to_have_text(re.compile("^Done"), timeout=PATIENCE_MS)


async def rendered(page: Page) -> tuple[np.ndarray, int]:
    """What left the player, and in how many places it was interrupted."""
    blocks = await page.evaluate("rendered")
    samples = np.concatenate([np.asarray(block["samples"], dtype=np.float32) for block in blocks])
    gaps = 0
    for earlier, later in pairwise(blocks):
        if later["samples"] and later["frame"] != earlier["frame"] + len(earlier["samples"]):
            gaps += 1
            assert earlier["queued"] == 0, "it is silent only where nothing was there to play"
    return samples, gaps


async def until(page: Page, expression: str):
    """Playwright's own wait makes code of strings, which the page's policy refuses."""
    async with asyncio.timeout(PATIENCE_MS / 1000):
        while not await page.evaluate(expression):
            await page.wait_for_timeout(50)


async def shown(page: Page, name: str) -> str:
    return await page.locator(f"#{name}").inner_text()


async def describe(page: Page, name: str):
    await page.fill("#voice-name", name)
    await page.fill("#transcript", TRANSCRIPT)
    await page.select_option("#voice-language", "english")
    await page.fill("#consent", "The reader gave it to the public domain.")


async def speaks_with(page: Page, voice: str):
    await expect(page.locator("#voice-status")).to_contain_text("is added and selected", timeout=PATIENCE_MS)
    assert await page.input_value("#voice") == voice
    await page.fill("#text", "This is another voice.")
    await page.locator("#speak").click()
    await done(page)
    assert page.said[-1]["voice"] == voice
    assert (await rendered(page))[0].any()
