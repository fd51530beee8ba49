// From values to places, and round ticks.
function domain(values, log) {
  let low = Infinity, high = -Infinity;
  for (const value of values) { low = Math.min(low, value); high = Math.max(high, value); }
  if (!(low <= high)) return [0, 1];
  if (log) {
    const pad = Math.pow(high / low, 0.06) || 1;
    return low === high ? [low / 2, high * 2] : [low / pad, high * pad];
  }
  const pad = low === high ? Math.abs(low) * 0.1 || 1 : (high - low) * 0.06;
  return [low - pad, high + pad];
}

function scale([low, high], [from, to], log) {
  const inner = log ? Math.log : (value) => value;
  const a = inner(low), b = inner(high);
  const place = (value) => from + ((inner(value) - a) / (b - a)) * (to - from);
  place.domain = [low, high];
  place.log = log;
  return place;
}

function linearTicks(low, high, wanted) {
  const rough = (high - low) / Math.max(wanted, 1);
  const power = Math.pow(10, Math.floor(Math.log10(rough)));
  const step = [1, 2, 5, 10].map((digit) => digit * power).find((candidate) => candidate >= rough * 0.999);
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  const ticks = [];
  for (let k = Math.ceil(low / step - 1e-9); k * step <= high + step * 1e-9; k++) {
    const value = k * step;
    const text = decimals > 6 || Math.abs(value) >= 1e6 ? value.toExponential(1) : value.toFixed(decimals);
    ticks.push({ value, text: text.replace("-", MINUS) });
  }
  return ticks;
}

function logTicks(low, high, wanted) {
  const every = [];
  for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
    for (const digit of [1, 2, 5]) every.push([digit, digit * Math.pow(10, power)]);
  const inside = every.filter(([, value]) => value >= low && value <= high);
  if (inside.length < 2) return linearTicks(low, high, wanted);
  const tens = inside.filter(([digit]) => digit === 1);
  const kept = inside.length > wanted && tens.length > 1 ? tens : inside;
  const every2 = Math.ceil(kept.length / Math.max(wanted, 2));
  return kept.filter((_, place) => place % every2 === 0).map(([, value]) => ({
    value, text: value >= 1e-4 && value < 1e6 ? String(Number(value.toPrecision(1))) : value.toExponential(0).replace("-", MINUS),
  }));
}

const ticksOf = (place, wanted) => (place.log ? logTicks : linearTicks)(...place.domain, wanted);
