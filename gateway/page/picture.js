// The picture that was asked about, and the boxes that were found in it.

const LARGEST = 1200; // pixels of a side that are drawn; what is uploaded is the picture as it came
const COLOURS = ["#e8590c", "#1c7ed6", "#2f9e44", "#9c36b5", "#e03131", "#0c8599", "#f08c00", "#6741d9"];

export class Picture {
  #canvas;
  #context;
  #image = null;

  constructor(canvas) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
  }

  // Whether the browser can show it; what it cannot, the cluster may well
  async show(blob) {
    this.clear();
    const address = URL.createObjectURL(blob);
    try {
      const image = new Image();
      image.src = address;
      await image.decode();
      this.#image = image;
      this.#draw();
      return true;
    } catch {
      return false;
    } finally {
      URL.revokeObjectURL(address);
    }
  }

  clear() {
    this.#image = null;
    this.#canvas.hidden = true;
    delete this.#canvas.dataset.boxes;
  }

  // Predictions with boxes in pixels of a picture of width and height, as the worker says them
  mark(predictions, width, height) {
    if (!this.#image) return;
    this.#draw();
    const scale = { x: this.#canvas.width / width, y: this.#canvas.height / height };
    predictions.toReversed().forEach(({ label, index, probability, box }) => {
      this.#box(box, scale, `${label} ${Math.round(100 * probability)} %`, COLOURS[index % COLOURS.length]);
    });
    this.#canvas.dataset.boxes = predictions.length;
    this.#canvas.setAttribute("aria-label", `Your picture, with ${predictions.length} boxes drawn in it`);
  }

  #draw() {
    const { naturalWidth: width, naturalHeight: height } = this.#image;
    const scale = Math.min(1, LARGEST / Math.max(width, height));
    this.#canvas.width = Math.max(1, Math.round(width * scale));
    this.#canvas.height = Math.max(1, Math.round(height * scale));
    this.#context.drawImage(this.#image, 0, 0, this.#canvas.width, this.#canvas.height);
    this.#canvas.setAttribute("role", "img");
    this.#canvas.setAttribute("aria-label", "Your picture");
    this.#canvas.hidden = false;
  }

  #box([left, top, right, bottom], scale, text, colour) {
    const context = this.#context;
    const unit = Math.max(this.#canvas.width, this.#canvas.height) / 400;
    const [x, y] = [left * scale.x, top * scale.y];
    Object.assign(context, { strokeStyle: colour, fillStyle: colour, lineWidth: 2 * unit });
    context.font = `600 ${12 * unit}px system-ui, sans-serif`;
    context.strokeRect(x, y, (right - left) * scale.x, (bottom - top) * scale.y);
    const wide = context.measureText(text).width + 8 * unit;
    const at = { x: Math.max(0, Math.min(x - unit, this.#canvas.width - wide)), y: Math.max(0, y - 18 * unit) };
    context.fillRect(at.x, at.y, wide, 18 * unit);
    context.fillStyle = "#fff";
    context.fillText(text, at.x + 4 * unit, at.y + 13 * unit);
  }
}
