// Target against measure over networks.
class Scatter {
  constructor(root) {
    this.root = root;
    this.form = root.querySelector("form");
    this.canvas = root.querySelector(".canvas");
    this.summary = root.querySelector(".summary");
    this.kept = root.querySelector(".kept");
    this.size = data.networks.size;
    this.tip = new Tip(this.canvas);
    this.legend = new Legend(root.querySelector(".legend"), () => this.draw(), (name, level) => this.emphasise(name, level));
    const { numbers, labels } = data.choices;
    const values = numbers.flatMap(([, names]) => names);
    const field = this.form.elements;
    fill(field.y, numbers, data.start.y);
    fill(field.x, numbers, data.start.x);
    fill(field.colour, [["Labels", labels], ["Values", values]], labels.includes("method") ? "method" : labels[0]);
    fill(field.shape, [["", labels.filter((name) => column(name).texts)]], labels.includes("regularizer") ? "regularizer" : null);
    if (!field.shape.options.length) fill(field.shape, [["", ["method"]]]);
    field.join.checked = this.size <= 300;
    field.bars.checked = this.size <= 300;
    this.form.addEventListener("input", () => this.draw());
    this.form.addEventListener("submit", (event) => event.preventDefault());
    root.querySelector(".as-table").addEventListener("toggle", () => this.tabulate());
    keepDrawn(this.canvas, () => this.draw());
    this.draw();
  }

  show(x, y) {
    const field = this.form.elements;
    field.x.value = x;
    field.y.value = y;
    this.draw();
  }

  // What the form asks for, with the networks that have both values and are not hidden.
  read() {
    const field = this.form.elements;
    const view = { x: column(field.x.value), y: column(field.y.value), checkpoint: column("checkpoint"), shape: column(field.shape.value) };
    for (const [box, axis] of [["logx", "x"], ["logy", "y"]]) {
      const positive = this.indices().every((i) => view[axis].at(i) === null || view[axis].at(i) > 0);
      field[box].disabled = !positive;
      view[box] = positive && field[box].checked;
    }
    view.colour = colouring(field.colour.value, this.size);
    view.xError = column(`${view.x.name}_se`);
    view.yError = column(`${view.y.name}_se`);
    field.bars.disabled = !view.xError && !view.yError;
    view.complete = this.indices().filter((i) => view.x.at(i) !== null && view.y.at(i) !== null);
    view.shapes = new Map(unique(this.indices().map((i) => view.shape.at(i))).map((level, place) => [level, shapeOf(place)]));
    return view;
  }

  indices() { return Array.from({ length: this.size }, (_, i) => i); }

  filters(view) {
    const names = unique([view.colour.levels ? view.colour.name : null, view.shape.name, "checkpoint"].filter(Boolean));
    return names.map((name) => [name, column(name)]);
  }

  draw() {
    const view = (this.view = this.read());
    this.drawLegend(view);
    const filters = this.filters(view);
    view.rows = view.complete.filter((i) => !filters.some(([name, values]) => this.legend.isHidden(name, values.at(i))));
    view.rows.sort((a, b) => view.x.at(a) - view.x.at(b));
    this.tip.hide();
    const label = `Scatter plot of ${view.y.label} against ${view.x.label}, ${counted(view.rows.length, "network")}. Arrow keys go from mark to mark.`;
    const plot = (this.plot = frame(this.canvas, label, this.reach(view, view.x, view.xError, view.logx), this.reach(view, view.y, view.yError, view.logy), { logx: view.logx, logy: view.logy, xTitle: withUnit(view.x), yTitle: withUnit(view.y) }));
    if (this.form.elements.join.checked) plot.inside.append(this.joins(view, plot));
    if (this.form.elements.bars.checked) plot.inside.append(this.bars(view, plot));
    this.drawMarks(view, plot);
    this.canvas.querySelector("svg")?.remove();
    this.canvas.prepend(plot.root);
    fitTitles(plot);
    this.summarise(view);
    this.tabulate();
  }

  // The values that an axis has to hold, with the ends of the bars where they are drawn.
  reach(view, axis, error, log) {
    const bars = error && this.form.elements.bars.checked;
    return view.rows.flatMap((i) => {
      const value = axis.at(i), se = (bars && error.at(i)) || 0;
      return [value, value + se, log && value <= se ? value : value - se];
    });
  }

