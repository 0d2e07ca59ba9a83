// Draws the received samples and how many of them were played; knows only samples and a canvas.

const SAMPLES_PER_PEAK = 480; // 20 ms

export class Waveform {
  constructor(canvas) {
    this.canvas = canvas;
    this.isDrawing = false;
    this.clear();
  }

  clear() {
    this.peaks = [];
    this.rest = { peak: 0, count: 0 };
    this.played = 0;
    this.draw();
  }

  add(samples) {
    for (const value of samples) {
      this.rest.peak = Math.max(this.rest.peak, Math.abs(value));
      if (++this.rest.count === SAMPLES_PER_PEAK) {
        this.peaks.push(this.rest.peak);
        this.rest = { peak: 0, count: 0 };
      }
    }
    this.draw();
  }

  playedTo(samples) {
    this.played = samples;
    this.draw();
  }

  /** Repaint with the next animation frame, once for all changes before it. */
  draw() {
    if (this.isDrawing) return;
    this.isDrawing = true;
    window.requestAnimationFrame(() => {
      this.isDrawing = false;
      this.paint();
    });
  }

  paint() {
    const { canvas } = this;
    const scale = window.devicePixelRatio || 1;
    const width = Math.round(canvas.clientWidth * scale);
    const height = Math.round(canvas.clientHeight * scale);
    if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
    const style = getComputedStyle(canvas);
    const [played, coming] = [style.getPropertyValue("--accent"), style.getPropertyValue("--line")];
    const context = canvas.getContext("2d");
    context.clearRect(0, 0, width, height);
    // At least five seconds wide, so that the first second does not fill the canvas.
    const columns = Math.max(this.peaks.length, 250);
    const step = width / columns;
    this.peaks.forEach((peak, index) => {
      const bar = Math.max(scale, peak * height);
      context.fillStyle = index * SAMPLES_PER_PEAK < this.played ? played : coming;
      context.fillRect(index * step, (height - bar) / 2, Math.max(1, step * 0.8), bar);
    });
  }
}
