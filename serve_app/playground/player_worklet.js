// Plays a queue of samples on the audio thread; knows neither sockets nor the page.
//
// In:  {type: "samples", samples: Float32Array}, {type: "end"} (nothing more comes: running dry is no underrun),
//      {type: "open"} (more comes), {type: "clear", epoch}, {type: "tap", port} (for tests: what is rendered goes there).
// Out: {epoch, played, queued, underruns, drained}, all but `underruns` in samples.

// Head start of the first samples, so that the next ones arrive before these have been played.
const LEAD_S = 0.1;
const REPORT_EVERY_BLOCKS = 8;

class Player extends AudioWorkletProcessor {
  constructor() {
    super();
    this.lead = Math.round(LEAD_S * sampleRate);
    this.tap = null;
    this.frame = 0; // counted here: `currentFrame` stands still while the page holds the graph's lock
    this.clear(0);
    this.port.onmessage = ({ data }) => this.take(data);
  }

  clear(epoch) {
    this.epoch = epoch;
    this.queue = [];
    this.offset = 0; // of the next sample in queue[0]
    this.queued = 0;
    this.played = 0;
    this.waited = 0; // since there is something to play
    this.underruns = 0;
    this.playing = false;
    this.isDry = false; // it ran out in the middle
    this.ended = false;
    this.blocks = 0;
  }

  take(message) {
    switch (message.type) {
      case "samples":
        this.queue.push(message.samples);
        this.queued += message.samples.length;
        break;
      case "end":
        this.ended = true;
        this.isDry = false;
        if (this.queued === 0) this.report(true);
        break;
      case "open":
        this.ended = false;
        break;
      case "clear":
        this.clear(message.epoch);
        break;
      case "tap":
        this.tap = message.port;
        break;
    }
  }

  process(_inputs, outputs) {
    if (!this.playing && this.queued > 0) {
      this.playing = this.ended || this.queued >= this.lead || this.waited >= this.lead;
      this.waited += outputs[0][0].length;
      if (this.playing && this.isDry) this.underruns += 1;
    }
    if (this.playing) this.play(outputs[0][0]);
    this.frame += outputs[0][0].length;
    return true;
  }

  play(block) {
    let filled = 0;
    while (filled < block.length && this.queue.length > 0) {
      const next = this.queue[0].subarray(this.offset, this.offset + block.length - filled);
      block.set(next, filled);
      filled += next.length;
      this.offset += next.length;
      if (this.offset === this.queue[0].length) {
        this.queue.shift();
        this.offset = 0;
      }
    }
    this.queued -= filled;
    this.played += filled;
    this.tap?.postMessage({ frame: this.frame, samples: block.slice(0, filled), queued: this.queued });
    if (filled < block.length) this.ranDry();
    else if (++this.blocks % REPORT_EVERY_BLOCKS === 0) this.report(false);
  }

  ranDry() {
    this.playing = false;
    this.waited = 0;
    this.isDry = !this.ended; // an underrun once something follows
    this.report(this.ended);
  }

  report(drained) {
    const { epoch, played, queued, underruns } = this;
    this.port.postMessage({ epoch, played, queued, underruns, drained });
  }
}

registerProcessor("player", Player);
