// The list of voices, and the form for a new one: a file or a recording, its description, and the checks.

import { answerOf } from "./access.js";
import { Recorder } from "./recorder.js";

const MAX_RECORDING_S = 30;
const LOOK_AGAIN_MS = 1000;

const $ = (id) => document.getElementById(id);
let clip = null; // Blob to upload

/** Fill the list; selects `preferred` (by default the selected voice) if it is usable, else the service's default. */
export async function showVoices(preferred = $("voice").value) {
  const { ok, said } = await answerOf("v1/audio/voices");
  if (!ok) throw new Error(said.message);
  const { voices, default: usual } = said;
  const options = voices.map((voice) => {
    const option = new Option(voice.name, voice.id);
    option.disabled = voice.state === "unavailable";
    if (option.disabled) option.text = `${voice.name} (unavailable: ${voice.reason})`;
    if (voice.state === "pending") option.text = `${voice.name} (being prepared)`;
    return option;
  });
  const usable = options.filter((option) => !option.disabled).map((option) => option.value);
  $("voice").replaceChildren(...options);
  $("voice").value = [preferred, usual, ...usable].find((id) => usable.includes(id)) ?? "";
  if (voices.some((voice) => voice.state === "pending")) {
    window.setTimeout(() => showVoices().catch(() => {}), LOOK_AGAIN_MS);
  }
  if (usable.length === 0) throw new Error("No voice is ready.");
}

function voiceStatus(text, isError = false) {
  $("voice-status").textContent = text;
  $("voice-status").classList.toggle("error", isError);
}

function choose(blob) {
  clip = blob;
  URL.revokeObjectURL($("preview").src);
  $("preview").hidden = blob === null;
  if (blob) $("preview").src = URL.createObjectURL(blob);
}

function showReport(checks) {
  $("report").hidden = checks.length === 0;
  $("report").tBodies[0].replaceChildren(
    ...checks.map(({ name, measured, over, limit, verdict, advice }) => {
      const row = document.createElement("tr");
      row.className = verdict;
      const value = measured === null ? "–" : `${over ? "> " : ""}${Number(measured.toPrecision(3))}`;
      for (const text of [name, value, limit, advice ? `${verdict}: ${advice}` : verdict]) {
        row.insertCell().textContent = text;
      }
      return row;
    }),
  );
}

async function addVoice(event) {
  event.preventDefault();
  if (!clip) {
    voiceStatus("Choose a file or record a clip first.", true);
    return;
  }
  const form = new FormData();
  form.set("audio", clip, clip.name ?? "recording.wav");
  const fields = { name: "voice-name", transcript: "transcript", language: "voice-language", consent: "consent" };
  for (const [field, id] of Object.entries(fields)) if ($(id).value.trim()) form.set(field, $(id).value);
  $("add").disabled = true;
  voiceStatus("Checking the clip…");
  showReport([]);
  try {
    const { ok, said } = await answerOf("v1/audio/voices", { method: "POST", body: form });
    showReport(said.report ?? []);
    if (!ok) throw new Error(said.code ? `${said.message} (${said.code})` : said.message);
    await showVoices(said.id);
    voiceStatus(`“${said.name}” is added and selected. Press Speak to hear it.`);
  } catch (error) {
    voiceStatus(error.message, true);
  } finally {
    $("add").disabled = false;
  }
}

const recorder = new Recorder((seconds) => {
  $("record").textContent = `Stop (${seconds.toFixed(1)} s)`;
  if (seconds >= MAX_RECORDING_S) stopRecording();
});

async function stopRecording() {
  if (!recorder.isRecording) return;
  const recorded = recorder.stop();
  $("record").textContent = "Record again";
  $("clip").value = "";
  choose(await recorded);
  voiceStatus("Recorded. Listen to it before you add it.");
}

async function record() {
  if (recorder.isRecording) {
    await stopRecording();
    return;
  }
  $("record").disabled = true;
  try {
    await recorder.start();
    voiceStatus(`Recording; it stops after ${MAX_RECORDING_S} s.`);
  } catch (error) {
    voiceStatus(`Recording failed: ${error.message}`, true);
  } finally {
    $("record").disabled = false;
  }
}

/** Set up the form for a new voice. */
export function offerVoices() {
  $("voice-language").replaceChildren(...Array.from($("language").options, (option) => option.cloneNode(true)));
  $("voice-form").addEventListener("submit", addVoice);
  $("record").addEventListener("click", record);
  $("clip").addEventListener("change", () => choose($("clip").files[0] ?? null));
}
