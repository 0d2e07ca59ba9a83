// The page: sends what the user asks for to the socket, and plays and shows what the server answers.

import { ask, keepKey, key, keyWanted, KeyWanted } from "./access.js";
import { Connection } from "./connection.js";
import { Player, SAMPLE_RATE_HZ } from "./player.js";
import { randomParts, Utterance } from "./utterance.js";
import { offerVoices, showVoices } from "./voices.js";
import { GENERATED, wav } from "./wav.js";
import { Waveform } from "./waveform.js";

// Close codes of a server that went away; another one gives the same audio for the same text and seed.
const LOST = new Set([1001, 1006, 1012]);
const MAX_RECONNECTS = 10;
const RECONNECT_WAIT_MS = 1000;
const RESTART = "SERVICE_RESTART"; // the error code of a server that is being replaced; it then closes with 1012
const SAMPLING = ["temperature", "top_k", "top_p", "repetition_penalty"];
const FIGURES = ["ttfa-here", "ttfa", "rtf", "slack", "underruns", "duration", "used-seed"];

const $ = (id) => document.getElementById(id);
const connection = new Connection(onMessage, onClose);
const player = new Player(onPlayed);
const waveform = new Waveform($("waveform"));

let utterance = null; // the utterance that is being spoken
let latest = null; // the latest utterance, for the download
let leastSlack = Infinity; // samples, while more was expected
let ending = ""; // status to show when the last sample was played
let keyTried = key();
let reconnectMs = RECONNECT_WAIT_MS; // or the server's retry_after_ms

function status(text, isError = false) {
  $("status").textContent = text;
  $("status").classList.toggle("error", isError);
}

const seconds = (samples) => `${(samples / SAMPLE_RATE_HZ).toFixed(2)} s`;

// Requests

function fields() {
  const seed = $("seed").value;
  const given = SAMPLING.filter((name) => $(name).value !== "");
  return {
    voice: $("voice").value || null,
    language: $("language").value,
    encoding: $("encoding").value,
    seed: seed === "" ? randomParts(1)[0] : Number(seed),
    ...(given.length && { sampling: Object.fromEntries(given.map((name) => [name, Number($(name).value)])) }),
  };
}

/** Cancel the current utterance and begin a new one without text. */
function begin() {
  cancel();
  for (const id of FIGURES) $(id).textContent = "–";
  $("captions").replaceChildren();
  waveform.clear();
  leastSlack = Infinity;
  ending = "";
  utterance = latest = new Utterance(fields(), performance.now());
  $("cancel").disabled = false;
  $("download").disabled = true;
  status("Waiting for the first audio…");
}

/** Append text to the utterance and send it; opens the audio output and the socket first. */
async function say(text, isFinal) {
  const said = utterance;
  said.say(text, isFinal);
  try {
    await Promise.all([player.open(), connection.open()]);
    if (utterance === said) send();
  } catch (error) {
    if (utterance === said && said.reconnects === 0) fail(error.message);
  }
}

function send() {
  const message = utterance.next();
  if (!message) return;
  if (message.final) player.expect();
  else player.end(); // the next words may be typed at any time
  connection.send(message);
}

function speak(event) {
  event.preventDefault();
  if (!$("form").reportValidity()) return;
  if (utterance && !utterance.isFinal) {
    say(unsaid(), true);
    $("text").value = "";
    return;
  }
  if ($("text").value.trim() === "") {
    status("Enter some text first.", true);
    $("text").focus();
    return;
  }
  begin();
  say($("text").value, true);
}

/** Text that was typed after the text that was sent; empty if that text was edited. */
function unsaid() {
  const text = $("text").value;
  return text.startsWith(utterance.text) ? text.slice(utterance.text.length) : "";
}

/** Send the complete words; the one that is being typed may still change. */
function typed(event) {
  if (!$("live").checked || event.isComposing) return;
  if (utterance?.isFinal) return; // the utterance is spoken to its end first
  if (!utterance) {
    if ($("text").value.trim() === "" || event.inputType?.startsWith("delete")) return;
    begin();
  }
  if (!$("text").value.startsWith(utterance.text)) {
    status("Text that was already sent cannot be changed. Restore it to go on.", true);
    return;
  }
  const words = /^.*[\s\p{P}]/su.exec(unsaid())?.[0];
  if (words) say(words, false);
}

function cancel() {
  player.clear();
  if (utterance && !utterance.isMade) connection.send({ type: "cancel", utterance_id: utterance.id });
  stop();
}

function stop() {
  utterance = null;
  $("cancel").disabled = true;
}

function fail(text) {
  status(text, true);
  player.end(); // audio that has arrived still plays, and can be cancelled
  const hadAudio = utterance?.heardSamples > 0;
  stop();
  $("cancel").disabled = !hadAudio;
  offerDownload();
}

// Answers

function onMessage(message, audio) {
  if (message.code === RESTART) {
    reconnectMs = message.retry_after_ms ?? RECONNECT_WAIT_MS; // the close follows
    return;
  }
  if (!utterance || (message.utterance_id && message.utterance_id !== utterance.id)) return;
  switch (message.type) {
    case "segment":
      utterance.segment(message);
      break;
    case "audio_chunk":
      onAudio(audio, message.final);
      break;
    case "complete":
      onComplete(message);
      break;
    case "cancelled":
      stop();
      break;
    case "error": {
      if (message.code === "UNAUTHORIZED") {
        const wanted = keyWanted(message.message);
        fail(wanted.message);
        askForKey();
        break;
      }
      const again = message.retry_after_ms ? ` Try again in ${Math.ceil(message.retry_after_ms / 1000)} s.` : "";
      fail(`${message.message} (${message.code}).${again}`);
      break;
    }
  }
}

