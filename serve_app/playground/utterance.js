// What one utterance has said and heard, and what to say again after its socket was lost; no sockets, no page.

/** Samples of an encoding, from its bytes. */
const DECODERS = {
  pcm16: (bytes) => Float32Array.from(new Int16Array(bytes), (value) => value / 32768),
  pcm_f32: (bytes) => new Float32Array(bytes.slice(0)),
};

export class Utterance {
  /**
   * @param {object} fields of its first `speak`: voice, language, encoding, seed, sampling
   * @param {number} nowMs when it is asked for
   */
  constructor(fields, nowMs) {
    this.fields = fields;
    this.id = randomParts(4).map((part) => part.toString(16)).join("-");
    this.askedMs = nowMs;
    this.text = ""; // all that was said
    this.isFinal = false;
    this.isSent = false; // something of it, to this socket
    this.sentLength = 0;
    this.sentFinal = false;
    this.reconnects = 0;
    this.chunks = []; // ArrayBuffers of audio, as they came
    this.heardBytes = 0;
    this.heardSamples = 0;
    this.knownBytes = 0; // of what comes next: heard on another socket already
    this.firstMs = null; // when its first audio came
    this.lastMs = null; // when its latest audio came
    this.captions = []; // {text, start}: start in samples
    this.segments = 0;
    this.isMade = false; // all of it is here, and may still play
  }

  /** Say some more. */
  say(text, isFinal) {
    this.text += text;
    this.isFinal = isFinal;
  }

  /** @returns {object | null} the message with what was said and not yet sent */
  next() {
    if (this.isSent && this.sentLength === this.text.length && this.sentFinal === this.isFinal) return null;
    const text = this.text.slice(this.sentLength);
    const message = { type: "speak", utterance_id: this.id, text, final: this.isFinal, ...(!this.isSent && this.fields) };
    this.isSent = true;
    this.sentLength = this.text.length;
    this.sentFinal = this.isFinal;
    return message;
  }

  /** Its socket is gone: all is said again, and what was heard of it is dropped when it comes once more. */
  lost() {
    this.reconnects += 1;
    this.isSent = false;
    this.sentLength = 0;
    this.knownBytes = this.heardBytes;
  }

  /** A text chunk begins with the next audio. */
  segment({ index, text }) {
    if (index < this.segments) return;
    this.segments = index + 1;
    this.captions.push({ text, start: this.heardSamples });
  }

  /** @returns {Float32Array} what of a frame is new */
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

  /** Captions that are due once so many samples were played. */
  due(played) {
    const count = this.captions.filter(({ start }) => start <= played).length;
    return this.captions.splice(0, count).map(({ text }) => text);
  }
}

export function randomParts(count) {
  return Array.from(crypto.getRandomValues(new Uint32Array(count)));
}
