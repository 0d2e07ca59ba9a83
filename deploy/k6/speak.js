// Load on /api/v1/speak with k6: a rising number of listeners, each with its own socket and one utterance.
//
//   k6 run -e URL=wss://tts.example.org/api/v1/speak -e RATE=5 -e HOLD=2m deploy/k6/speak.js
//
// k6 HAS NOT RUN THIS YET: it was not available. The syntax was checked, and Node ran the script against a service with
// stand-ins for the four modules below (tests/service/test_load.py). It needs k6 1.6, the first version with
// k6/websockets. docs/load.md explains the metrics; `tts-load` measures the same, and finds the highest rate.
//
// Options, in the environment or with -e: URL, TTS_API_KEY, TEXT, VOICE, LANGUAGE; RATE (arrivals per second at the end
// of the ramp), RAMP and HOLD (durations), MAX_SESSIONS, BUFFER_MS (of a player), TIMEOUT_MS; TTFA_P95_MS, UNDERRUNS
// and ERRORS (the SLO).

import { check } from "k6";
import { Counter, Rate, Trend } from "k6/metrics";
import { clearTimeout, setTimeout } from "k6/timers";
import { WebSocket } from "k6/websockets";

const URL = __ENV.URL || "ws://127.0.0.1:8000/api/v1/speak";
const TEXT = __ENV.TEXT || "It is good to hear you, and to speak to you again after such a long time.";
const TIMEOUT_MS = Number(__ENV.TIMEOUT_MS || 60000);
const BUFFER_MS = Number(__ENV.BUFFER_MS || 100);
const MAX_SESSIONS = Number(__ENV.MAX_SESSIONS || 256);
const SAMPLES_PER_MS = 24;
const WINDOW_SAMPLES = 480; // 20 ms
const AUDIBLE_RMS = 32768 * 10 ** (-45 / 20);

const ttfa = new Trend("tts_ttfa", true);
const audibleTtfa = new Trend("tts_audible_ttfa", true);
const e2e = new Trend("tts_e2e", true);
const silence = new Trend("tts_silence", true);
const rtf = new Trend("tts_rtf");
const underruns = new Rate("tts_underruns"); // share of the complete utterances that had one
const errors = new Rate("tts_errors"); // share of all that were sent
const failures = new Counter("tts_failures"); // by the tag `code`
const samplesReceived = new Counter("tts_samples");

export const options = {
  scenarios: {
    listeners: {
      executor: "ramping-arrival-rate", // open loop: no listener waits for earlier ones
      startRate: 0,
      timeUnit: "1m", // targets are whole numbers, so use a minute to allow less than one a second
      preAllocatedVUs: Math.min(32, MAX_SESSIONS),
      maxVUs: MAX_SESSIONS,
      stages: [
        { duration: __ENV.RAMP || "1m", target: Math.round(60 * Number(__ENV.RATE || 1)) },
        { duration: __ENV.HOLD || "1m", target: Math.round(60 * Number(__ENV.RATE || 1)) },
      ],
      gracefulStop: `${Math.ceil(TIMEOUT_MS / 1000)}s`, // lets the last utterances finish
    },
  },
  summaryTrendStats: ["med", "p(90)", "p(95)", "p(99)", "max"],
  thresholds: {
    tts_ttfa: [`p(95)<=${__ENV.TTFA_P95_MS || 500}`],
    tts_underruns: [`rate<=${__ENV.UNDERRUNS || 0.01}`],
    tts_errors: [`rate<=${__ENV.ERRORS || 0.01}`],
    dropped_iterations: ["count==0"], // otherwise MAX_SESSIONS was reached, and the rate was not the requested one
  },
};

// Finds the first sample of two successive audible windows; its index is in `sample`, or -1.
class FirstSound {
  constructor() {
    this.sample = -1;
    this.windows = 0;
    this.filled = 0;
    this.energy = 0;
    this.wasLoud = false;
  }

  push(samples) {
    for (let index = 0; index < samples.length && this.sample < 0; index += 1) {
      this.energy += samples[index] * samples[index];
      this.filled += 1;
      if (this.filled === WINDOW_SAMPLES) this.endWindow();
    }
  }

