// A value over epochs, a line for each trial.
class Curves {
  constructor(root) {
    this.root = root;
    this.form = root.querySelector("form");
    this.canvas = root.querySelector(".canvas");
    this.summary = root.querySelector(".summary");
    this.tip = new Tip(this.canvas);
    this.legend = new Legend(root.querySelector(".legend"), () => this.draw(), (name, level) => this.emphasise(level, name !== null));
    const { series, trials } = data.curves, field = this.form.elements;
    const first = [data.start.y, data.start.x].find((name) => series[name]);
    for (const [name, one] of Object.entries(series)) field.y.append(el("option", { value: name, text: withUnit(one) }));
    if (first) field.y.value = first;
    const labels = { method: "Method", regularizer: "Regulariser", setting: "Setting", seed: "Seed" };
    for (const [name, text] of Object.entries(labels))
      if (name === "method" || new Set(trials.map((trial) => trial[name])).size > 1) field.colour.append(el("option", { value: name, text }));
    this.form.addEventListener("input", () => this.draw());
    this.form.addEventListener("submit", (event) => event.preventDefault());
    root.querySelector(".as-table").addEventListener("toggle", () => this.tabulate());
    keepDrawn(this.canvas, () => this.draw());
    this.draw();
  }

  read() {
    const field = this.form.elements, series = data.curves.series[field.y.value], by = field.colour.value;
    const levels = unique(data.curves.trials.map((trial) => trial[by]));
    const colours = new Map(palette(levels.length).map((colour, place) => [levels[place], colour]));
    const every = Object.entries(series.of).map(([place, [axis, values, best]]) => ({ trial: data.curves.trials[place], epochs: data.curves.axes[axis], values, best }));
    const positive = every.every((line) => line.values.every((value) => value > 0));
    field.logy.disabled = !positive;
    return { series, by, levels, colours, every, logy: positive && field.logy.checked };
  }

  draw() {
    const view = (this.view = this.read());
    const label = { method: "Method", regularizer: "Regulariser", setting: "Setting", seed: "Seed" }[view.by];
    this.legend.draw([{ name: view.by, label, levels: view.levels.filter((level) => view.every.some((line) => line.trial[view.by] === level)), icon: (level) => lineIcon(view.colours.get(level), dashOf(view.levels.indexOf(level))) }]);
    view.lines = view.every.filter((line) => !this.legend.isHidden(view.by, line.trial[view.by]));
    view.lines.sort((a, b) => a.values[a.values.length - 1] - b.values[b.values.length - 1]);
    this.tip.hide();
    const text = `Curves of ${view.series.label} over epochs, ${counted(view.lines.length, "trial")}. Arrow keys go from trial to trial.`;
    const plot = (this.plot = frame(this.canvas, text, view.lines.flatMap((line) => line.epochs), view.lines.flatMap((line) => line.values), { logy: view.logy, xTitle: "Epoch", yTitle: withUnit(view.series), wholeX: true }));
    this.drawLines(view, plot);
    this.canvas.querySelector("svg")?.remove();
    this.canvas.prepend(plot.root);
    fitTitles(plot);
    this.summary.textContent = `${counted(view.lines.length, "trial")}${view.lines.length < view.every.length ? `, ${view.every.length - view.lines.length} hidden` : ""}${view.series.thinned ? "; epochs are thinned to keep this page small" : ""}.`;
    this.tabulate();
  }

  drawLines(view, plot) {
    const path = (epochs, values) => "M" + epochs.map((epoch, k) => `${plot.x(epoch).toFixed(1)},${plot.y(values[k]).toFixed(1)}`).join("L");
    const n = view.lines.length, crowded = n > 12;
    const lines = view.lines.map((line) => svg("path", { class: "curve", d: path(line.epochs, line.values), "stroke-dasharray": dashOf(view.levels.indexOf(line.trial[view.by])), style: { stroke: view.colours.get(line.trial[view.by]) }, role: "img", "aria-label": this.sentence(line) }));
    const ends = view.lines.flatMap((line) => {
      const last = line.epochs.length - 1, colour = view.colours.get(line.trial[view.by]);
      const dot = svg("circle", { class: "end", r: crowded ? 2.4 : 3.2, cx: plot.x(line.epochs[last]), cy: plot.y(line.values[last]), style: { fill: colour } });
      if (!line.best) return [dot];
      return [dot, svg("circle", { class: "stop", r: crowded ? 3 : 4, cx: plot.x(line.best[0]), cy: plot.y(line.best[1]), style: { stroke: colour } })];
    });
    this.lines = lines;
    plot.inside.append(svg("g", { class: n > 150 ? "crowded throng" : crowded ? "crowded" : null }, ...lines, ...ends));
    if (this.form.elements.means.checked) plot.inside.append(this.means(view, path));
    if (!lines.length) {
      plot.root.append(svg("text", { class: "nothing", x: plot.width / 2, y: plot.height / 2, "text-anchor": "middle", text: "Nothing to show" }));
      return;
    }
    const places = [], owners = [];
    view.lines.forEach((line, owner) => line.epochs.forEach((epoch, k) => { places.push([plot.x(epoch), plot.y(line.values[k])]); owners.push([owner, k]); }));
    stepping(plot.root, lines, { look: (owner) => this.look(owner, view.lines[owner].epochs.length - 1), leave: () => this.leave() });
    plot.root.addEventListener("pointermove", (event) => {
      const place = nearest(plot.root, event, places, 18);
      if (place >= 0) this.look(...owners[place]);
      else this.leave(true);
    });
    plot.root.addEventListener("pointerleave", () => this.leave(true));
  }