  drawMarks(view, plot) {
    view.places = view.rows.map((i) => [plot.x(view.x.at(i)), plot.y(view.y.at(i))]);
    const small = view.rows.length > 400 ? 0.78 : 1;
    const marks = view.rows.map((i, place) => {
      const shape = view.shapes.get(view.shape.at(i)), hollow = view.checkpoint.at(i) === "best";
      const paint = hollow ? { fill: "transparent", stroke: view.colour.of(i) } : { fill: view.colour.of(i) };
      const [px, py] = view.places[place];
      return svg("path", { class: hollow ? "mark hollow" : "mark", d: shape.path, transform: `translate(${px.toFixed(1)} ${py.toFixed(1)}) rotate(${shape.turn ?? 0}) scale(${small})`, style: paint, role: "img", "aria-label": this.sentence(i) });
    });
    this.marks = marks;
    this.halo = svg("circle", { class: "halo", r: 9, visibility: "hidden" });
    plot.inside.append(svg("g", { class: "marks" }, ...marks), this.halo);
    if (!marks.length) {
      plot.root.append(svg("text", { class: "nothing", x: plot.width / 2, y: plot.height / 2, "text-anchor": "middle", text: "Nothing to show" }));
      return;
    }
    stepping(plot.root, marks, { look: (place) => this.look(place), leave: () => this.leave(), choose: (place) => this.keep(view.rows[place]) });
    plot.root.addEventListener("pointermove", (event) => {
      const place = nearest(plot.root, event, view.places);
      if (place >= 0) this.look(place);
      else this.leave(true);
    });
    plot.root.addEventListener("pointerleave", () => this.leave(true));
    plot.root.addEventListener("click", (event) => {
      const place = nearest(plot.root, event, view.places);
      if (place >= 0) this.keep(view.rows[place]);
    });
  }

  // Seeds of a cell, last and best networks apart, along the measure.
  joins(view, plot) {
    const groups = new Map();
    for (const i of view.rows) {
      const key = JSON.stringify(["method", "regularizer", "setting", "checkpoint"].map((name) => column(name)?.at(i)));
      groups.set(key, [...(groups.get(key) ?? []), i]);
    }
    const lines = [...groups.values()].filter((rows) => rows.length > 1).map((rows) =>
      svg("path", { d: "M" + rows.map((i) => `${plot.x(view.x.at(i)).toFixed(1)},${plot.y(view.y.at(i)).toFixed(1)}`).join("L"), style: { stroke: view.colour.of(rows[0]) } }));
    return svg("g", { class: "joins", "aria-hidden": "true" }, ...lines);
  }

  bars(view, plot) {
    const lines = [];
    const end = (place, value) => (place.log && value <= 0 ? place(place.domain[0]) : place(value)).toFixed(1);
    for (const i of view.rows) {
      const x = view.x.at(i), y = view.y.at(i), dx = view.xError?.at(i), dy = view.yError?.at(i);
      const style = { stroke: view.colour.of(i) };
      if (dx > 0) lines.push(svg("path", { d: `M${end(plot.x, x - dx)},${plot.y(y).toFixed(1)}H${end(plot.x, x + dx)}`, style }));
      if (dy > 0) lines.push(svg("path", { d: `M${plot.x(x).toFixed(1)},${end(plot.y, y - dy)}V${end(plot.y, y + dy)}`, style }));
    }
    return svg("g", { class: "bars", "aria-hidden": "true" }, ...lines);
  }

  drawLegend(view) {
    const { colour, shape } = view;
    const grey = "var(--soft)";
    const levels = unique(view.complete.map((i) => shape.at(i)));
    const parts = [];
    if (!colour.levels) parts.push({ label: colour.label, ramp: [colour.low, colour.high] });
    else {
      const same = colour.name === shape.name;
      parts.push({ name: colour.name, label: colour.label, levels: colour.levels, icon: (level) => icon(colour.colour(level), same ? view.shapes.get(level) : shapeOf(0)), text: (level) => this.level(colour.name, level) });
    }
    if (shape.name !== colour.name || !colour.levels) parts.push({ name: shape.name, label: shape.label, levels, icon: (level) => icon(grey, view.shapes.get(level)), text: (level) => this.level(shape.name, level) });
    const networks = unique(view.complete.map((i) => view.checkpoint.at(i)));
    if (networks.includes("best") && !parts.some((part) => part.name === "checkpoint"))
      parts.push({ name: "checkpoint", label: "Network", levels: networks, icon: (level) => icon(grey, shapeOf(0), level === "best"), text: (level) => this.level("checkpoint", level) });
    this.legend.draw(parts);
  }

  level(name, level) {
    if (name === "checkpoint") return { last: "last epoch", best: "early-stopped" }[level] ?? level;
    if (name === "setting" && level === "") return "(usual)";
    return typeof level === "number" ? shown(level) : level;
  }

  emphasise(name, level) {
    const values = name && column(name);
    this.marks.forEach((mark, place) => mark.classList.toggle("dim", Boolean(values) && values.at(this.view.rows[place]) !== level));
  }

  title(i) {
    const parts = ["method", "regularizer", "setting"].map((name) => column(name)?.at(i)).filter(Boolean);
    return parts.join(" | ");
  }

  value(axis, error, i) {
    const se = error?.at(i);
    return `${shown(axis.at(i))}${se ? ` \u00b1 ${shown(se, 2)}` : ""}${axis.unit && axis.unit !== "fraction" ? ` ${axis.unit}` : ""}`;
  }

  network(i) {
    const epoch = column("epoch")?.at(i);
    const name = this.level("checkpoint", this.view.checkpoint.at(i));
    return epoch === null || epoch === undefined ? name : `${name} (epoch ${epoch})`;
  }

