// Speaks dialect B of docs/protocol.md, plays what comes without gaps, and shows how long it took.
"use strict";

const SAMPLE_RATE_HZ = 24000;
// Head start of the first audio chunk, so that the second arrives before the first has been played.
const LEAD_S = 0.1;
// Close codes of a server that went away; the same text with the same seed gives the same audio elsewhere.
const LOST = new Set([1001, 1006, 1012]);
const MAX_RECONNECTS = 10;
const RECONNECT_WAIT_MS = 1000;

const $ = (id) => document.getElementById(id);

/** Plays PCM16 audio chunks one after the other on the audio clock. */
class Player {
  constructor() {
    this.context = null;
    this.nextS = 0;
    this.sources = new Set();
  }

  /** Must run in a user's gesture, or the browser keeps the sound off. */
  async open() {
    this.context ??= new AudioContext({ sampleRate: SAMPLE_RATE_HZ });
    await this.context.resume();
  }

  play(bytes) {
    const pcm = new Int16Array(bytes);
    if (pcm.length === 0) return;
    const buffer = this.context.createBuffer(1, pcm.length, SAMPLE_RATE_HZ);
    buffer.getChannelData(0).set(Float32Array.from(pcm, (value) => value / 32768));
    const source = this.context.createBufferSource();
    source.buffer = buffer;
    source.connect(this.context.destination);
    if (this.nextS <= this.context.currentTime) this.nextS = this.context.currentTime + LEAD_S;
    source.start(this.nextS);
    this.nextS += buffer.duration;
    this.sources.add(source);
    source.onended = () => this.sources.delete(source);
  }

  silence() {
    for (const source of this.sources) source.stop();
    this.sources.clear();
    this.nextS = 0;
  }

  get remainingS() {
    return this.context ? Math.max(0, this.nextS - this.context.currentTime) : 0;
  }

  /** Calls back when audio that was queued by now and starts at `startS` of the audio clock is heard. */
  at(startS, action) {
    window.setTimeout(action, Math.max(0, startS - this.context.currentTime) * 1000);
  }
}

const player = new Player();
let socket = null;
let utterance = null; // what is being spoken, see speak()

function status(text, isError = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", isError);
}

function busy(isBusy) {
  $("cancel").disabled = !isBusy;
}

/** One socket for the page, opened when it is first needed and again after it was closed. */
function connected() {
  if (socket && socket.readyState === WebSocket.OPEN) return Promise.resolve(socket);
  const url = new URL("api/v1/speak", window.location.href);
  url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
  url.hash = "";
  socket = new WebSocket(url);
  socket.binaryType = "arraybuffer";
  socket.onmessage = onFrame;
  socket.onclose = onClose;
  return new Promise((resolve, reject) => {
    socket.onopen = () => resolve(socket);
    socket.onerror = () => reject(new Error("The server cannot be reached, or takes no more connections."));
  });
}

function onClose(event) {
  if (!utterance || utterance.made) return; // all of it is here
  if (LOST.has(event.code) && utterance.reconnects < MAX_RECONNECTS) {
    reconnect(utterance);
    return;
  }
  status(`The connection was closed (${event.code}${event.reason ? `, ${event.reason}` : ""}).`, true);
  utterance = null;
  busy(false);
}

/** Says the same again on another socket; what was heard of it is dropped when it comes. */
function reconnect(lost) {
  lost.reconnects += 1;
  lost.knownBytes = lost.heardBytes;
  lost.announced = false;
  status("The server went away; connecting again…");
  window.setTimeout(() => {
    if (utterance !== lost) return;
    connected().then(
      (open) => utterance === lost && open.send(JSON.stringify(lost.message)),
      () => {}, // its close is the next attempt
    );
  }, RECONNECT_WAIT_MS);
}

function onFrame(event) {
  if (typeof event.data !== "string") {
    onAudio(event.data);
    return;
  }
  const message = JSON.parse(event.data);
  if (!utterance || (message.utterance_id && message.utterance_id !== utterance.id)) return;
  switch (message.type) {
    case "segment":
      if (message.index >= utterance.segments) utterance.captions.push(message.text);
      utterance.segments = Math.max(utterance.segments, message.index + 1);
      break;
    case "audio_chunk":
      utterance.announced = true;
      break;
    case "complete":
      onComplete(message);
      break;
    case "cancelled":
      utterance = null;
      break;
    case "error":
      onError(message);
      break;
  }
}