  // Of each level, at the epochs that all its trials have: no mean changes because a trial is missing.
  means(view, path) {
    const groups = view.levels.map((level) => [level, view.lines.filter((line) => line.trial[view.by] === level)]).filter(([, lines]) => lines.length > 1);
    const drawn = groups.map(([level, lines]) => {
      const maps = lines.map((line) => new Map(line.epochs.map((epoch, k) => [epoch, line.values[k]])));
      const epochs = lines[0].epochs.filter((epoch) => maps.every((map) => map.has(epoch)));
      const values = epochs.map((epoch) => maps.reduce((sum, map) => sum + map.get(epoch), 0) / maps.length);
      if (epochs.length < 2) return [];
      const line = { d: path(epochs, values), "stroke-dasharray": dashOf(view.levels.indexOf(level), 1.6) };
      return [svg("path", { d: line.d, class: "under" }), svg("path", { ...line, style: { stroke: view.colours.get(level) } })];
    });
    return svg("g", { class: "means", "aria-hidden": "true" }, ...drawn.flat());
  }

  title(line) { return [line.trial.method, line.trial.regularizer, line.trial.setting].filter(Boolean).join(" | "); }

  sentence(line) {
    const last = line.epochs.length - 1, lowest = line.values.indexOf(Math.min(...line.values));
    const at = (k) => `${shown(line.values[k])} at epoch ${line.epochs[k]}`;
    const best = line.best ? `, early-stopped ${shown(line.best[1])} at epoch ${line.best[0]}` : "";
    return `${this.title(line)}, seed ${line.trial.seed}: ${at(0)}, lowest ${at(lowest)}${best}, last ${at(last)}`;
  }

  look(owner, k) {
    const line = this.view.lines[owner];
    this.lines.forEach((path, place) => path.classList.toggle("strong", place === owner));
    const rows = [["Seed", String(line.trial.seed)], [`At epoch ${line.epochs[k]}`, shown(line.values[k])], ["Last", shown(line.values[line.values.length - 1])]];
    if (line.best) rows.push([`Early-stopped, epoch ${line.best[0]}`, shown(line.best[1])]);
    const list = el("dl", {}, ...rows.flatMap(([term, text]) => [el("dt", { text: term }), el("dd", { text })]));
    list.append(el("dt", { text: "Run" }), el("dd", {}, runLink(line.trial.run_id)));
    this.tip.show(this.plot.x(line.epochs[k]), this.plot.y(line.values[k]), [el("b", { text: this.title(line) }), list]);
  }

  leave(soon = false) {
    this.lines.forEach((path) => path.classList.remove("strong"));
    if (soon === true) this.tip.hideSoon();
    else if (!this.tip.inside) this.tip.hide();
  }

  emphasise(level, on) {
    this.lines.forEach((path, place) => path.classList.toggle("dim", on && this.view.lines[place].trial[this.view.by] !== level));
  }

  tabulate() {
    const details = this.root.querySelector(".as-table");
    if (!details.open) return;
    const head = ["Method", "Regulariser", "Setting", "Seed", "First", "Lowest", "Early-stopped", "Last"];
    const at = (epoch, value) => `${shown(value)} (epoch ${epoch})`;
    const body = this.view.lines.map((line) => {
      const last = line.epochs.length - 1, lowest = line.values.indexOf(Math.min(...line.values));
      const texts = [line.trial.regularizer, line.trial.setting, String(line.trial.seed), at(line.epochs[0], line.values[0]), at(line.epochs[lowest], line.values[lowest]), line.best ? at(...line.best) : "", at(line.epochs[last], line.values[last])];
      return el("tr", {}, el("th", { scope: "row", text: line.trial.method }), ...texts.map((text) => el("td", { text })));
    });
    details.querySelector(".scroll").replaceChildren(table(`${withUnit(this.view.series)} along training`, head, body));
  }
}
