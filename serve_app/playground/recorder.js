// Records the microphone as WAV, without the browser's processing for calls.

import { pcm16, wav } from "./wav.js";

export class Recorder {
  /** @param {(seconds: number) => void} onTime receives the length of the recording so far */
  constructor(onTime) {
    this.onTime = onTime;
    this.context = null;
  }

  get isRecording() {
    return this.context !== null;
  }

  async start() {
    if (!navigator.mediaDevices) throw new Error("Browsers offer the microphone only to pages over https or from this machine.");
    this.parts = [];
    this.count = 0;
    this.stream = await navigator.mediaDevices.getUserMedia({
      audio: { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false },
    });
    this.context = new AudioContext();
    await this.context.audioWorklet.addModule(new URL("recorder_worklet.js", import.meta.url));
    const node = new AudioWorkletNode(this.context, "recorder", { channelCount: 1, channelCountMode: "explicit" });
    node.port.onmessage = ({ data }) => {
      if (!this.isRecording) return;
      this.parts.push(data);
      this.count += data.length;
      this.onTime(this.count / this.context.sampleRate);
    };
    this.context.createMediaStreamSource(this.stream).connect(node);
    node.connect(this.context.destination); // silent; a browser does not run a node without an output
  }

  /** @returns {Promise<Blob>} a WAV file */
  async stop() {
    const { context, stream, parts } = this;
    this.context = null;
    for (const track of stream.getTracks()) track.stop();
    await context.close();
    return wav(parts.map(pcm16), "pcm16", context.sampleRate);
  }
}
