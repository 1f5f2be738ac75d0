// Every chart downloads as SVG, in its present state, and its numbers as CSV.
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

const drawingsIn = (root) => (root.matches("svg") ? [root] : [...root.querySelectorAll("svg")]);

// All drawings of a figure in one SVG, placed as on the page, with their styles written into them.
// A legend that the page has as text, [text, colour] for each line, goes below.
function toSvg(root, legend = []) {
  const sources = drawingsIn(root).filter((svg) => svg.clientWidth);
  const boxes = sources.map((svg) => svg.getBoundingClientRect());
  const left = d3.min(boxes, (box) => box.left), top = d3.min(boxes, (box) => box.top);
  const width = Math.ceil(d3.max(boxes, (box) => box.right) - left);
  const bottom = Math.ceil(d3.max(boxes, (box) => box.bottom) - top);
  const height = bottom + (legend.length && 18 * legend.length + 8);
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
  const { color, fontFamily } = getComputedStyle(document.body);
  const line = page.selectAll("g.legend").data(legend).join("g")
    .attr("transform", (_, place) => `translate(0,${bottom + 18 * place + 8})`);
  line.append("rect").attr("width", 10).attr("height", 10).attr("fill", ([, colour]) => colour);
  line.append("text").attr("x", 16).attr("y", 9.5).attr("font-size", 12).attr("fill", color)
    .attr("font-family", fontFamily).text(([text]) => text);
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

// A chart without a drawing, such as a table, downloads as CSV only.
const downloadPlaces = new Map();

function addDownloads(chart) {
  const places = [];
  for (const place of document.querySelectorAll(`[data-downloads="${chart.name}"]`)) {
    const root = chart.root ?? document.getElementById(place.dataset.from);
    const button = (kind, act) => d3.select(place).append("button").attr("type", "button")
      .attr("aria-label", `Download ${chart.name.replaceAll("-", " ")} as ${kind}`).text(kind)
      .on("click", act);
    const file = () => (chart.step ? `${chart.name}-step-${data.steps[state.step]}` : chart.name);
    if (root) button("SVG", () => save(toSvg(root, chart.legend?.()), `${file()}.svg`,
      "image/svg+xml"));
    if (chart.csv) button("CSV", () => save(toCsv(chart.csv()), `${chart.name}.csv`, "text/csv"));
    places.push({ place, root });
  }
  downloadPlaces.set(chart, places);
}

// Hide the downloads of a chart that has no drawing.
function showDownloads(chart) {
  for (const { place, root } of downloadPlaces.get(chart) ?? []) {
    const nothing = root ? !drawingsIn(root).length : chart.isEmpty?.() ?? false;
    if (place.hidden !== nothing) place.hidden = nothing;
  }
}