  sentence(i) {
    const { x, y, xError, yError } = this.view;
    return `${this.title(i)}, seed ${column("seed").at(i)}, ${this.network(i)}: ${y.label} ${this.value(y, yError, i)}, ${x.label} ${this.value(x, xError, i)}`;
  }

  look(place) {
    const i = this.view.rows[place], [px, py] = this.view.places[place];
    const { x, y, xError, yError, colour } = this.view;
    const rows = [["Seed", String(column("seed").at(i))], ["Network", this.network(i)], [y.label, this.value(y, yError, i)], [x.label, this.value(x, xError, i)]];
    if (!colour.levels) rows.push([colour.label, shown(colour.at(i))]);
    if (column("flags")?.at(i)) rows.push(["Flags", column("flags").at(i)]);
    const list = el("dl", {}, ...rows.flatMap(([term, text]) => [el("dt", { text: term }), el("dd", { text })]));
    this.halo.setAttribute("cx", px);
    this.halo.setAttribute("cy", py);
    this.halo.setAttribute("visibility", "visible");
    list.append(el("dt", { text: "Trial" }), el("dd", {}, el("code", { text: column("trial_id").at(i) })), el("dt", { text: "Run" }), el("dd", {}, runLink(column("run_id").at(i))));
    this.tip.show(px, py, [el("b", { text: this.title(i) }), list]);
  }

  leave(soon = false) {
    this.halo.setAttribute("visibility", "hidden");
    if (soon === true) this.tip.hideSoon();
    else if (!this.tip.inside) this.tip.hide();
  }

  // Everything that is known of one network, below the plot, until it is closed.
  keep(i) {
    const close = el("button", { type: "button", class: "plain", text: "Close" });
    close.addEventListener("click", () => {
      this.kept.hidden = true;
      this.marks.find((mark) => mark.getAttribute("tabindex") === "0")?.focus({ preventScroll: true });
    });
    const facts = [["Seed", String(column("seed").at(i))], ["Network", this.network(i)], ["Trial", column("trial_id").at(i)], ["Flags", column("flags")?.at(i) || "none"]];
    const values = data.choices.numbers.flatMap(([, names]) => names).filter((name) => column(name).at(i) !== null).map((name) =>
      el("div", {}, el("dt", { text: column(name).label }), el("dd", { text: this.value(column(name), column(`${name}_se`), i) })));
    this.kept.replaceChildren(
      el("header", {}, el("span", { text: this.title(i) }), close),
      el("dl", {}, ...facts.flatMap(([term, text]) => [el("dt", { text: term }), el("dd", { text })]), el("dt", { text: "Run" }), el("dd", {}, runLink(column("run_id").at(i)))),
      el("dl", { class: "values" }, ...values));
    this.kept.hidden = false;
    this.kept.scrollIntoView({ block: "nearest" });
  }

  summarise(view) {
    const { rows, complete } = view;
    const cells = new Set(rows.map((i) => this.title(i))).size;
    const found = coefficients(rows.map(view.x.at), rows.map(view.y.at));
    const pair = data.pairs.find((one) => one.x === view.x.name && one.y === view.y.name);
    const whole = rows.length === complete.length;
    const parts = [`${counted(rows.length, "network")} in ${counted(cells, "cell")}`];
    if (!whole) parts[0] += `, ${complete.length - rows.length} hidden`;
    if (complete.length < this.size) parts[0] += `, ${this.size - complete.length} without both values`;
    if (found) {
      const two = (value) => value.toFixed(2).replace("-", MINUS);
      const interval = whole && pair && pair.low !== null ? ` [${two(pair.low)}, ${two(pair.high)}]` : "";
      parts.push(`Kendall \u03c4 = ${two(found.kendall)}${interval}, Pearson r = ${two(found.pearson)}`);
      if (!whole) parts.push("of what is shown, without an interval");
    }
    this.summary.textContent = `${parts.join(". ")}.`;
  }

  tabulate() {
    const details = this.root.querySelector(".as-table");
    if (!details.open) return;
    const { rows, x, y, xError, yError } = this.view;
    const names = ["method", "regularizer", "setting", "seed"].filter((name) => rows.some((i) => column(name).at(i) !== ""));
    const head = [...names.map((name) => column(name).label), "Network", withUnit(y), withUnit(x), "Run"];
    const body = rows.map((i) => el("tr", {},
      ...names.map((name, place) => el(place ? "td" : "th", { scope: place ? null : "row", text: String(column(name).at(i)) })),
      el("td", { text: this.network(i) }), el("td", { class: "n", text: this.value({ ...y, unit: "" }, yError, i) }), el("td", { class: "n", text: this.value({ ...x, unit: "" }, xError, i) }), el("td", {}, runLink(column("run_id").at(i)))));
    details.querySelector(".scroll").replaceChildren(table(`${y.label} and ${x.label} of the networks shown`, head, body));
  }
}

function table(caption, head, body) {
  return el("table", { class: "texts" }, el("caption", { class: "unseen", text: caption }), el("thead", {}, el("tr", {}, ...head.map((text) => el("th", { scope: "col", text })))), el("tbody", {}, ...body));
}
