// A line of one minute, small enough to stand in a table. The number beside it says what it ends in.

import { svg } from "./dom.js";

const [WIDTH, HEIGHT, POINTS] = [160, 36, 60];

export function sparkline(kind) {
  const shape = { class: `spark ${kind}`, viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none" };
  return svg("svg", { ...shape, "aria-hidden": "true" }, svg("path", { class: "area" }), svg("path", { class: "line" }));
}

// Values, oldest first; null where nothing is known, which the line leaves out
export function plot(drawing, values) {
  const recent = values.slice(-POINTS);
  const most = Math.max(...recent, 1e-9);
  const point = (value, n) => ({
    x: ((POINTS - recent.length + n) * WIDTH) / (POINTS - 1),
    y: HEIGHT - 2 - ((HEIGHT - 6) * value) / most,
  });
  const lines = runs(recent, point);
  const [area, line] = drawing.children;
  line.setAttribute("d", lines.map(through).join(""));
  area.setAttribute("d", lines.map((run) => `${through(run)}L${run.at(-1).x},${HEIGHT}L${run[0].x},${HEIGHT}Z`).join(""));
}

function runs(values, point) {
  const found = [];
  let run = null;
  values.forEach((value, n) => {
    if (value === null) run = null;
    else if (run) run.push(point(value, n));
    else found.push((run = [point(value, n)]));
  });
  return found;
}

function through(run) {
  const points = run.length > 1 ? run : [run[0], { x: run[0].x + 1, y: run[0].y }];
  return `M${points.map(({ x, y }) => `${x.toFixed(1)},${y.toFixed(1)}`).join("L")}`;
}
