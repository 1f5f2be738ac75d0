// Several curves on one scale, each named at its right end. Points are [x, value, low, high]; x is a
// training step unless the chart has a scale of its own.
function curveChart(root, { width, height, right, title, label, domain, curves, xScale, xTicks,
  under, flags, format, names = true }) {
  const left = 40, top = title ? 28 : 10, marks = flags?.length ?? 0;
  const bottom = height - 20 - 13 * marks;
  const edge = width - right;
  const x = xScale ? xScale(left, edge) : stepScale(left, edge);
  const y = d3.scaleLinear(domain, [bottom, top]);
  const svg = drawing(root, width, height, label);
  if (title)
    svg.append("text").attr("class", "panel-title").attr("x", left).attr("y", 14).text(title);
  leftAxis(svg, y, left, edge, Math.max(3, Math.round((bottom - top) / 40)), format);
  bottomAxis(svg, x, bottom, xTicks ?? Math.max(3, Math.round((edge - left) / 70)),
    xScale ? d3.format("d") : null);
  for (const area of under?.areas ?? [])
    svg.append("path").attr("class", "null").attr("d", d3.area(([place]) => x(place),
      ([, low]) => y(low), ([, , high]) => y(high)).defined(([, low]) => (low ?? null) !== null)(area));
  for (const { colour, points, faint, dashed, band = !faint, dots } of curves) {
    if (band)
      svg.append("path").attr("class", "band").style("fill", `var(${colour})`).attr("d",
        d3.area((point) => x(point[0]), (point) => y(point[2]), (point) => y(point[3]))
          .defined((point) => (point[2] ?? null) !== null)(points));
    svg.append("path").attr("class", "line").classed("faint", faint ?? false)
      .classed("dashed", dashed ?? false).style("stroke", `var(${colour})`)
      .attr("d", lineOf(x, y)(points));
    if (dots)
      svg.append("g").selectAll("circle").data(points.filter(([, value]) => value !== null))
        .join("circle").attr("r", 3).style("fill", `var(${colour})`)
        .attr("cx", (point) => x(point[0])).attr("cy", (point) => y(point[1]));
  }
  if (names) nameCurves(svg, curves, edge + 8, y, top, bottom);
  (flags ?? []).forEach(({ name, steps }, row) => {
    const line = bottom + 24 + 13 * row;
    if (names)
      svg.append("text").attr("class", "tick-label").attr("x", edge + 13).attr("y", line)
        .attr("dy", "0.35em").text(name);
    svg.append("g").selectAll("path").data(steps).join("path").attr("class", "flag")
      .attr("d", d3.symbol(d3.symbolTriangle, 34)).attr("transform", (step) =>
        `translate(${x(step)},${line})`);
  });
  const marker = xScale ? null : stepMarker(svg, top, bottom);
  return { svg, x, y, step: () => marker && moveMarker(marker, x) };
}

function lineOf(x, y) {
  return d3.line(([place]) => x(place), ([, value]) => y(value))
    .defined(([, value]) => (value ?? null) !== null);
}

// Names are at the curves' ends, moved apart where they would overlap.
function nameCurves(svg, curves, left, y, top, bottom) {
  const gap = 13.5;
  const labels = d3.sort(curves.filter(({ name }) => name).map(({ name, colour, points, faint }) => ({
    name, colour, faint, at: y(points.findLast((point) => (point[1] ?? null) !== null)?.[1] ?? 0),
  })), (label) => label.at);
  let lowest = top - gap;
  for (const label of labels) {
    label.at = Math.max(label.at, lowest + gap);
    lowest = label.at;
  }
  for (let index = labels.length - 1, highest = bottom + gap; index >= 0; index--) {
    labels[index].at = Math.min(labels[index].at, highest - gap);
    highest = labels[index].at;
  }
  svg.append("g").selectAll("text").data(labels).join("text").attr("class", "curve-name")
    .style("fill", ({ colour }) => `var(${colour})`).attr("x", left).attr("dy", "0.35em")
    .attr("y", (label) => label.at).text((label) => label.name);
}
