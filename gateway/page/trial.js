// The Try it view: a picture from anywhere, a model, and its answer.

import { clear, showPrediction, showProblem, showProgress } from "./answer.js";
import { LANGUAGES, command } from "./commands.js";
import { byId, element, keyed, say, tabs } from "./dom.js";
import { Pad } from "./pad.js";
import { Picture } from "./picture.js";
import { sample } from "./sample.js";

const COPIED = 1500;

export class Trial {
  #session;
  #picture = new Picture(byId("picture"));
  #pad = new Pad(byId("pad"), { drawn: () => this.#read() });
  #language = "curl";
  #state = null;
  #image = null; // what was asked about last: a Blob, or { url }
  #asking = new AbortController();

  constructor(session) {
    this.#session = session;
  }

  begin() {
    this.#languages();
    this.#sources();
    byId("model").addEventListener("change", () => {
      this.#versions();
      this.#changed();
    });
    byId("version").addEventListener("change", () => this.#changed());
    byId("again").addEventListener("click", () => this.#ask(this.#image));
    this.#tell();
  }

  // The cluster's state: which models and versions there are
  know(state) {
    const before = this.#state;
    this.#state = state;
    const names = [...new Set(versionsOf(state).map(({ model }) => model))];
    const chosen = byId("model").value;
    options(byId("model"), names.map((name) => [name, name]));
    if (byId("model").value !== chosen || !before) this.#tell();
    this.#versions();
  }

  #versions() {
    if (!this.#state) return;
    const model = byId("model").value;
    const published = this.#state.models[model];
    const versions = versionsOf(this.#state).filter((version) => version.model === model);
    const labels = Object.entries(published?.labels ?? {});
    const chosen = byId("version").value;
    options(byId("version"), [
      ["", Object.keys(published?.traffic ?? {}).length ? "by the split of traffic" : "the latest"],
      ...labels.map(([label, version]) => [`label:${label}`, `${label} (version ${version})`]),
      ...versions.map(({ version, ready }) => [`version:${version}`, `version ${version}${ready ? "" : " – not ready"}`]),
    ]);
    if (byId("version").value !== chosen) this.#tell();
  }

  #wish() {
    const chosen = byId("version").value;
    const [kind, value] = [chosen.slice(0, chosen.indexOf(":")), chosen.slice(chosen.indexOf(":") + 1)];
    return { model: byId("model").value || undefined, ...(kind ? { [kind]: value } : {}) };
  }

  #changed() {
    this.#tell();
    if (this.#image) this.#ask(this.#image);
  }

  // Where pictures come from

  #sources() {
    byId("source").addEventListener("change", (event) => this.#choose(event.target.value));
    for (const id of ["file", "camera"]) {
      byId(id).addEventListener("change", (event) => {
        const [file] = event.target.files;
        event.target.value = ""; // the same file again is a change too
        if (file) this.#take(file);
      });
    }
    byId("sample").addEventListener("click", async () => this.#take(await sample()));
    byId("read").addEventListener("click", () => this.#read());
    byId("clear").addEventListener("click", () => {
      this.#pad.clear();
      this.#forget("Draw something.");
    });
    byId("source-address").addEventListener("submit", (event) => {
      event.preventDefault();
      const url = byId("address").value.trim();
      if (url) this.#ask({ url });
    });
    document.addEventListener("paste", (event) => {
      const file = [...(event.clipboardData?.files ?? [])].find(({ type }) => type.startsWith("image/"));
      if (file) this.#take(file);
    });
    const drop = byId("drop");
    for (const name of ["dragover", "dragleave", "drop"]) {
      document.addEventListener(name, (event) => {
        if (![...(event.dataTransfer?.types ?? [])].includes("Files")) return;
        event.preventDefault(); // a file that misses the place must not replace the page
        drop.classList.toggle("over", name === "dragover" && drop.contains(event.target));
        if (name === "drop" && event.dataTransfer.files.length) this.#take(event.dataTransfer.files[0]);
      });
    }
  }

  #choose(source) {
    for (const name of ["picture", "draw", "address"]) byId(`source-${name}`).hidden = name !== source;
    this.#forget({ picture: "No picture yet.", draw: "Draw something.", address: "No address yet." }[source]);
    if (source === "picture") this.#show(null);
  }

  #forget(why) {
    this.#asking.abort();
    this.#image = null;
    byId("again").hidden = true;
    clear();
    showProgress(why);
    this.#tell();
  }

  async #take(file) {
    const radio = document.querySelector('input[name="source"][value="picture"]');
    if (!radio.checked) {
      radio.checked = true;
      this.#choose("picture");
    }
    this.#show(file);
    await this.#ask(file);
  }

  async #show(file) {
    const invitation = byId("invitation");
    if (!file) this.#picture.clear();
    const shown = file && (await this.#picture.show(file));
    invitation.hidden = Boolean(shown);
    const text = file && !shown ? "This browser cannot show that file. The cluster may read it." : "Drop a picture here";
    say(invitation.querySelector("strong"), text);
  }

  async #read() {
    await this.#ask(await this.#pad.image());
  }

