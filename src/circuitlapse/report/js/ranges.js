// Figures 4 and 5: values with intervals as dots on a line, beside what they are judged against.
// Rows are named once, on the left; panels stand side by side, each with its numbers on its right.
function rangeChart(root, { rows, panels, lineHeight = 26, labelWidth, label, numbers = 140 }) {
  const gap = 14, top = 38;
  const width = root.clientWidth;
  const each = (width - labelWidth) / panels.length;
  const height = top + rows.length * lineHeight + 24;
  const svg = drawing(root, width, height, label);
  const bottom = top + rows.length * lineHeight;
  const at = (row) => top + (row + 0.5) * lineHeight;
  rows.forEach((row, index) => {
    svg.append("text").attr("class", "row-label").classed("main", row.main ?? false)
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
      if (!cell || cell.value[0] === null) return;
      if (cell.under) cell.under(svg, x, at(index));
      dotRange(svg, cell.value, x, at(index), cell.colour);
      svg.append("text").attr("class", "row-value").classed("main", rows[index].main ?? false)
        .attr("x", right + gap).attr("y", at(index)).attr("dy", "0.35em")
        .text(cell.text ?? interval(cell.value));
      svg.append("rect").attr("class", "hit").attr("x", left - 6).attr("y", at(index) - 12)
        .attr("width", each - 8).attr("height", 24)
        .on("pointerenter", (event) =>
          showTooltip(event.currentTarget, rows[index].label, cell.details))
        .on("pointerleave", hideTooltip);
    });
  });
}

function dotRange(svg, [value, low, high], x, y, colour) {
  if (low !== null)
    svg.append("line").attr("class", `whisker line-${colour}`)
      .attr("x1", x(low)).attr("x2", x(high)).attr("y1", y).attr("y2", y);
  svg.append("circle").attr("class", `fill-${colour}`).attr("cx", x(value)).attr("cy", y)
    .attr("r", 4);
}

const overlapChart = (() => {
  const root = document.getElementById("overlap-chart");
  // The comparison that the question is about comes first.
  const order = [
    ["base:old", "tuned:new"], ["base:old", "tuned:old"], ["base:new", "tuned:new"],
    ["tuned:old", "tuned:new"], ["base:old", "base:new"], ["base:new", "tuned:old"],
  ];
  const words = (side) => side.replace(":", ", ");
  const isPair = (row, [a, b]) =>
    (row.left === a && row.right === b) || (row.left === b && row.right === a);

  function draw() {
    root.replaceChildren();
    const { step, rows } = rowsAtStep(data.overlap.filter((row) => row.family === state.family));
    d3.selectAll("#overlap-step").text(step ?? "–");
    const shown = rows.filter((row) => row.measure === state.measure);
    const pairs = order.filter((pair) => shown.some((row) => isPair(row, pair)));
    if (!pairs.length) {
      d3.select(root).append("p").attr("class", "note")
        .text(`No overlap was recorded for the corruption “${state.family}”.`);
    } else {
      const low = d3.min(shown, (row) =>
        d3.min([...row.value, ...row.null, row.ceiling].filter((value) => value !== null)));
      rangeChart(root, {
        labelWidth: 172,
        label: "Similarity of circuits with interval, ceiling and null; the table below has all "
          + "numbers",
        rows: pairs.map((pair, place) =>
          ({ label: pair.map(words).join(" · "), main: place === 0 && pair === order[0] })),
        panels: [...new Set(shown.map((row) => row.unit))].sort().reverse().map((unit) => ({
          title: { nodes: "Nodes (heads and MLPs)", edges: "Edges" }[unit] ?? unit,
          domain: [Math.min(0, low ?? 0), 1],
          cells: pairs.map((pair) => {
            const row = shown.find((each) => each.unit === unit && isPair(each, pair));
            return row && cell(row, pair === order[0]);
          }),
        })),
      });
    }
    fillRows("#overlap-rows", [...rows].sort((a, b) => d3.ascending(a.unit, b.unit)
      || d3.ascending(a.measure, b.measure)).map((row) => [
      row.unit, data.names.measures[row.measure] ?? row.measure, words(row.left),
      words(row.right), interval(row.value), number(row.ceiling), interval(row.null),
      number(row.p, threeDecimals),
    ]), 4);
  }

  function cell(row, main) {
    return {
      value: row.value,
      colour: main ? "new" : "old",
      details: [["value", interval(row.value)], ["ceiling", number(row.ceiling)],
        ["null", interval(row.null)], ["p against the null", number(row.p, threeDecimals)]],
      under(svg, x, y) {
        if (row.null[1] !== null)
          svg.append("rect").attr("class", "null").attr("x", x(row.null[1])).attr("y", y - 7)
            .attr("width", Math.max(1, x(row.null[2]) - x(row.null[1]))).attr("height", 14);
        if (row.null[0] !== null)
          svg.append("line").attr("class", "null-mean").attr("x1", x(row.null[0]))
            .attr("x2", x(row.null[0])).attr("y1", y - 7).attr("y2", y + 7);
        if (row.ceiling !== null)
          svg.append("rect").attr("class", "ceiling").attr("x", x(row.ceiling) - 2)
            .attr("y", y - 8).attr("width", 4).attr("height", 16);
      },
    };
  }

  // Redrawn with the slider only if there is more than one step to show.
  const several = new Set(data.overlap.map((row) => row.step)).size > 1;
  const csv = () => data.overlap.map(({ run, value, null: none, ...row }) => ({
    ...data.runs[run], ...row, ...asColumns("value", value), null_mean: none[0],
    null_low: none[1], null_high: none[2] }));
  return { draw, step: several ? draw : undefined, csv, name: "overlap",
    redrawsOn: ["run", "family", "measure"] };
})();

