// WAV files from buffered samples.

/** The mark of generated speech, as in the service's own files (serve_app/audio/mark.py). */
export const GENERATED =
  "AI-generated speech; digital source type: http://cv.iptc.org/newscodes/digitalsourcetype/trainedAlgorithmicMedia";

/**
 * @param {(ArrayBuffer | ArrayBufferView)[]} parts mono, little endian: int16 or float32
 * @param {"pcm16" | "pcm_f32"} encoding
 * @param {number} rateHz
 * @param {string} comment ASCII, for the file's tags
 * @returns {Blob}
 */
export function wav(parts, encoding, rateHz, comment = "") {
  const bytes = encoding === "pcm16" ? 2 : 4;
  const size = parts.reduce((sum, part) => sum + part.byteLength, 0);
  const text = comment && comment.padEnd(comment.length + 2 - (comment.length % 2), "\0");
  const header = new DataView(new ArrayBuffer(comment ? 64 + text.length : 44));
  const data = header.byteLength - 8;
  const words = (offset, chars) => [...chars].forEach((c, i) => header.setUint8(offset + i, c.charCodeAt(0)));
  words(0, "RIFF");
  header.setUint32(4, data + size, true);
  words(8, "WAVEfmt ");
  header.setUint32(16, 16, true);
  header.setUint16(20, encoding === "pcm16" ? 1 : 3, true);
  header.setUint16(22, 1, true);
  header.setUint32(24, rateHz, true);
  header.setUint32(28, rateHz * bytes, true);
  header.setUint16(32, bytes, true);
  header.setUint16(34, 8 * bytes, true);
  if (comment) {
    words(36, "LIST");
    header.setUint32(40, 12 + text.length, true);
    words(44, "INFOICMT");
    header.setUint32(52, text.length, true);
    words(56, text);
  }
  words(data, "data");
  header.setUint32(data + 4, size, true);
  return new Blob([header, ...parts], { type: "audio/wav" });
}

/** @returns {Int16Array} of samples within [-1, 1] */
export function pcm16(samples) {
  return Int16Array.from(samples, (value) => Math.round(Math.max(-1, Math.min(1, value)) * 32767));
}
