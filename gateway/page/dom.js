// Making elements. Text is always text: nothing that comes from elsewhere is ever parsed as HTML.

const SVG = "http://www.w3.org/2000/svg";

export const byId = (id) => document.getElementById(id);

export function element(name, properties = {}, ...children) {
  return filled(document.createElement(name), properties, children);
}

export function svg(name, properties = {}, ...children) {
  return filled(document.createElementNS(SVG, name), properties, children);
}

function filled(made, properties, children) {
  for (const [name, value] of Object.entries(properties)) {
    if (name === "text") made.textContent = value;
    else if (name === "onclick") made.addEventListener("click", value);
    else if (value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

// Text that is set only when it is another one, so that a screen reader does not begin anew
export function say(made, text) {
  if (made.textContent !== text) made.textContent = text;
}

// The children of a list by name: those that stay are changed in place, and keep the focus
export function keyed(parent, items, { name, make, update }) {
  const known = new Map([...parent.children].map((child) => [child.dataset.name, child]));
  items.forEach((item, place) => {
    const key = name(item);
    let child = known.get(key);
    known.delete(key);
    if (!child) {
      child = make(item);
      child.dataset.name = key;
    }
    if (parent.children[place] !== child) parent.insertBefore(child, parent.children[place] ?? null);
    update(child, item);
  });
  for (const child of known.values()) child.remove();
}

// Tabs as the ARIA Authoring Practices have them: arrows move, and what has the focus is chosen
export function tabs(list, choose) {
  const all = () => [...list.querySelectorAll('[role="tab"]')];
  const select = (chosen, { focus = false } = {}) => {
    for (const tab of all()) {
      tab.setAttribute("aria-selected", String(tab === chosen));
      tab.tabIndex = tab === chosen ? 0 : -1;
    }
    if (focus) chosen.focus();
    choose(chosen);
  };
  list.addEventListener("click", (event) => {
    const tab = event.target.closest('[role="tab"]');
    if (tab) select(tab);
  });
  list.addEventListener("keydown", (event) => {
    const every = all();
    const at = every.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: every.length - 1 }[event.key];
    if (at < 0 || to === undefined) return;
    event.preventDefault();
    select(every[(to + every.length) % every.length], { focus: true });
  });
  return select;
}

export function bytes(count) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  let [value, unit] = [count, 0];
  for (; value >= 1000 && unit < units.length - 1; unit += 1) value /= 1000;
  return `${unit && value < 100 ? value.toFixed(1) : Math.round(value)} ${units[unit]}`;
}

export function milliseconds(ms) {
  if (ms < 0.05) return "0 ms";
  if (ms >= 10_000) return `${(ms / 1000).toFixed(0)} s`;
  if (ms >= 1000) return `${(ms / 1000).toFixed(1)} s`;
  return `${ms >= 10 ? ms.toFixed(0) : ms.toFixed(1)} ms`;
}
