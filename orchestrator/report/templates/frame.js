// What both plots share: axes, the tip beside a mark, stepping through marks with the keyboard.
function frame(canvas, label, xs, ys, { logx = false, logy = false, xTitle, yTitle, wholeX = false }) {
  const width = Math.max(280, canvas.clientWidth || 640);
  const height = Math.round(Math.min(560, Math.max(320, width * 0.62)));
  const xDomain = domain(xs, logx), yDomain = domain(ys, logy);
  const yTicks = ticksOf(scale(yDomain, [height, 0], logy), height / 60);
  const letters = Math.max(...yTicks.map((tick) => tick.text.length), 2);
  const box = { left: 14 + 7 * letters, right: width - 14, top: 34, bottom: height - 46 };
  const x = scale(xDomain, [box.left, box.right], logx), y = scale(yDomain, [box.bottom, box.top], logy);
  let xTicks = ticksOf(x, (box.right - box.left) / (width < 500 ? 55 : 80));
  if (wholeX) xTicks = xTicks.filter((tick) => Number.isInteger(tick.value));
  const clip = `clip-${canvas.closest(".plot").id}`;
  const root = svg("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": label },
    svg("defs", {}, svg("clipPath", { id: clip }, svg("rect", { x: box.left - 8, y: box.top - 8, width: box.right - box.left + 16, height: box.bottom - box.top + 16 }))));
  const axes = svg("g", { "aria-hidden": "true" });
  for (const tick of yTicks) {
    const at = y(tick.value);
    axes.append(svg("line", { class: "gridline", x1: box.left, x2: box.right, y1: at, y2: at }), svg("text", { x: box.left - 8, y: at + 4, "text-anchor": "end", text: tick.text }));
  }
  for (const tick of xTicks) {
    const at = x(tick.value);
    axes.append(svg("line", { class: "gridline", x1: at, x2: at, y1: box.top, y2: box.bottom }), svg("text", { x: at, y: box.bottom + 18, "text-anchor": "middle", text: tick.text }));
  }
  axes.append(
    svg("line", { class: "axis", x1: box.left, x2: box.right, y1: box.bottom, y2: box.bottom }),
    svg("text", { class: "title", x: 0, y: 14, text: `\u2191 ${yTitle}` }),
    svg("text", { class: "title", x: box.right, y: height - 6, "text-anchor": "end", text: `${xTitle} \u2192` }),
  );
  const inside = svg("g", { "clip-path": `url(#${clip})` });
  root.append(axes, inside);
  return { root, inside, x, y, box, width, height };
}

// Long titles shrink to the width that there is.
function fitTitles(plot) {
  for (const title of plot.root.querySelectorAll(".title")) {
    const length = title.getComputedTextLength();
    if (length > plot.width - 2) {
      title.setAttribute("textLength", plot.width - 2);
      title.setAttribute("lengthAdjust", "spacingAndGlyphs");
    }
  }
}

class Tip {
  constructor(canvas) {
    this.canvas = canvas;
    this.node = el("div", { class: "tip", role: "tooltip", hidden: true });
    canvas.append(this.node);
    // the pointer may go into the tip, to its link
    this.node.addEventListener("pointerenter", () => clearTimeout(this.timer));
    this.node.addEventListener("pointerleave", () => this.hideSoon());
  }
  get inside() { return this.node.matches(":hover"); }
  show(x, y, content) {
    clearTimeout(this.timer);
    this.node.replaceChildren(...content);
    this.node.hidden = false;
    const width = this.node.offsetWidth, height = this.node.offsetHeight, room = this.canvas.clientWidth;
    const left = x + 14 + width <= room ? x + 14 : x - 14 - width >= 0 ? x - 14 - width : Math.max(0, (room - width) / 2);
    const top = left === x + 14 || left === x - 14 - width ? y - height / 2 : y - height - 14 > 0 ? y - height - 14 : y + 14;
    this.node.style.transform = `translate(${Math.round(left)}px, ${Math.round(Math.max(0, top))}px)`;
  }
  hideSoon() {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.hide(), 180);
  }
  hide() {
    clearTimeout(this.timer);
    this.node.hidden = true;
  }
}

// One stop of the Tab key for all marks; arrow keys go through them in the order given.
function stepping(root, marks, { look, leave, choose }) {
  let current = 0;
  marks.forEach((mark, place) => mark.setAttribute("tabindex", place ? "-1" : "0"));
  const go = (place) => {
    marks[current].setAttribute("tabindex", "-1");
    current = Math.min(Math.max(place, 0), marks.length - 1);
    marks[current].setAttribute("tabindex", "0");
    marks[current].focus({ preventScroll: true });
  };
  root.addEventListener("keydown", (event) => {
    const steps = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1, PageDown: 10, PageUp: -10 };
    if (event.key in steps) go(current + steps[event.key]);
    else if (event.key === "Home") go(0);
    else if (event.key === "End") go(marks.length - 1);
    else if (event.key === "Enter" || event.key === " ") choose?.(current);
    else if (event.key === "Escape") leave();
    else return;
    event.preventDefault();
  });
  root.addEventListener("focusin", (event) => {
    const place = marks.indexOf(event.target);
    if (place < 0) return;
    marks[current].setAttribute("tabindex", "-1");
    current = place;
    marks[current].setAttribute("tabindex", "0");
    look(place);
  });
  root.addEventListener("focusout", leave);
}

// The nearest of the places to an event, among those within reach (in pixels); -1 if there is none.
function nearest(root, event, places, reach = 22) {
  const box = root.getBoundingClientRect();
  const x = event.clientX - box.left, y = event.clientY - box.top;
  let best = -1, least = reach * reach;
  places.forEach(([px, py], place) => {
    const distance = (px - x) ** 2 + (py - y) ** 2;
    if (distance < least) { least = distance; best = place; }
  });
  return best;
}

// Draws again when the width changes, the screen turns dark, or the page is printed.
function keepDrawn(canvas, draw) {
  let width = 0;
  new ResizeObserver(() => {
    if (canvas.clientWidth && canvas.clientWidth !== width) { width = canvas.clientWidth; draw(); }
  }).observe(canvas);
  darkScreen.addEventListener("change", draw);
  addEventListener("beforeprint", draw);
  addEventListener("afterprint", draw);
}