function onAudio(frame) {
  if (!utterance || !utterance.announced) return;
  utterance.announced = false;
  const bytes = frame.slice(utterance.knownBytes);
  utterance.knownBytes = Math.max(0, utterance.knownBytes - frame.byteLength);
  if (frame.byteLength > 0 && bytes.byteLength === 0) return;
  if (utterance.reconnects > 0 && utterance.heardBytes > 0) status("Speaking…");
  utterance.heardBytes += bytes.byteLength;
  if (bytes.byteLength > 0 && !utterance.heard) {
    utterance.heard = true;
    $("ttfa-here").textContent = `${Math.round(performance.now() - utterance.askedMs)} ms`;
    status("Speaking…");
  }
  const { captions, id } = utterance;
  player.play(bytes);
  if (captions.length > 0) {
    const text = captions.shift();
    const startS = player.nextS - bytes.byteLength / 2 / SAMPLE_RATE_HZ;
    player.at(startS, () => utterance?.id === id && caption(text));
  }
}

function caption(text) {
  for (const earlier of $("captions").children) earlier.classList.remove("now");
  const span = document.createElement("span");
  span.className = "now";
  span.textContent = `${text} `;
  $("captions").append(span);
}

function onComplete(message) {
  $("ttfa").textContent = `${message.ttfa_ms} ms`;
  $("rtf").textContent = message.rtf.toFixed(2);
  $("duration").textContent = `${(message.duration_ms / 1000).toFixed(2)} s`;
  $("used-seed").textContent = message.seed;
  const id = utterance.id;
  utterance.made = true;
  window.setTimeout(() => {
    if (utterance?.id !== id) return;
    utterance = null;
    busy(false);
    status(message.finish_reason === "eos" ? "Done." : `Done; the model was ended by the rule “${message.finish_reason}”.`);
  }, player.remainingS * 1000);
}

function onError(message) {
  const again = message.retry_after_ms ? ` Try again in ${Math.ceil(message.retry_after_ms / 1000)} s.` : "";
  status(`${message.message} (${message.code}).${again}`, true);
  utterance = null;
  // What was heard of it so far still plays, and can be silenced.
  window.setTimeout(() => utterance || busy(false), player.remainingS * 1000);
}

function cancel() {
  player.silence();
  if (utterance && socket?.readyState === WebSocket.OPEN) {
    socket.send(JSON.stringify({ type: "cancel", utterance_id: utterance.id }));
  }
  utterance = null;
  busy(false);
}

function randomParts(count) {
  return Array.from(crypto.getRandomValues(new Uint32Array(count)));
}

async function speak(event) {
  event.preventDefault();
  cancel();
  for (const id of ["ttfa-here", "ttfa", "rtf", "duration", "used-seed"]) $(id).textContent = "–";
  $("captions").replaceChildren();
  status("Waiting for the first audio…");
  try {
    await player.open();
    const open = await connected();
    const seed = $("seed").value;
    const id = randomParts(4).map((part) => part.toString(16)).join("-");
    utterance = {
      id,
      message: {
        type: "speak",
        text: $("text").value,
        utterance_id: id,
        voice: $("voice").value || null,
        language: $("language").value,
        seed: seed === "" ? randomParts(1)[0] : Number(seed),
      },
      askedMs: performance.now(),
      heard: false, // something of it
      heardBytes: 0,
      knownBytes: 0, // of what comes next: heard on another socket already
      reconnects: 0,
      announced: false, // the next binary frame is its audio
      segments: 0,
      captions: [], // not yet shown
      made: false, // all of it is here, and may still play
    };
    busy(true);
    open.send(JSON.stringify(utterance.message));
  } catch (error) {
    status(error.message, true);
    busy(false);
  }
}

async function showVoices() {
  const { voices, default: preferred } = await (await fetch("v1/audio/voices")).json();
  const options = voices.map((voice) => {
    const option = new Option(voice.name, voice.id);
    option.disabled = voice.state === "unavailable";
    if (option.disabled) option.text = `${voice.name} (unavailable: ${voice.reason})`;
    if (voice.state === "pending") option.text = `${voice.name} (being prepared)`;
    option.selected = voice.id === preferred && !option.disabled;
    return option;
  });
  if (!options.some((option) => !option.disabled)) status("No voice is ready.", true);
  $("voice").replaceChildren(...options);
}

/** Says plainly what will be heard; asks again until a generator is ready. */
async function showReadiness() {
  const state = await (await fetch("ready")).json();
  const notice = state.ready ? state.notice : `Not ready yet: ${state.detail}.`;
  $("notice").textContent = notice;
  $("notice").hidden = notice === "";
  if (!state.ready) window.setTimeout(() => showReadiness().catch(unreachable), 2000);
}

function unreachable() {
  status("The server does not answer.", true);
}

$("form").addEventListener("submit", speak);
$("cancel").addEventListener("click", () => {
  cancel();
  status("Cancelled.");
});
showVoices().catch(unreachable);
showReadiness().catch(unreachable);
