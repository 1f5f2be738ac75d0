// The heads with the largest effects over time, as small panels on one scale.
const trajectories = (() => {
  const root = document.getElementById("trajectories");
  const count = 8;
  let markers = [];
  let x;

  // The heads with the largest effect at any checkpoint on either task, fixed for all steps.
  function strongest() {
    const columns = roleNames.map((role) => effects(role)).filter(Boolean);
    const size = (node) => d3.max(columns, (column) => d3.max(data.steps, (_, step) =>
      Math.abs(column[0][step * nodeCount + nodeIndex.get(node.id)] ?? 0)));
    const order = data.nodes.filter(isHead).map((node) => ({ node, size: size(node) }))
      .sort((a, b) => b.size - a.size).slice(0, count).map(({ node }) => node);
    const pinned = data.nodes.find((node) => node.id === state.head);
    if (pinned && !order.includes(pinned)) order.splice(count - 1, 1, pinned);
    return order;
  }

  function draw() {
    root.replaceChildren();
    markers = [];
    const nodes = strongest();
    const { across, width } = panels(root, 4, 220);
    const height = 132, left = 34, right = width - 8, top = 24, bottom = height - 20;
    const of = (role, node) => {
      const columns = effects(role);
      const at = nodeIndex.get(node.id);
      return columns?.slice(0, 3).map((column) =>
        data.steps.map((_, step) => column[step * nodeCount + at]));
    };
    const series = nodes.map((node) => roleNames.map((role) => [role, of(role, node)])
      .filter(([, columns]) => columns));
    const [low, high] = columnExtent(series.flat().map(([, columns]) => columns.flat()));
    x = stepScale(left, right);
    const y = d3.scaleLinear([Math.min(0, low ?? 0), Math.max(0, high ?? 1)], [bottom, top])
      .nice(3);
    nodes.forEach((node, place) => {
      const category = headChanges().find((row) => row.node === node.id)?.category ?? "";
      const panel = d3.select(root).append("div").attr("class", "panel")
        .classed("pinned", node.id === state.head)
        .attr("tabindex", 0).attr("role", "button")
        .attr("aria-pressed", String(node.id === state.head))
        .attr("aria-label", `${nodeName(node)} over training, both tasks${category ? `: ${category}` : ""}`)
        .on("click", () => togglePin(node.id))
        .on("keydown", (event) => {
          if (event.key !== "Enter" && event.key !== " ") return;
          event.preventDefault();
          togglePin(node.id);
          root.children[place]?.focus();
        });
      const svg = drawing(panel.node(), width, height, "");
      svg.attr("role", null).attr("aria-label", null).attr("aria-hidden", "true");
      const title = svg.append("text").attr("class", "panel-title").attr("x", left).attr("y", 14);
      title.append("tspan").text(nodeName(node));
      title.append("tspan").attr("class", "category").attr("dx", 6)
        .text(category ? `${categorySign(category)} ${category}` : "");
      leftAxis(svg, y, left, right, 3);
      bottomAxis(svg, x, bottom, place >= nodes.length - across ? 4 : []);
      for (const [role, columns] of series[place]) lineWithBand(svg, columns, x, y, role);
      markers.push(stepMarker(svg, top, bottom));
      svg.on("pointermove", (event) => {
        const step = nearestStep(x.invert(d3.pointer(event)[0]));
        const index = nodeIndex.get(node.id);
        showTooltip(panel.node(), `${nodeName(node)} at step ${data.steps[step]}`,
          roleNames.map((role) =>
            [roles[role].title, interval(effectAt(role, index, step)?.slice(0, 3)), role]));
      }).on("pointerleave", hideTooltip);
    });
    step();
  }

  function step() {
    for (const marker of markers) moveMarker(marker, x);
  }

  const csv = () => strongest().flatMap((node) => roleNames.flatMap((role) =>
    data.steps.map((now, at) => ({ node: node.id, task: roles[role].name, step: now,
      counterfactual: state.family,
      ...asColumns("effect", effectAt(role, nodeIndex.get(node.id), at)?.slice(0, 3)) }))));
  return { draw, step, csv, name: "heads", redrawsOn: ["run", "family", "head"] };
})();
