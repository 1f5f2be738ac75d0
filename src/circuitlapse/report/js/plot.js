// Shared by the charts: an SVG, axes, a line with its band, and panels in a row.
const roleNames = ["old", "new"];

// A drawing's room, measured once: to ask in the middle of a step would lay out the page twice.
const widths = new Map();
function widthOf(root) {
  if (!widths.get(root)) widths.set(root, root.clientWidth);
  return widths.get(root);
}

// Sets only attributes that differ: each set costs a new style and layout, and most cells keep
// their colour from step to step.
function setChanged(selection, name, value) {
  selection.each(function set(datum, index) {
    const now = value(datum, index);
    if (now === null) this.removeAttribute(name);
    else if (this.getAttribute(name) !== now) this.setAttribute(name, now);
  });
}

function drawing(parent, width, height, label) {
  return d3.select(parent).append("svg")
    .attr("width", width).attr("height", height).attr("viewBox", [0, 0, width, height])
    .attr("role", "img").attr("aria-label", label);
}

function leftAxis(svg, scale, left, right, ticks = 4, format = null) {
  const axis = d3.axisLeft(scale).ticks(ticks).tickSize(left - right).tickPadding(5);
  if (format) axis.tickFormat(format);
  svg.append("g").attr("class", "axis grid").attr("transform", `translate(${left},0)`).call(axis)
    .call((group) => group.select(".domain").remove())
    .call((group) => group.selectAll(".tick").classed("zero", (value) => value === 0));
}

function bottomAxis(svg, scale, y, ticks, format = null) {
  const axis = d3.axisBottom(scale).tickSize(3).tickPadding(4);
  if (Array.isArray(ticks)) axis.tickValues(ticks);
  else axis.ticks(ticks);
  if (format) axis.tickFormat(format);
  svg.append("g").attr("class", "axis").attr("transform", `translate(0,${y})`).call(axis);
}

// columns: [value, low, high], each over data.steps.
function lineWithBand(svg, columns, x, y, role, withBand = true) {
  const places = d3.range(data.steps.length).filter((place) => columns[0][place] !== null);
  if (withBand) {
    svg.append("path").attr("class", `band band-${role}`).attr("d",
      d3.area((place) => x(data.steps[place]), (place) => y(columns[1][place]),
        (place) => y(columns[2][place]))
        .defined((place) => columns[1][place] !== null)(places));
  }
  return svg.append("path").attr("class", `line line-${role}`)
    .attr("d", d3.line((place) => x(data.steps[place]), (place) => y(columns[0][place]))(places));
}

function stepMarker(svg, top, bottom) {
  return svg.append("line").attr("class", "marker").attr("y1", top).attr("y2", bottom);
}

function moveMarker(marker, x) {
  const at = x(data.steps[state.step]);
  marker.attr("x1", at).attr("x2", at);
}

function stepScale(left, right) {
  const last = data.steps.at(-1);
  return d3.scaleLinear([data.steps[0], last === data.steps[0] ? last + 1 : last], [left, right]);
}

function columnExtent(lists) {
  return d3.extent(lists.flat().filter((value) => value !== null && value !== undefined));
}

// How wide each of n panels may be, and how many fit in a row.
function panels(root, wanted, least) {
  const room = root.clientWidth;
  const across = Math.max(1, Math.min(wanted, Math.floor(room / least)));
  const gap = 18;
  return { across, width: Math.floor((room - gap * (across - 1)) / across) };
}
