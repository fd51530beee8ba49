// Starts the plots; cells of the matrix lead to the scatter; the section being read is marked; print opens everything.
addEventListener("beforeprint", () => { printing = true; });
addEventListener("afterprint", () => { printing = false; });

const scatterRoot = document.getElementById("scatter-plot"), curvesRoot = document.getElementById("curves-plot");
const scatter = scatterRoot && new Scatter(scatterRoot);
if (curvesRoot) new Curves(curvesRoot);

for (const link of document.querySelectorAll("a[data-x]"))
  link.addEventListener("click", () => scatter?.show(link.dataset.x, link.dataset.y));

const links = new Map([...document.querySelectorAll(".contents a")].map((link) => [link.hash.slice(1), link]));
const inSight = new Set();
const watcher = new IntersectionObserver((entries) => {
  for (const entry of entries) inSight[entry.isIntersecting ? "add" : "delete"](entry.target.id);
  const current = [...links.keys()].find((id) => inSight.has(id));
  for (const [id, link] of links) {
    if (id === current) link.setAttribute("aria-current", "true");
    else link.removeAttribute("aria-current");
  }
}, { rootMargin: "-15% 0px -60% 0px" });
for (const id of links.keys()) watcher.observe(document.getElementById(id));

let opened = [];
addEventListener("beforeprint", () => {
  opened = [...document.querySelectorAll("details:not([open]):not(.as-table)")];
  for (const details of opened) details.open = true;
});
addEventListener("afterprint", () => { for (const details of opened) details.open = false; });
