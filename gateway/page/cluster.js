// The Cluster view: what the gateway tells each second, shown in place.

import { byId, bytes, element, keyed, milliseconds, say } from "./dom.js";
import { plot, sparkline } from "./sparkline.js";

const ORDER = ["ready", "stalled", "restarting", "loading", "stopping", "failed"];
const RECENT = 5; // seconds that a number stands for

export class Cluster {
  #session;
  #states = new Map();
  #asked = null; // the node that may be drained

  constructor(session) {
    this.#session = session;
    byId("drain-no").addEventListener("click", () => byId("drain-dialog").close());
    byId("drain-yes").addEventListener("click", () => this.#drain());
  }

  show(state) {
    const models = modelsOf(state);
    this.#tiles(state, models);
    keyed(byId("models"), models, { name: (model) => model.key, make: modelRow, update: updateModel });
    keyed(byId("nodes"), state.workers, {
      name: (worker) => worker.incarnation,
      make: (worker) => this.#node(worker),
      update: (row, worker) => this.#update(row, worker),
    });
    this.#tell(state.workers);
  }

  forget() {
    for (const id of ["tiles", "models", "nodes"]) byId(id).replaceChildren();
  }

  #tiles(state, models) {
    const ready = state.workers.filter((worker) => worker.state === "ready").length;
    const all = models.map((model) => model.minute);
    const total = (values) => values.reduce((sum, value) => sum + value, 0);
    const direct = total(all.map((minute) => minute.direct_bytes));
    const share = direct + state.proxied_bytes ? Math.round((100 * direct) / (direct + state.proxied_bytes)) : null;
    const tiles = [
      ["Nodes ready", `${ready} of ${state.workers.length}`, ready < state.workers.length ? "some are not" : "all are well"],
      ["Images a second", figure(total(all.map((minute) => recent(minute.images)))), "in the last five seconds"],
      ["Waiting", String(total(models.map((model) => model.depth))), longest(models) ? `${milliseconds(1000 * longest(models))} to wait at most` : "no wait"],
      ["Kept out of the gateway", bytes(direct), share === null ? "nothing was uploaded yet" : `${share} % of all bytes`],
    ];
    keyed(byId("tiles"), tiles, {
      name: ([title]) => title,
      make: ([title]) => element("div", { class: "tile" }, element("dt", { text: title }), element("dd"), element("dd")),
      update(tile, [, value, note]) {
        say(tile.children[1], value);
        say(tile.children[2], note);
      },
    });
  }

  #node({ name, incarnation }) {
    const button = element("button", { type: "button", class: "button small drain", text: "Drain" });
    button.setAttribute("aria-label", `Drain ${name}`);
    button.addEventListener("click", () => this.#ask(name, incarnation));
    return element(
      "li",
      { class: "node" },
      element("div", { class: "who" }, element("h3", { text: name }), element("span", { class: "badge" })),
      element("p", { class: "where" }),
      element("ul", { class: "loads" }),
      button,
    );
  }

  #update(row, worker) {
    const [who, where, loads, button] = row.children;
    badge(who.children[1], worker.state);
    row.dataset.state = worker.state;
    say(where, [worker.zone && `zone ${worker.zone}`, `Shoal ${worker.version}`].filter(Boolean).join(" · "));
    button.hidden = !this.#session.holder.admin || worker.state !== "ready";
    keyed(loads, Object.entries(worker.models), {
      name: ([key]) => key,
      make: ([key]) =>
        element(
          "li",
          { class: "load" },
          element("span", { class: "model", text: key }),
          element("span", { class: "badge" }),
          element("span", { class: "depth" }),
        ),
      update: (made, [, load]) => {
        badge(made.children[1], load.status);
        made.title = load.reason;
        const wait = load.queue_depth ? `, ${milliseconds(1000 * load.expected_wait)} to wait` : "";
        say(made.children[2], `${load.queue_depth} waiting${wait} · ${milliseconds(1000 * load.seconds_per_image)} an image`);
      },
    });
  }

  // A change of a node's state, in words, for those who do not see it
  #tell(workers) {
    const news = [];
    const now = new Map(workers.map((worker) => [worker.name, worker.state]));
    if (this.#states.size) {
      for (const [name, state] of now) if (this.#states.get(name) !== state) news.push(`${name} is ${state}`);
      for (const name of this.#states.keys()) if (!now.has(name)) news.push(`${name} has gone`);
    }
    this.#states = now;
    if (news.length) say(byId("news"), news.join(", "));
  }

  // Draining

  #ask(name, incarnation) {
    this.#asked = { name, incarnation };
    say(byId("drain-name"), name);
    byId("drain-dialog").showModal();
    byId("drain-no").focus();
  }

  async #drain() {
    const { name, incarnation } = this.#asked;
    byId("drain-dialog").close();
    try {
      await this.#session.client.drain(incarnation);
      say(byId("news"), `${name} drains`);
    } catch (error) {
      if (!this.#session.refused(error)) say(byId("news"), `${name} was not drained: ${error.message}`);
    }
  }
}

