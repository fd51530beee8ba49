// Buttons that hide and show the levels of a column; what is hidden is kept here.
class Legend {
  constructor(root, changed, highlight) {
    Object.assign(this, { root, changed, highlight, hidden: new Map() });
  }
  isHidden(name, level) { return this.hidden.get(name)?.has(level) ?? false; }

  // parts: {name, label, levels, icon(level), text(level)}; or {label, ramp: [low, high]} for numbers
  draw(parts) {
    const names = new Set(parts.filter((part) => part.levels).map((part) => part.name));
    // a filter that has no buttons any more would hide networks in silence
    for (const name of [...this.hidden.keys()]) if (!names.has(name)) this.hidden.delete(name);
    const focused = document.activeElement?.dataset?.legend;
    this.root.replaceChildren(...parts.map((part) => (part.levels ? this.levels(part) : this.ramp(part))));
    if (focused) [...this.root.querySelectorAll("button")].find((button) => button.dataset.legend === focused)?.focus();
  }

  levels(part) {
    const hidden = this.hidden.get(part.name) ?? new Set();
    const rows = part.levels.map((level) => {
      const button = el("button", { type: "button", "aria-pressed": String(!hidden.has(level)), "data-legend": `${part.name}=${level}` },
        part.icon(level), el("span", { text: part.text ? part.text(level) : String(level === "" ? "(usual)" : level) }));
      button.addEventListener("click", () => {
        if (hidden.has(level)) hidden.delete(level);
        else hidden.add(level);
        this.hidden.set(part.name, hidden);
        this.changed();
      });
      for (const kind of ["pointerenter", "focus"]) button.addEventListener(kind, () => this.highlight(part.name, level));
      for (const kind of ["pointerleave", "blur"]) button.addEventListener(kind, () => this.highlight(null));
      return el("li", {}, button);
    });
    const none = part.levels.every((level) => hidden.has(level)), some = hidden.size > 0;
    const toggle = el("button", { type: "button", class: "all", "data-legend": `${part.name}:all`, text: some ? "Show all" : "Hide all" });
    toggle.addEventListener("click", () => {
      this.hidden.set(part.name, new Set(some || none ? [] : part.levels));
      this.changed();
    });
    const title = el("h3", { text: part.label });
    return el("div", {}, title, el("ul", { "aria-label": part.label }, ...rows), part.levels.length > 2 ? toggle : null);
  }

  ramp(part) {
    const stops = Array.from({ length: 9 }, (_, k) => ramp(k / 8)).join(", ");
    return el("div", {}, el("h3", { text: part.label }),
      el("div", { class: "ramp", role: "img", "aria-label": `from ${shown(part.ramp[0])} to ${shown(part.ramp[1])}`, style: { background: `linear-gradient(to right, ${stops})` } }),
      el("div", { class: "ramp-ends", "aria-hidden": "true" }, el("span", { text: shown(part.ramp[0]) }), el("span", { text: shown(part.ramp[1]) })));
  }
}

// A mark as it stands in a legend.
function icon(colour, shape = shapeOf(0), hollow = false) {
  const turn = shape.turn ? `rotate(${shape.turn})` : null;
  const paint = hollow ? { fill: "none", stroke: colour, strokeWidth: 1.7 } : { fill: colour };
  return svg("svg", { viewBox: "-8 -8 16 16", "aria-hidden": "true" }, svg("path", { d: shape.path, transform: turn, style: paint }));
}
const lineIcon = (colour, dash) =>
  svg("svg", { viewBox: "-8 -8 16 16", "aria-hidden": "true" }, svg("path", { d: "M-9,0H9", "stroke-dasharray": dash, style: { stroke: colour, strokeWidth: 2.5 } }));