  // Asking

  async #ask(image) {
    this.#asking.abort();
    const asking = (this.#asking = new AbortController());
    this.#image = image;
    this.#tell();
    byId("again").hidden = false;
    showProgress("Asking …");
    const { uploads } = this.#session.settings;
    try {
      const mode = uploads.length ? "auto" : "proxy";
      const found = await this.#session.client.predict(image, { ...this.#wish(), mode, signal: asking.signal });
      if (asking.signal.aborted) return;
      showPrediction(found, { note: note(found.way, uploads) });
      const { predictions = [], width, height } = found.answer;
      if (predictions[0]?.box && image instanceof Blob) this.#picture.mark(predictions, width, height);
    } catch (error) {
      if (asking.signal.aborted) return;
      if (this.#session.refused(error)) showProgress("This cluster wants a key.");
      else showProblem(error);
    }
  }

  // The commands

  #languages() {
    const list = byId("languages");
    Object.entries(LANGUAGES).forEach(([language, text], place) => {
      const chosen = place === 0;
      const tab = element("button", { type: "button", role: "tab", id: `language-${language}`, "aria-controls": "command", text });
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
      list.append(tab);
    });
    tabs(list, (tab) => {
      this.#language = tab.id.slice("language-".length);
      byId("command").setAttribute("aria-labelledby", tab.id);
      this.#tell();
    });
    byId("copy").addEventListener("click", () => this.#copy());
  }

  #tell() {
    const { base, settings } = this.#session;
    const asked = { base, wish: this.#wish(), file: this.#image?.name, address: this.#image?.url };
    say(byId("command"), command(this.#language, { ...asked, authentication: settings.authentication === "required" }));
  }

  async #copy() {
    let text = "Copied";
    try {
      await navigator.clipboard.writeText(byId("command").textContent);
    } catch {
      getSelection().selectAllChildren(byId("command")); // no clipboard without HTTPS, but whoever asks can copy it
      text = "Selected: press Ctrl+C";
    }
    say(byId("copy"), text);
    say(byId("copied"), text);
    setTimeout(() => say(byId("copy"), "Copy"), COPIED);
  }
}

function note(way, uploads) {
  if (way === "direct") return "";
  return uploads.length ? "No worker was reached from here." : "This gateway's settings name no workers to upload to from a browser.";
}

function versionsOf({ workers, models }) {
  const found = new Map();
  for (const [model, { versions }] of Object.entries(models)) {
    for (const version of versions) found.set(`${model}@${version}`, { model, version, ready: false });
  }
  for (const worker of workers) {
    for (const [key, { status }] of Object.entries(worker.models)) {
      const at = key.lastIndexOf("@");
      const known = found.get(key) ?? { model: key.slice(0, at), version: key.slice(at + 1), ready: false };
      found.set(key, { ...known, ready: known.ready || (status === "ready" && worker.state === "ready") });
    }
  }
  return [...found.values()].sort((one, other) => one.version.localeCompare(other.version, undefined, { numeric: true }));
}

// The options of a select, which keeps its choice as long as it is there
function options(select, pairs) {
  keyed(select, pairs, {
    name: ([value]) => value,
    make: ([value]) => element("option", { value }),
    update: (made, [, text]) => say(made, text),
  });
}