function onAudio(frame, isFinal) {
  const samples = utterance.hear(frame, performance.now());
  if (samples.length > 0) {
    const { askedMs, firstMs, lastMs, heardSamples } = utterance;
    $("ttfa-here").textContent = `${Math.round(firstMs - askedMs)} ms`;
    $("duration").textContent = seconds(heardSamples);
    const arrival = (lastMs - firstMs) / ((1000 * heardSamples) / SAMPLE_RATE_HZ);
    $("rtf").textContent = `~${arrival.toFixed(2)}`; // an estimate until `complete` arrives
    status("Speaking…");
    waveform.add(samples);
    player.feed(samples);
  }
  if (isFinal) player.end();
}

function onComplete(message) {
  $("ttfa").textContent = `${message.ttfa_ms} ms`;
  $("rtf").textContent = message.rtf.toFixed(2);
  $("used-seed").textContent = message.seed;
  utterance.isMade = true;
  ending = message.finish_reason === "eos" ? "Done." : `Done; the audio was cut short (${message.finish_reason}).`;
  offerDownload();
  player.end(); // the player reports when the last sample was played
}

/** @param {import("./player.js").Report} report */
function onPlayed({ played, queued, underruns, drained }) {
  waveform.playedTo(played);
  if (utterance && utterance.isFinal && !utterance.isMade) leastSlack = Math.min(leastSlack, queued);
  const least = leastSlack === Infinity ? "" : ` (${seconds(leastSlack)})`;
  $("slack").textContent = `${seconds(queued)}${least}`;
  $("underruns").textContent = underruns;
  for (const text of utterance?.due(played) ?? []) caption(text);
  if (!drained) return;
  if (utterance?.isMade) {
    status(ending);
    stop();
  } else if (!utterance) $("cancel").disabled = true;
}

function caption(text) {
  for (const earlier of $("captions").children) earlier.classList.remove("now");
  const span = document.createElement("span");
  span.className = "now";
  span.textContent = `${text} `;
  $("captions").append(span);
}

// Lost sockets

function onClose(event) {
  if (!utterance || utterance.isMade) return; // all of its audio has arrived
  if (LOST.has(event.code) && utterance.reconnects < MAX_RECONNECTS) {
    reconnect(utterance);
    return;
  }
  fail(`The connection was closed (${event.code}${event.reason ? `, ${event.reason}` : ""}).`);
}

/** Send the utterance again on a new socket; audio that was already received is dropped. */
function reconnect(lost) {
  lost.lost();
  status("The connection was lost; connecting again…");
  window.setTimeout(() => {
    if (utterance !== lost) return;
    connection.open().then(
      () => utterance === lost && send(),
      () => {}, // the close event starts the next attempt
    );
  }, reconnectMs);
  reconnectMs = RECONNECT_WAIT_MS;
}

// Download, readiness and API key

function offerDownload() {
  $("download").disabled = !(latest?.heardBytes > 0);
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(wav(latest.chunks, latest.fields.encoding, SAMPLE_RATE_HZ, GENERATED));
  link.download = "speech.wav";
  link.click();
  window.setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** Show the server's notice, for example that the audio is noise; ask again until a generator is ready. */
async function showReadiness() {
  const state = await (await ask("ready")).json();
  const notice = state.ready ? state.notice : `Not ready yet: ${state.detail}.`;
  $("notice").textContent = notice;
  $("notice").hidden = notice === "";
  if (!state.ready) window.setTimeout(() => showReadiness().catch(unreachable), 2000);
}

function unreachable(error) {
  status(error instanceof TypeError ? "The server does not answer." : error.message, true);
  if (error instanceof KeyWanted) askForKey();
}

/** Open the API key field and mark it as invalid. */
function askForKey() {
  $("more").open = true;
  $("key").setAttribute("aria-invalid", "true");
  $("key").focus();
}

function takeKey() {
  const given = (keyTried = $("key").value.trim());
  cancel();
  connection.drop();
  $("key").removeAttribute("aria-invalid");
  try {
    keepKey(given);
  } catch (error) {
    unreachable(error);
    return;
  }
  showVoices().then(() => status(given ? "The API key is accepted." : "The API key is removed."), unreachable);
}

/** The field was left; Enter may have taken its key already. */
function keyChanged() {
  if ($("key").value.trim() !== keyTried) takeKey();
}

/** Enter takes the key and does not speak. */
function keyEntered(event) {
  if (event.key !== "Enter" || event.ctrlKey || event.metaKey) return;
  event.preventDefault();
  takeKey();
}

function cancelAsked() {
  cancel();
  offerDownload();
  status("Cancelled.");
}

$("form").addEventListener("submit", speak);
$("text").addEventListener("input", typed);
$("text").addEventListener("compositionend", typed);
$("cancel").addEventListener("click", cancelAsked);
$("download").addEventListener("click", download);
$("key").value = keyTried;
$("key").addEventListener("change", keyChanged);
$("key").addEventListener("keydown", keyEntered);
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    if (!$("voice-form").contains(event.target)) speak(event);
  } else if (event.key === "Escape" && !$("cancel").disabled) cancelAsked();
});
offerVoices();
showVoices().catch(unreachable);
showReadiness().catch(unreachable);
