// Elements, numbers, coefficients. Texts are set as text only, never as markup.
const SVG = "http://www.w3.org/2000/svg";
const data = JSON.parse(document.getElementById("data").textContent);

function build(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name === "style") Object.assign(node.style, value);
    else if (name === "text") node.textContent = value;
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null));
  return node;
}
const el = (tag, attributes = {}, ...children) => build(document.createElement(tag), attributes, children);
const svg = (tag, attributes = {}, ...children) => build(document.createElementNS(SVG, tag), attributes, children);

const MINUS = "\u2212";

// Three significant digits, as in the tables of the page.
function shown(value, digits = 3) {
  if (value === null || value === undefined || !Number.isFinite(value)) return "-";
  const size = Math.abs(value);
  let text;
  if (size && (size >= 1e6 || size < 1e-4)) text = value.toExponential(digits - 1);
  else {
    const decimals = size ? digits - 1 - Math.floor(Math.log10(size)) : digits - 1;
    const places = Math.min(Math.max(decimals, 0), 6);
    text = value.toLocaleString("en-US", { minimumFractionDigits: places, maximumFractionDigits: places });
  }
  return text.replace("-", MINUS);
}

const counted = (n, noun) => `${n} ${noun}${n === 1 ? "" : "s"}`;
const withUnit = (column) => column.label + (column.unit ? ` (${column.unit})` : "");
const unique = (values) => [...new Set(values)];

// Pearson r and Kendall tau-b; null where one of the variables is constant, or there are fewer than three points.
function coefficients(x, y) {
  const n = x.length;
  if (n < 3) return null;
  const mean = (values) => values.reduce((sum, value) => sum + value, 0) / n;
  const mx = mean(x), my = mean(y);
  let xx = 0, yy = 0, xy = 0, concordance = 0, untiedX = 0, untiedY = 0;
  for (let i = 0; i < n; i++) {
    const dx = x[i] - mx, dy = y[i] - my;
    xx += dx * dx; yy += dy * dy; xy += dx * dy;
    for (let j = 0; j < i; j++) {
      const sx = Math.sign(x[i] - x[j]), sy = Math.sign(y[i] - y[j]);
      concordance += sx * sy; untiedX += sx !== 0; untiedY += sy !== 0;
    }
  }
  if (!untiedX || !untiedY) return null;
  return { pearson: xy / Math.sqrt(xx * yy), kendall: concordance / Math.sqrt(untiedX * untiedY) };
}

// A column of the networks: `at(i)` is its number or text, null where there is none.
function column(name) {
  const found = data.networks.columns[name];
  if (!found) return null;
  const texts = found.levels !== undefined;
  return {
    name, label: found.label, unit: found.unit, texts,
    levels: found.levels,
    at: texts ? (i) => found.levels[found.codes[i]] : (i) => found.values[i],
  };
}

function fill(select, groups, value) {
  for (const [title, names] of groups) {
    const options = names.map((name) => el("option", { value: name, text: withUnit(column(name)) }));
    select.append(...(title ? [el("optgroup", { label: title }, ...options)] : options));
  }
  if (value) select.value = value;
}

// The page of a run, or its id where the store has no pages.
function runLink(id) {
  if (!id) return el("span", { text: "no run" });
  if (!data.runBase) return el("code", { text: id });
  return el("a", { href: data.runBase + id, rel: "noreferrer", text: `run ${id.slice(0, 8)} in MLflow` });
}
