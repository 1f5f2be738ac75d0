// Small heat maps: rows upwards, columns to the right, one fixed scale for all panels of a figure.
function heatMap(root, { title, role, rows, columns, width, rowHeight, every = 1, marker = false }) {
  const lines = d3.max(columns, (label) => String(label).split("_").length);
  const left = 62, top = 24, bottom = 8 + 12 * lines;
  const cell = (width - left - 4) / columns.length;
  const height = top + rows.length * rowHeight + bottom;
  const svg = drawing(root, width, height, title);
  svg.append("text").attr("class", `panel-title text-${role}`).attr("x", left).attr("y", 14)
    .text(title);
  const yOf = (row) => top + (rows.length - 1 - row) * rowHeight;
  const tall = rowHeight < 11 ? 2 : 1;
  rows.forEach((label, row) => {
    if (row % tall === 0)
      svg.append("text").attr("class", "tick-label").attr("x", left - 5).attr("dy", "0.35em")
        .attr("y", yOf(row) + rowHeight / 2).attr("text-anchor", "end").text(label);
  });
  columns.forEach((label, column) => {
    if (column % every) return;
    const x = left + (column + 0.5) * cell;
    const text = svg.append("text").attr("class", "tick-label").attr("text-anchor", "middle")
      .attr("x", x).attr("y", height - bottom + 14);
    String(label).split("_").forEach((word, line) =>
      text.append("tspan").attr("x", x).attr("dy", line ? 11 : 0).text(word));
  });
  const places = d3.cross(d3.range(rows.length), d3.range(columns.length));
  const gap = cell > 8 ? 1 : 0;
  const rects = svg.append("g").selectAll("rect").data(places).join("rect")
    .attr("x", ([, column]) => left + column * cell).attr("y", ([row]) => yOf(row))
    .attr("width", cell - gap + (gap ? 0 : 0.3)).attr("height", rowHeight - 1);
  const outline = marker ? svg.append("rect").attr("class", "column-marker").attr("y", top - 1)
    .attr("height", rows.length * rowHeight + 1).attr("width", Math.max(cell, 3)) : null;
  return {
    colour(value, largest) {
      setChanged(rects, "fill", ([row, column]) => {
        const found = value(row, column);
        return found === null || found === undefined ? "none" : toColour(found, largest);
      });
    },
    mark(column) {
      outline?.attr("x", left + column * cell);
    },
    // Numbers, where a cell has room for them.
    write(text, ink) {
      if (cell < 26 || rowHeight < 13) return;
      svg.append("g").selectAll("text").data(places).join("text").attr("class", "cell-number")
        .attr("x", ([, column]) => left + (column + 0.5) * cell).attr("dy", "0.35em")
        .attr("y", ([row]) => yOf(row) + (rowHeight - 1) / 2).attr("text-anchor", "middle")
        .style("fill", ([row, column]) => ink(row, column))
        .text(([row, column]) => text(row, column));
    },
    details(tell) {
      rects.on("pointerenter", (event, [row, column]) => {
        const [heading, lines, note] = tell(row, column);
        showTooltip(event.currentTarget, heading, lines, note);
      }).on("pointerleave", hideTooltip);
    },
  };
}

// About so many labels along columns of this width, 30 pixels for each.
function labelEvery(count, width) {
  return Math.max(1, Math.ceil(count / (width / 30)));
}
