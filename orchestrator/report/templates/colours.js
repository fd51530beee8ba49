// Colours and shapes. Few levels: colours that colour-blind readers tell apart; many levels and numbers: viridis.
const darkScreen = matchMedia("(prefers-color-scheme: dark)");
let printing = false;
const isDark = () => darkScreen.matches && !printing;

// Shapes of about the same size around the origin, in the order of the figures' markers.
const polygon = (points) => "M" + points.map(([x, y]) => `${x},${y}`).join("L") + "Z";
function star(corners, outer, inner) {
  const points = [];
  for (let k = 0; k < 2 * corners; k++) {
    const r = k % 2 ? inner : outer, angle = (Math.PI * k) / corners - Math.PI / 2;
    points.push([(r * Math.cos(angle)).toFixed(2), (r * Math.sin(angle)).toFixed(2)]);
  }
  return polygon(points);
}
const cross = polygon([[-1.6, -4.6], [1.6, -4.6], [1.6, -1.6], [4.6, -1.6], [4.6, 1.6], [1.6, 1.6], [1.6, 4.6], [-1.6, 4.6], [-1.6, 1.6], [-4.6, 1.6], [-4.6, -1.6], [-1.6, -1.6]]);
const SHAPES = [
  { path: "M-4.2,0A4.2,4.2 0 1 1 4.2,0A4.2,4.2 0 1 1 -4.2,0Z" },
  { path: polygon([[-3.8, -3.8], [3.8, -3.8], [3.8, 3.8], [-3.8, 3.8]]) },
  { path: polygon([[0, -5], [4.7, 3.6], [-4.7, 3.6]]) },
  { path: polygon([[0, -5.4], [5.4, 0], [0, 5.4], [-5.4, 0]]) },
  { path: polygon([[0, 5], [4.7, -3.6], [-4.7, -3.6]]) },
  { path: star(5, 6, 2.6) },
  { path: cross },
  { path: cross, turn: 45 },
  { path: polygon([[-5, 0], [3.6, 4.7], [3.6, -4.7]]) },
  { path: polygon([[5, 0], [-3.6, 4.7], [-3.6, -4.7]]) },
  { path: polygon([0, 1, 2, 3, 4].map((k) => [5 * Math.sin((k * 2 * Math.PI) / 5), -5 * Math.cos((k * 2 * Math.PI) / 5)])) },
  { path: polygon([0, 1, 2, 3, 4, 5].map((k) => [5 * Math.sin((k * Math.PI) / 3), -5 * Math.cos((k * Math.PI) / 3)])) },
  { path: star(4, 6.2, 2.2) },
  { path: star(6, 5.8, 3) },
];
const shapeOf = (place) => SHAPES[place % SHAPES.length];

// Dashes of lines, in pixels, for readers who do not tell the colours apart.
const DASHES = [[], [7, 3], [2, 2.5], [8, 3, 2, 3], [12, 4], [4, 2, 1.5, 2, 1.5, 2]];
const dashOf = (place, size = 1) => DASHES[place % DASHES.length].map((part) => part * size).join(" ") || null;

function mix(a, b, part) {
  const channel = (colour, k) => parseInt(colour.slice(1 + 2 * k, 3 + 2 * k), 16);
  return `rgb(${[0, 1, 2].map((k) => Math.round(channel(a, k) * (1 - part) + channel(b, k) * part)).join(" ")})`;
}

// Of a part in [0, 1]; the end that is lost on the page's ground is left out.
function ramp(part) {
  const stops = data.colours.scale;
  const [low, high] = isDark() ? [0.22, 1] : [0, 0.93];
  const place = (low + (high - low) * part) * (stops.length - 1);
  const below = Math.min(Math.floor(place), stops.length - 2);
  return mix(stops[below], stops[below + 1], place - below);
}

const FEW_NUMBERS = 8;

// How a column colours: `of(i)` gives a colour; `levels` are there where there are few, for the legend.
function colouring(name, size) {
  const source = column(name);
  const values = Array.from({ length: size }, (_, i) => source.at(i));
  const levels = source.texts ? source.levels.filter((level) => values.includes(level)) : unique(values.filter((value) => value !== null)).sort((a, b) => a - b);
  if (source.texts || levels.length <= FEW_NUMBERS) {
    const colours = palette(levels.length);
    const places = new Map(levels.map((level, place) => [level, place]));
    return { name, label: source.label, levels, colour: (level) => colours[places.get(level)] ?? "gray", of: (i) => colours[places.get(values[i])] ?? "gray", at: source.at };
  }
  const low = levels[0], high = levels[levels.length - 1];
  const part = (value) => (high > low ? (value - low) / (high - low) : 0.5);
  return { name, label: withUnit(source), levels: null, low, high, of: (i) => (values[i] === null ? "gray" : ramp(part(values[i]))), at: source.at };
}

function palette(n) {
  const own = isDark() ? data.colours.dark : data.colours.light;
  return n <= own.length ? own.slice(0, n) : Array.from({ length: n }, (_, k) => ramp(n > 1 ? k / (n - 1) : 0));
}
