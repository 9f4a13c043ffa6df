// A canvas to draw on with a mouse, a finger or a pen: black on white.

const WIDTH = 18; // of the stroke, on a canvas of 280 x 280

export class Pad {
  #canvas;
  #context;
  #last = null;

  constructor(canvas, { drawn }) {
    this.#canvas = canvas;
    this.#context = canvas.getContext("2d");
    this.clear();
    canvas.addEventListener("pointerdown", (event) => this.#begin(event));
    canvas.addEventListener("pointermove", (event) => this.#move(event));
    for (const end of ["pointerup", "pointercancel"]) {
      canvas.addEventListener(end, () => {
        if (this.#last) drawn();
        this.#last = null;
      });
    }
  }

  clear() {
    this.#context.fillStyle = "#fff";
    this.#context.fillRect(0, 0, this.#canvas.width, this.#canvas.height);
  }

  image() {
    return new Promise((resolve) => this.#canvas.toBlob(resolve, "image/png"));
  }

  #begin(event) {
    if (event.button !== 0) return;
    event.preventDefault();
    this.#canvas.setPointerCapture(event.pointerId);
    this.#last = this.#at(event);
    this.#line(this.#last, this.#last);
  }

  #move(event) {
    if (!this.#last) return;
    const events = event.getCoalescedEvents?.() ?? [];
    for (const each of events.length ? events : [event]) {
      const to = this.#at(each);
      this.#line(this.#last, to);
      this.#last = to;
    }
  }

  #at(event) {
    const box = this.#canvas.getBoundingClientRect();
    const scale = this.#canvas.width / box.width;
    return { x: (event.clientX - box.left) * scale, y: (event.clientY - box.top) * scale };
  }

  #line(from, to) {
    Object.assign(this.#context, { strokeStyle: "#000", lineWidth: WIDTH, lineCap: "round", lineJoin: "round" });
    this.#context.beginPath();
    this.#context.moveTo(from.x, from.y);
    this.#context.lineTo(to.x + 0.01, to.y);
    this.#context.stroke();
  }
}