// What is known of every model version: of its nodes together, and as it was published

function modelsOf({ workers, models, minute }) {
  const keys = new Set(Object.keys(minute));
  for (const worker of workers) for (const key of Object.keys(worker.models)) keys.add(key);
  for (const [model, { versions }] of Object.entries(models)) for (const number of versions) keys.add(`${model}@${number}`);
  return [...keys].sort(inOrder).map((key) => {
    const at = key.lastIndexOf("@");
    const [model, version] = [key.slice(0, at), key.slice(at + 1)];
    const loads = workers.filter((worker) => worker.state !== "unreachable").map((worker) => worker.models[key]);
    const there = loads.filter(Boolean);
    const published = models[model] ?? { labels: {}, traffic: {} };
    const labels = Object.keys(published.labels).filter((label) => published.labels[label] === version);
    return {
      key,
      model,
      version,
      labels,
      share: published.traffic?.[version],
      splits: Object.keys(published.traffic ?? {}).length > 0,
      task: there.find((load) => load.task)?.task ?? "",
      ready: there.filter((load) => load.status === "ready").length,
      nodes: there.length,
      status: ORDER.find((status) => there.some((load) => load.status === status)) ?? "nowhere",
      depth: there.reduce((sum, load) => sum + load.queue_depth, 0),
      wait: Math.min(...there.filter((load) => load.status === "ready").map((load) => load.expected_wait), Infinity),
      minute: minute[key] ?? { images: [], ms: [], direct_bytes: 0 },
    };
  });
}

function inOrder(one, other) {
  return one.localeCompare(other, undefined, { numeric: true });
}

function modelRow({ model, version }) {
  return element(
    "article",
    { class: "served" },
    element(
      "div",
      { class: "who" },
      element("h3", {}, element("span", { text: model }), element("span", { class: "version", text: ` version ${version}` })),
      element("span", { class: "badge" }),
      element("span", { class: "labels" }),
      element("p", { class: "where" }),
    ),
    trend("images", "images a second"),
    trend("ms", "to answer"),
  );
}

function trend(kind, unit) {
  const number = element("p", {}, element("strong", { text: "–" }), element("span", { text: ` ${unit}` }));
  return element("div", { class: "trend" }, sparkline(kind), number);
}

function updateModel(row, model) {
  const [who, images, answers] = row.children;
  const [, state, labels, where] = who.children;
  badge(state, model.status);
  const share = model.splits ? [`${model.share ?? 0} % of the traffic`] : [];
  keyed(labels, [...model.labels, ...share], {
    name: (text) => text,
    make: (text) => element("span", { class: "label", text }),
    update() {},
  });
  const wait = model.wait === Infinity || !model.wait ? "" : ` · ${milliseconds(1000 * model.wait)} to wait`;
  say(where, `${model.task || "not loaded"} · ready on ${model.ready} of ${model.nodes} · ${model.depth} waiting${wait}`);
  plot(images.firstChild, model.minute.images);
  say(images.querySelector("strong"), figure(recent(model.minute.images)));
  plot(answers.firstChild, model.minute.ms);
  const last = model.minute.ms.findLast((value) => value !== null);
  say(answers.querySelector("strong"), last === undefined ? "–" : milliseconds(last));
}

function badge(made, state) {
  made.dataset.state = state;
  say(made, state);
}

function recent(values) {
  const last = values.slice(-RECENT);
  return last.length ? last.reduce((sum, value) => sum + value, 0) / last.length : 0;
}

function longest(models) {
  return Math.max(0, ...models.map((model) => model.wait).filter((wait) => wait !== Infinity));
}

function figure(value) {
  return value >= 100 ? value.toFixed(0) : value.toFixed(1);
}
