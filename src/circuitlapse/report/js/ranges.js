// Values with intervals as dots on a line, with their baselines.
// Rows are named on the left; panels are in a row, each with its numbers on its right. A cell has a
// value with its interval, or points; optionally a null distribution [mean, low, high]
// and a hollow dot to compare with.
function rangeChart(root, { rows, panels, lineHeight = 26, labelWidth, label, numbers = 140 }) {
  const gap = 14, top = 38;
  const width = widthOf(root);
  const each = (width - labelWidth) / panels.length;
  const height = top + rows.length * lineHeight + 24;
  const svg = drawing(root, width, height, label);
  const bottom = top + rows.length * lineHeight;
  const at = (row) => top + (row + 0.5) * lineHeight;
  rows.forEach((row, index) => {
    svg.append("text").attr("class", "row-label").classed("main", row.main ?? false)
      .classed("heading", row.heading ?? false)
      .attr("x", labelWidth - 14).attr("y", at(index)).attr("dy", "0.35em")
      .attr("text-anchor", "end").text(row.label);
  });
  panels.forEach((panel, place) => {
    const left = labelWidth + place * each, right = left + each - numbers - gap;
    const x = d3.scaleLinear(panel.domain, [left, right]);
    svg.append("text").attr("class", "panel-title").attr("x", left).attr("y", 14)
      .text(panel.title);
    svg.append("g").attr("class", "axis grid").attr("transform", `translate(0,${top - 8})`)
      .call(d3.axisBottom(x).ticks(Math.max(3, (right - left) / 60))
        .tickSize(bottom - top + 10).tickPadding(5))
      .call((group) => group.select(".domain").remove())
      .call((group) => group.selectAll(".tick").classed("zero", (value) => value === 0));
    if (panel.whole !== undefined)
      svg.append("line").attr("class", "whole").attr("x1", x(panel.whole))
        .attr("x2", x(panel.whole)).attr("y1", top - 8).attr("y2", bottom + 2);
    panel.cells.forEach((cell, index) => {
      if (!cell || !(cell.points?.length || (cell.value?.[0] ?? null) !== null)) return;
      const y = at(index), main = rows[index].main ?? false;
      if (cell.null) nullBand(svg, cell.null, x, y);
      if ((cell.before ?? null) !== null)
        svg.append("circle").attr("class", `hollow line-${cell.colour}`).attr("r", 4)
          .attr("cx", x(cell.before)).attr("cy", y);
      for (const point of cell.points ?? [])
        svg.append("circle").attr("class", `point fill-${cell.colour}`).attr("r", 3.2)
          .attr("cx", x(point)).attr("cy", y);
      if (cell.value) dotRange(svg, cell.value, x, y, cell.colour);
      svg.append("text").attr("class", "row-value").classed("main", main)
        .attr("x", right + gap).attr("y", y).attr("dy", "0.35em")
        .text(cell.text ?? interval(cell.value));
      svg.append("rect").attr("class", "hit").attr("x", left - 6).attr("y", y - lineHeight / 2)
        .attr("width", each - 8).attr("height", lineHeight)
        .on("pointerenter", (event) =>
          showTooltip(event.currentTarget, cell.title ?? rows[index].label, cell.details))
        .on("pointerleave", hideTooltip);
    });
  });
}

function nullBand(svg, [mean, low, high], x, y) {
  if ((low ?? null) !== null && (high ?? null) !== null)
    svg.append("rect").attr("class", "null").attr("x", x(low)).attr("y", y - 7)
      .attr("width", Math.max(1, x(high) - x(low))).attr("height", 14);
  if ((mean ?? null) !== null)
    svg.append("line").attr("class", "null-mean").attr("x1", x(mean)).attr("x2", x(mean))
      .attr("y1", y - 7).attr("y2", y + 7);
}

function dotRange(svg, [value, low, high], x, y, colour) {
  if (low !== null)
    svg.append("line").attr("class", `whisker line-${colour}`)
      .attr("x1", x(low)).attr("x2", x(high)).attr("y1", y).attr("y2", y);
  svg.append("circle").attr("class", `fill-${colour}`).attr("cx", x(value)).attr("cy", y)
    .attr("r", 4);
}

// One scale for all seeds and steps of a chart, including zero.
function fixedDomain(lists, ...also) {
  const [low, high] = columnExtent([...lists, [0, ...also]]);
  return [low, high + 0.02 * (high - low)];
}

// Refill a table of the page with the numbers of another seed or counterfactual.
function fillRows(selector, rows, textColumns) {
  d3.select(selector).selectAll("tr").data(rows).join("tr").html("")
    .selectAll("td").data((row) => row).join("td")
    .attr("class", (_, index) => (index >= textColumns ? "num" : null)).text((cell) => cell);
}
