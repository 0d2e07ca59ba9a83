// WAV files from buffered samples.

/**
 * @param {(ArrayBuffer | ArrayBufferView)[]} parts mono, little endian: int16 or float32
 * @param {"pcm16" | "pcm_f32"} encoding
 * @param {number} rateHz
 * @returns {Blob}
 */
export function wav(parts, encoding, rateHz) {
  const bytes = encoding === "pcm16" ? 2 : 4;
  const size = parts.reduce((sum, part) => sum + part.byteLength, 0);
  const header = new DataView(new ArrayBuffer(44));
  const words = (offset, text) => [...text].forEach((c, i) => header.setUint8(offset + i, c.charCodeAt(0)));
  words(0, "RIFF");
  header.setUint32(4, 36 + size, true);
  words(8, "WAVEfmt ");
  header.setUint32(16, 16, true);
  header.setUint16(20, encoding === "pcm16" ? 1 : 3, true);
  header.setUint16(22, 1, true);
  header.setUint32(24, rateHz, true);
  header.setUint32(28, rateHz * bytes, true);
  header.setUint16(32, bytes, true);
  header.setUint16(34, 8 * bytes, true);
  words(36, "data");
  header.setUint32(40, size, true);
  return new Blob([header, ...parts], { type: "audio/wav" });
}

/** @returns {Int16Array} of samples within [-1, 1] */
export function pcm16(samples) {
  return Int16Array.from(samples, (value) => Math.round(Math.max(-1, Math.min(1, value)) * 32767));
}