  endWindow() {
    const isLoud = Math.sqrt(this.energy / WINDOW_SAMPLES) > AUDIBLE_RMS;
    if (isLoud && this.wasLoud) this.sample = (this.windows - 1) * WINDOW_SAMPLES;
    this.wasLoud = isLoud;
    this.windows += 1;
    this.filled = 0;
    this.energy = 0;
  }
}

// The time at which a player without a buffer plays a sample.
function heardAtMs(pieces, sample) {
  let playedUntilMs = 0;
  let left = sample;
  for (const { atMs, samples } of pieces) {
    playedUntilMs = Math.max(playedUntilMs, atMs);
    if (left < samples) return playedUntilMs + left / SAMPLES_PER_MS;
    left -= samples;
    playedUntilMs += samples / SAMPLES_PER_MS;
  }
  return NaN;
}

// Simulates a player that starts when its buffer is full or all audio has arrived, and then plays audio as it arrives.
function play(pieces, endedMs) {
  let there = 0;
  const full = pieces.find(({ samples }) => (there += samples) >= BUFFER_MS * SAMPLES_PER_MS);
  let playedUntilMs = full ? full.atMs : endedMs;
  let count = 0;
  let silentMs = 0;
  for (const { atMs, samples } of pieces) {
    if (atMs > playedUntilMs) {
      count += 1;
      silentMs += atMs - playedUntilMs;
      playedUntilMs = atMs;
    }
    playedUntilMs += samples / SAMPLES_PER_MS;
  }
  return { count, silentMs };
}

export default function () {
  const headers = __ENV.TTS_API_KEY ? { Authorization: `Bearer ${__ENV.TTS_API_KEY}` } : {};
  const socket = new WebSocket(URL, null, { headers });
  socket.binaryType = "arraybuffer";
  const pieces = [];
  const sound = new FirstSound();
  let askedMs = 0;
  let ended = false;

  const end = (code, durationMs) => {
    if (ended) return;
    ended = true;
    const nowMs = Date.now();
    const samples = pieces.reduce((sum, piece) => sum + piece.samples, 0);
    const isWhole = code === "COMPLETE" && Math.abs(samples / SAMPLES_PER_MS - durationMs) <= 1;
    samplesReceived.add(samples);
    errors.add(!isWhole);
    check(null, { "complete, with all of its audio": () => isWhole });
    if (!isWhole) {
      failures.add(1, { code: code === "COMPLETE" ? "LOST_AUDIO" : code });
      return;
    }
    e2e.add(nowMs - askedMs);
    const { count, silentMs } = play(pieces, nowMs);
    underruns.add(count > 0);
    silence.add(silentMs);
    if (samples > 0) {
      ttfa.add(pieces[0].atMs - askedMs);
      rtf.add((nowMs - askedMs) / (samples / SAMPLES_PER_MS));
    }
    if (sound.sample >= 0) audibleTtfa.add(heardAtMs(pieces, sound.sample) - askedMs);
  };

  const timer = setTimeout(() => {
    end("TIMEOUT");
    socket.close();
  }, TIMEOUT_MS);

  socket.onopen = () => {
    askedMs = Date.now();
    const speak = { type: "speak", text: TEXT, encoding: "pcm16", sample_rate: 24000, transport: "binary" };
    if (__ENV.VOICE) speak.voice = __ENV.VOICE;
    if (__ENV.LANGUAGE) speak.language = __ENV.LANGUAGE;
    socket.send(JSON.stringify(speak));
  };
  socket.onmessage = ({ data }) => {
    if (typeof data !== "string") {
      const samples = new Int16Array(data); // little-endian, as on every machine that k6 runs on
      if (samples.length > 0) pieces.push({ atMs: Date.now(), samples: samples.length });
      sound.push(samples);
      return;
    }
    const message = JSON.parse(data);
    if (message.type === "complete") end("COMPLETE", message.duration_ms);
    else if (message.type === "error") end(message.code);
    else return;
    socket.close();
  };
  socket.onclose = ({ code }) => {
    clearTimeout(timer);
    end(`CLOSED_${code || 1006}`); // no effect if it has ended before; also called for a refused handshake
  };
}
