// Every chart downloads as SVG, as it looks now, and its numbers as CSV.
const drawnProperties = ["fill", "fill-opacity", "stroke", "stroke-width", "stroke-opacity",
  "stroke-dasharray", "stroke-linejoin", "opacity", "visibility", "font-family", "font-size",
  "font-weight", "text-anchor", "dominant-baseline"];

function asColumns(name, triple) {
  const [value, low, high] = triple ?? [null, null, null];
  return { [name]: value, [`${name}_low`]: low, [`${name}_high`]: high };
}

function toCsv(rows) {
  const columns = [...new Set(rows.flatMap(Object.keys))];
  return `${d3.csvFormat(rows, columns)}\n`;
}

// All drawings of a figure in one SVG, placed as on the page, with their styles written into them.
function toSvg(root) {
  const sources = [...root.querySelectorAll("svg")].filter((svg) => svg.clientWidth);
  const boxes = sources.map((svg) => svg.getBoundingClientRect());
  const left = d3.min(boxes, (box) => box.left), top = d3.min(boxes, (box) => box.top);
  const width = Math.ceil(d3.max(boxes, (box) => box.right) - left);
  const height = Math.ceil(d3.max(boxes, (box) => box.bottom) - top);
  const page = d3.create("svg").attr("xmlns", "http://www.w3.org/2000/svg")
    .attr("width", width).attr("height", height).attr("viewBox", [0, 0, width, height]);
  page.append("rect").attr("width", width).attr("height", height)
    .attr("fill", getComputedStyle(document.documentElement).backgroundColor);
  sources.forEach((svg, index) => {
    const copy = svg.cloneNode(true);
    const originals = svg.querySelectorAll("*");
    copy.querySelectorAll("*").forEach((element, place) => {
      const style = getComputedStyle(originals[place]);
      for (const property of drawnProperties) {
        const value = style.getPropertyValue(property);
        if (value) element.setAttribute(property, value);
      }
      for (const name of ["class", "style", "tabindex", "role"]) element.removeAttribute(name);
    });
    copy.removeAttribute("class");
    for (const [name, value] of Object.entries({ x: boxes[index].left - left,
      y: boxes[index].top - top, width: boxes[index].width, height: boxes[index].height }))
      copy.setAttribute(name, value);
    page.node().append(copy);
  });
  return new XMLSerializer().serializeToString(page.node());
}

function save(text, name, type) {
  const url = URL.createObjectURL(new Blob([text], { type }));
  const link = document.createElement("a");
  link.href = url;
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

// A chart without figures of its own in a drawing, such as a table, downloads as CSV only.
function addDownloads(chart) {
  for (const place of document.querySelectorAll(`[data-downloads="${chart.name}"]`)) {
    const root = document.getElementById(place.dataset.from);
    const button = (kind, act) => d3.select(place).append("button").attr("type", "button")
      .attr("aria-label", `Download ${chart.name.replaceAll("-", " ")} as ${kind}`).text(kind)
      .on("click", act);
    const file = () => `${chart.name}-step-${data.steps[state.step]}`;
    if (root) button("SVG", () => save(toSvg(root), `${file()}.svg`, "image/svg+xml"));
    if (chart.csv) button("CSV", () => save(toCsv(chart.csv()), `${chart.name}.csv`, "text/csv"));
  }
}
