// A picture to begin with, drawn here: fish under water.

export function sample() {
  const canvas = Object.assign(document.createElement("canvas"), { width: 480, height: 360 });
  const context = canvas.getContext("2d");
  const water = context.createLinearGradient(0, 0, 0, 360);
  for (const [at, colour] of [[0, "#8fd3e8"], [0.55, "#2f86a6"], [1, "#123f5a"]]) water.addColorStop(at, colour);
  context.fillStyle = water;
  context.fillRect(0, 0, 480, 360);
  light(context);
  for (const [x, y, size] of [[90, 90, 26], [150, 290, 30], [390, 80, 24], [400, 270, 36], [70, 200, 22]]) {
    fish(context, x, y, size, "#d9e6ec", "#9fb8c4");
  }
  fish(context, 235, 180, 92, "#f76707", "#ffa94d");
  return new Promise((resolve) => canvas.toBlob(resolve, "image/jpeg", 0.92));
}

function light(context) {
  context.fillStyle = "rgb(255 255 255 / 0.07)";
  for (const x of [60, 200, 330]) {
    context.beginPath();
    context.moveTo(x, 0);
    context.lineTo(x + 50, 0);
    context.lineTo(x + 130, 360);
    context.lineTo(x - 10, 360);
    context.fill();
  }
}

function fish(context, x, y, size, body, fins) {
  context.fillStyle = fins;
  shape(context, [[x + 0.8 * size, y], [x + 1.5 * size, y - 0.55 * size], [x + 1.32 * size, y], [x + 1.5 * size, y + 0.55 * size]]);
  shape(context, [[x - 0.2 * size, y - 0.45 * size], [x + 0.3 * size, y - 0.85 * size], [x + 0.45 * size, y - 0.35 * size]]);
  context.fillStyle = body;
  context.beginPath();
  context.ellipse(x, y, size, 0.52 * size, 0, 0, 2 * Math.PI);
  context.fill();
  context.fillStyle = fins;
  shape(context, [[x - 0.05 * size, y + 0.02 * size], [x + 0.42 * size, y - 0.1 * size], [x + 0.35 * size, y + 0.3 * size]]);
  for (const [radius, colour] of [[0.1, "#fff"], [0.06, "#111"]]) {
    context.fillStyle = colour;
    context.beginPath();
    context.arc(x - 0.62 * size, y - 0.1 * size, radius * size, 0, 2 * Math.PI);
    context.fill();
  }
}

function shape(context, points) {
  context.beginPath();
  points.forEach(([x, y], n) => (n ? context.lineTo(x, y) : context.moveTo(x, y)));
  context.closePath();
  context.fill();
}
