// One utterance: its text, its audio, and what to send again after its socket was lost. No sockets, no page.

/** Decode the bytes of each encoding to samples. */
const DECODERS = {
  pcm16: (bytes) => Float32Array.from(new Int16Array(bytes), (value) => value / 32768),
  pcm_f32: (bytes) => new Float32Array(bytes.slice(0)),
};

export class Utterance {
  /**
   * @param {object} fields of its first `speak`: voice, language, encoding, seed, sampling
   * @param {number} nowMs when it was requested
   */
  constructor(fields, nowMs) {
    this.fields = fields;
    this.id = randomParts(4).map((part) => part.toString(16)).join("-");
    this.askedMs = nowMs;
    this.text = ""; // all text so far
    this.isFinal = false;
    this.isSent = false; // some of it was sent on the current socket
    this.sentLength = 0;
    this.sentFinal = false;
    this.reconnects = 0;
    this.chunks = []; // ArrayBuffers of audio, as they arrived
    this.heardBytes = 0;
    this.heardSamples = 0;
    this.knownBytes = 0; // bytes still to drop: they were received on an earlier socket
    this.firstMs = null; // when its first audio arrived
    this.lastMs = null; // when its latest audio arrived
    this.captions = []; // {text, start}: start in samples
    this.segments = 0;
    this.isMade = false; // all audio has arrived; it may still be playing
  }

  /** Append text. */
  say(text, isFinal) {
    this.text += text;
    this.isFinal = isFinal;
  }

  /** @returns {object | null} the message with the text that was not sent yet */
  next() {
    if (this.isSent && this.sentLength === this.text.length && this.sentFinal === this.isFinal) return null;
    const text = this.text.slice(this.sentLength);
    const message = { type: "speak", utterance_id: this.id, text, final: this.isFinal, ...(!this.isSent && this.fields) };
    this.isSent = true;
    this.sentLength = this.text.length;
    this.sentFinal = this.isFinal;
    return message;
  }

  /** The socket was lost: send everything again, and drop the audio that was already received. */
  lost() {
    this.reconnects += 1;
    this.isSent = false;
    this.sentLength = 0;
    this.knownBytes = this.heardBytes;
  }

  /** The next audio begins this text chunk. */
  segment({ index, text }) {
    if (index < this.segments) return;
    this.segments = index + 1;
    this.captions.push({ text, start: this.heardSamples });
  }

  /** @returns {Float32Array} the new samples of a payload */
  hear(frame, nowMs) {
    const bytes = frame.slice(Math.min(this.knownBytes, frame.byteLength));
    this.knownBytes = Math.max(0, this.knownBytes - frame.byteLength);
    if (bytes.byteLength > 0) {
      this.firstMs ??= nowMs;
      this.lastMs = nowMs;
      this.chunks.push(bytes);
      this.heardBytes += bytes.byteLength;
    }
    const samples = DECODERS[this.fields.encoding](bytes);
    this.heardSamples += samples.length;
    return samples;
  }

  /** Remove and return the captions that are due after `played` samples. */
  due(played) {
    const count = this.captions.filter(({ start }) => start <= played).length;
    return this.captions.splice(0, count).map(({ text }) => text);
  }
}

export function randomParts(count) {
  return Array.from(crypto.getRandomValues(new Uint32Array(count)));
}
