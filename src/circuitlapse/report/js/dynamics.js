// When heads and behaviour changed: one row for each of the heads with the largest changes.
function changedHeads() {
  return mine(rowsOf("dynamics")).filter((row) => row.kind === "head"
    && row.counterfactual === state.family && row.step_of_90 !== null);
}

const dynamicsChart = (() => {
  const left = 40, right = 132, top = 22, lineHeight = 17, most = 24;
  const triangle = (row) => d3.symbol(row.change[0] < 0 ? d3.symbolTriangle2 : d3.symbolTriangle);
  let marker, x;

  const chart = evidenceChart("dynamics", {
    redrawsOn: ["run", "family"],
    draw(root, all) {
      marker = null;
      const rows = changedHeads();
      const size = new Map(d3.rollup(rows, (some) => d3.max(some, (row) =>
        Math.abs(row.change[0])), (row) => row.node));
      const nodes = d3.sort(size.keys(), (node) => -size.get(node)).slice(0, most);
      const first = (node) => d3.min(rows.filter((row) => row.node === node),
        (row) => row.step_of_90);
      const order = d3.sort(nodes, first, (node) => -size.get(node));
      if (!order.length) return false;
      const largest = d3.max(all.filter((row) => row.kind === "head"), (row) =>
        Math.abs(row.change[0])) || 1;
      const width = root.clientWidth, bottom = top + order.length * lineHeight;
      x = stepScale(left, width - right);
      const y = (node) => top + (order.indexOf(node) + 0.5) * lineHeight;
      const svg = drawing(root, width, bottom + 22,
        "Step at which each head's effect changed, on both tasks");
      bottomAxis(svg, x, bottom, Math.min(12, data.steps.length));
      order.forEach((node) => {
        svg.append("text").attr("class", "row-label").attr("x", left - 10).attr("y", y(node))
          .attr("dy", "0.35em").attr("text-anchor", "end")
          .text(data.nodes[nodeIndex.get(node)].label);
        svg.append("line").attr("class", "guide").attr("x1", left).attr("x2", width - right)
          .attr("y1", y(node)).attr("y2", y(node));
      });
      drawEpochs(svg, x, top - 6, bottom);
      drawBehaviour(svg, top, bottom);
      const shown = rows.filter((row) => order.includes(row.node));
      svg.append("g").selectAll("path").data(d3.sort(shown, (row) => row.task === roles.new.name))
        .join("path")
        .attr("class", (row) => `change fill-${roleOf(row)}`)
        .classed("sign-changed", (row) => row.sign_changed)
        .attr("d", (row) => triangle(row).size(16 + 130 * Math.abs(row.change[0]) / largest)())
        .attr("transform", (row) => `translate(${x(row.step_of_90)},${y(row.node)})`
          + (row.change[0] < 0 ? " rotate(180)" : ""))
        .on("pointerenter", (event, row) => showTooltip(event.currentTarget,
          `${labelOf(row.node)}, ${roles[roleOf(row)].title}`, [
            ["90 % reached at step", number(row.step_of_90, d3.format(".0f"))],
            ["before", number(row.before)], ["after", number(row.after)],
            ["change", interval(row.change)], ["correlation with behaviour", number(row.behaviour_correlation)],
            ...(row.sign_changed ? [["sign", `changed, in ${row.seeds_with_sign_change} of ${data.runs.length} seeds`]]
              : [])]))
        .on("pointerleave", hideTooltip)
        .on("click", (_, row) => togglePin(row.node));
      marker = stepMarker(svg, top - 6, bottom);
      moveMarker(marker, x);
      return true;
    },
  });

  function drawBehaviour(svg, above, bottom) {
    for (const row of mine(rowsOf("dynamics")).filter((each) => each.kind === "behaviour"
      && each.step_of_90 !== null)) {
      const role = roleOf(row);
      svg.append("line").attr("class", `whole line-${role}`).attr("y1", above - 6)
        .attr("y2", bottom).attr("x1", x(row.step_of_90)).attr("x2", x(row.step_of_90));
      if (role === "new")
        svg.append("text").attr("class", "tick-label text-new").attr("x", x(row.step_of_90))
          .attr("y", above - 9).attr("text-anchor", "middle").text("▾ 90 % of the change");
    }
  }

  return chart && { ...chart, step: () => marker && moveMarker(marker, x) };
})();

function roleOf(row) {
  return row.task === roles.old.name ? "old" : "new";
}

// Dotted lines at the end of each epoch.
function drawEpochs(svg, x, top, bottom) {
  const epoch = rowsOf("dynamics").find((row) => row.epoch_steps)?.epoch_steps;
  const last = data.steps.at(-1);
  if (!epoch || last / epoch > 40) return;
  svg.append("g").selectAll("line").data(d3.range(epoch, last + 0.5, epoch)).join("line")
    .attr("class", "epoch").attr("x1", x).attr("x2", x).attr("y1", top).attr("y2", bottom);
}

// Under the learning curves: a tick where a head has reached 90 % of its change, by task.
function drawChanges(svg, x, bottom) {
  const rows = changedHeads();
  svg.append("g").attr("class", "rug").selectAll("line")
    .data(rows.map((row, place) => ({ row, place }))).join("line")
    .attr("class", ({ row }) => `line-${roleOf(row)}`)
    .attr("x1", ({ row, place }) => x(row.step_of_90) + ((place * 7) % 9) - 4)
    .attr("x2", ({ row, place }) => x(row.step_of_90) + ((place * 7) % 9) - 4)
    .attr("y1", bottom - 5).attr("y2", bottom);
}
