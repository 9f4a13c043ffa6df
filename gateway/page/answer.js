// What came back: predictions as bars, the time by stage, or what went wrong.

import { byId, element, milliseconds, say } from "./dom.js";

const STAGES = {
  lookup: "lookup",
  network: "network",
  receive: "receiving",
  fetch: "fetching",
  cache: "cache",
  decode: "decoding",
  queue: "queue",
  inference: "inference",
  reply: "reply",
  render: "drawing",
};
const LONGEST = 4000; // characters of an answer that is shown as it is

export function showProgress(text) {
  say(byId("progress"), text);
}

export function showPrediction({ answer, way, timings, worker, model, version }, { note }) {
  const predictions = answer.predictions;
  byId("problem").hidden = true;
  bars(predictions ?? []);
  byId("raw").hidden = predictions !== undefined;
  say(byId("raw"), predictions === undefined ? excerpt(answer) : "");
  showProgress(`${summary(predictions)} ${model} version ${version}, on ${worker}.`);
  times(timings);
  const ways = { direct: "The picture went straight to the worker.", proxy: "The picture went through the gateway." };
  say(byId("way"), [ways[way], note].filter(Boolean).join(" "));
}

export function showProblem(error) {
  clear();
  const [problem, details] = [byId("problem"), []];
  if (error.code) details.push(error.code);
  if (error.retryAfter) details.push(`try again in ${error.retryAfter} s`);
  if (error.requestId) details.push(`request ${error.requestId}`);
  problem.replaceChildren(element("strong", { text: error.message }), element("span", { text: details.join(" · ") }));
  problem.hidden = false;
  showProgress("");
}

export function clear() {
  bars([]);
  for (const id of ["problem", "raw", "timings"]) byId(id).hidden = true;
}

function summary(predictions) {
  if (predictions === undefined) return "Answered by";
  if (!predictions.length) return "Nothing was found, by";
  const [{ label, probability }] = predictions;
  const more = predictions[0].box ? ` (${predictions.length} found)` : "";
  return `${label}, ${percent(probability)}${more}, by`;
}

function bars(predictions) {
  byId("predictions").replaceChildren(
    ...predictions.map(({ label, probability }) => {
      const bar = element("span", { class: "level", "aria-hidden": "true" });
      bar.style.setProperty("--part", String(Math.max(0, Math.min(1, probability))));
      return element(
        "li",
        {},
        element("span", { class: "label", text: label }),
        element("span", { class: "probability", text: percent(probability) }),
        bar,
      );
    }),
  );
}

function times(timings) {
  const total = timings.find(({ stage }) => stage === "total")?.ms ?? 0;
  const spent = timings.filter(({ stage, ms }) => stage !== "total" && ms > 0);
  const known = spent.reduce((sum, { ms }) => sum + ms, 0) || 1;
  byId("bar").replaceChildren(
    ...spent.map(({ stage, ms }) => {
      const part = element("span", { "data-stage": stage });
      part.style.flexGrow = String(ms / known);
      return part;
    }),
  );
  byId("bar").setAttribute("aria-label", `${milliseconds(total)} in all; the list says where`);
  byId("stages").replaceChildren(
    ...spent.map(({ stage, ms }) =>
      element(
        "li",
        { "data-stage": stage },
        element("span", { text: STAGES[stage] ?? stage }),
        element("span", { class: "ms", text: milliseconds(ms) }),
      ),
    ),
    element("li", { class: "total" }, element("span", { text: "in all" }), element("span", { class: "ms", text: milliseconds(total) })),
  );
  byId("timings").hidden = false;
}

function excerpt(answer) {
  const text = JSON.stringify(answer, (_, value) => (Array.isArray(value) && value.length > 12 ? shortened(value) : value), 2);
  return text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text;
}

function shortened(values) {
  return [...values.slice(0, 8), `… ${values.length - 8} more`];
}

function percent(probability) {
  return `${(100 * probability).toFixed(probability >= 0.1 ? 0 : 1)} %`;
}