const graftChart = (() => {
  const root = document.getElementById("graft-chart");
  const { groups, quantities } = data.names;

  function draw() {
    if (!root) return; // the run has no grafts
    root.replaceChildren();
    const { rows } = rowsAtStep(data.grafts);
    const has = (key) => (name) => rows.some((row) => row[key] === name);
    const shown = Object.keys(groups).filter(has("group"));
    const shapley = rows.filter((row) => row.quantity === "shapley" && row.gain[0] !== null);
    const whole = shapley.length ? d3.sum(shapley, (row) => row.gain[0]) : undefined;
    const [low, high] = columnExtent([...rows.map((row) => row.gain), [0, whole]]);
    rangeChart(root, {
      labelWidth: 142,
      label: "Gain by group of parameters, grafted first, last and averaged; the table below has "
        + "all numbers",
      rows: shown.map((group) => ({ label: groups[group] })),
      panels: Object.keys(quantities).filter(has("quantity")).map((quantity) => ({
        title: quantities[quantity],
        domain: [low, high * 1.02],
        whole,
        cells: shown.map((group) => {
          const row = rows.find((each) => each.group === group && each.quantity === quantity);
          return row && {
            value: row.gain,
            colour: group,
            details: [["gain, logits", interval(row.gain)], ["share", interval(row.share)],
              ["parameters", d3.format(",")(row.parameters)]],
          };
        }),
      })),
    });
    fillRows("#graft-rows", rows.map((row) => [
      groups[row.group] ?? row.group, quantities[row.quantity] ?? row.quantity,
      d3.format(",")(row.parameters), interval(row.gain), interval(row.share),
    ]), 2);
  }

  const csv = () => data.grafts.map(({ run, gain, share, ...row }) => ({ ...data.runs[run], ...row,
    ...asColumns("gain", gain), ...asColumns("share", share) }));
  return { draw, csv, name: "grafts", redrawsOn: ["run"] };
})();

// Refill a table that the page brought along, with another seed's or family's numbers.
function fillRows(selector, rows, textColumns) {
  d3.select(selector).selectAll("tr").data(rows).join("tr").html("")
    .selectAll("td").data((row) => row).join("td")
    .attr("class", (_, index) => (index >= textColumns ? "num" : null)).text((cell) => cell);
}
