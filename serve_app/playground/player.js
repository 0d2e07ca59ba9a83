// Hands samples to the audio thread and tells what it has played; knows no protocol.

export const SAMPLE_RATE_HZ = 24000;

/** @typedef {{epoch: number, played: number, queued: number, underruns: number, drained: boolean}} Report */

export class Player {
  /** @param {(report: Report) => void} onReport of what was fed since the last `clear` alone */
  constructor(onReport) {
    this.onReport = onReport;
    this.context = null;
    this.opening = null;
    this.node = null;
    this.epoch = 0;
  }

  /** Must run in a user's gesture, or the browser keeps the sound off. */
  async open() {
    this.context ??= new AudioContext({ sampleRate: SAMPLE_RATE_HZ });
    if (!this.context.audioWorklet) {
      throw new Error("The browser plays sound for pages over https, or of this machine, alone.");
    }
    const resumed = this.context.resume();
    this.opening ??= this.load();
    await Promise.all([resumed, this.opening]);
  }

  async load() {
    await this.context.audioWorklet.addModule(new URL("player_worklet.js", import.meta.url));
    this.node = new AudioWorkletNode(this.context, "player", { numberOfInputs: 0, outputChannelCount: [1] });
    this.node.port.onmessage = ({ data }) => data.epoch === this.epoch && this.onReport(data);
    this.clear();
    this.node.connect(this.context.destination);
  }

  /** @param {Float32Array} samples are given away */
  feed(samples) {
    this.node.port.postMessage({ type: "samples", samples }, [samples.buffer]);
  }

  /** Nothing more is expected now: to run dry is no underrun. */
  end() {
    this.node?.port.postMessage({ type: "end" });
  }

  /** More is expected. */
  expect() {
    this.node?.port.postMessage({ type: "open" });
  }

  /** Be silent at once, and count from zero. */
  clear() {
    this.epoch += 1;
    this.node?.port.postMessage({ type: "clear", epoch: this.epoch });
  }
}
