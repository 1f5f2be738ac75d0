// The circuit map. Python draws it and computes each frame; this applies the frames and handles
// the pointer and the keyboard.
const circuitMap = (() => {
  const kinds = ["old", "new", "difference"];
  const { drawings, frames } = data.map;
  let maps = [];
  let focused = 0; // the one cell of each map that Tab reaches

  function draw() {
    maps = kinds.map((kind) => startMap(kind, document.getElementById(`map-${kind}`)));
    drawLegend("legend");
    drawKeys();
    step();
    reachable();
    pin();
  }

  function startMap(kind, root) {
    root.replaceChildren(parsed(drawings[kind]));
    const svg = d3.select(root).select("svg");
    const cell = svg.selectAll(".cell").data(data.nodes).attr("role", "button")
      .on("click", (_, node) => togglePin(node.id))
      .on("pointerenter focus", (event, node) => hover(event.currentTarget, node))
      .on("pointerleave blur", leave)
      .on("keydown", (event, node) => cellKey(event, node, kind));
    const chips = svg.selectAll(".chip").data(data.layout.positions[kind])
      .on("pointerenter", (event, name) => hoverPosition(event.currentTarget, name))
      .on("pointerleave", hideTooltip);
    return { kind, cell, chips, below: svg.select(".edges"), above: svg.select(".edges.above"),
      title: svg.select(".map-title").text(), nothing: svg.select(".nothing"), found: [] };
  }

  function hover(element, node) {
    for (const map of maps) {
      map.cell.classed("hover", (other) => other.id === node.id);
      drawEdges(map, node.id);
    }
    const index = nodeIndex.get(node.id);
    const rows = roleNames.map((role) =>
      [roles[role].title, interval(effectAt(role, index)), role]);
    rows.push(["new − old", number(difference(index))]);
    for (const role of roleNames) {
      const at = effectAt(role, index)?.[3];
      if (at !== null && at !== undefined)
        rows.push([`edge scores, ${role} task`, number(at)]);
    }
    const category = headChanges().find((row) => row.node === node.id)?.category;
    showTooltip(element, category ? `${nodeName(node)}: ${category}` : nodeName(node), rows,
      `step ${data.steps[state.step]}, counterfactual ${state.family}`, element.ownerSVGElement);
  }

  function hoverPosition(element, name) {
    const column = data.positions.indexOf(name);
    showTooltip(element, `Input at ${name}, corrupted`, roleNames.map((role) =>
      [roles[role].title, interval(patchAt(role, "resid_pre", column)), role]),
    `step ${data.steps[state.step]}, a dozen prompts`);
  }

  function leave() {
    for (const map of maps) {
      map.cell.classed("hover", false);
      drawEdges(map, state.head);
    }
    hideTooltip();
  }

  function cellKey(event, node, kind) {
    if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      togglePin(node.id);
      return;
    }
    if (event.key === "Escape") { choose({ head: null }); return; }
    const to = neighbour(node, event.key);
    if (to === undefined) return;
    event.preventDefault();
    if (to < 0) return;
    focused = to;
    reachable();
    maps.find((each) => each.kind === kind).cell.nodes()[to].focus();
  }

  // Left and right along a layer's heads; up and down through heads and MLPs in turn.
  function neighbour(node, key) {
    const find = (layer, head) =>
      data.nodes.findIndex((other) => other.layer === layer && other.head === head);
    const column = isHead(node) ? node.head : lastColumn;
    switch (key) {
      case "ArrowLeft": return isHead(node) ? find(node.layer, node.head - 1) : -1;
      case "ArrowRight": return isHead(node) ? find(node.layer, node.head + 1) : -1;
      case "ArrowUp": return isHead(node) ? find(node.layer, -1) : find(node.layer + 1, column);
      case "ArrowDown": return isHead(node) ? find(node.layer - 1, -1) : find(node.layer, column);
      default: return undefined;
    }
  }
  let lastColumn = 0;

  function reachable() {
    if (isHead(data.nodes[focused])) lastColumn = data.nodes[focused].head;
    for (const { cell } of maps)
      cell.attr("tabindex", (_, index) => (index === focused ? 0 : -1));
  }

  // A node's own edges are drawn above the cells, all others below them.
  function drawEdges({ kind, below, above, found }, node) {
    const touches = (edge) => node !== null && (edge.writer === node || edge.reader === node);
    const shown = found.slice(0, state.edges);
    below.classed("faint", node !== null);
    paths(below, shown.filter((edge) => !touches(edge)));
    paths(above, found.filter(touches));
  }

  function paths(group, edges) {
    group.selectAll("path").data(edges, (edge) => edge.id)
      .join((enter) => enter.append("path").attr("d", (edge) => edge.path))
      .attr("class", (edge) => (edge.score < 0 ? "against" : "for"))
      .attr("stroke-width", (edge) => Math.abs(edge.score) * data.edges.width);
  }

  function step() {
    const categoryOf = new Map(headChanges().map((row) => [row.node, row.category]));
    for (const map of maps) {
      const { kind, cell, chips, nothing, title } = map;
      const frame = frames[`${state.run}/${kind}/${state.family}`];
      const texts = [...frame.texts];
      for (const [at, node, text] of frame.changed) if (at === state.step) texts[node] = text;
      colour(cell, frame.places, 0);
      colour(chips, frame.places, nodeCount);
      cell.select("text").each(function write(node) {
        const text = texts[nodeIndex.get(node.id)];
        if (this.textContent !== text) this.textContent = text;
      });
      setChanged(cell, "aria-label", (node, index) => `${nodeName(node)}, ${title}: `
        + `${number(valueOf(kind, index))} logits, ${categoryOf.get(node.id) ?? "no category"}`);
      nothing.text(frame.nothing[state.step]);
      map.found = edgesOf(kind);
      drawEdges(map, state.head);
    }
  }

  // A place in the ramp is one character after U+0100; a blank is a value that was not measured.
  function colour(groups, places, first) {
    const at = (index) => places.charCodeAt((first + index) * data.steps.length + state.step) - 0x100;
    groups.classed("missing", (_, index) => at(index) < 0);
    setChanged(groups.select("rect"), "fill", (_, index) => ramp[at(index)] ?? "none");
    setChanged(groups.select("text"), "fill", (_, index) => inks[at(index)] ?? null);
  }

  const valueOf = (kind, index) =>
    (kind === "difference" ? difference(index) : effectAt(kind, index)?.[0]);

  function pin() {
    for (const map of maps) {
      map.cell.classed("pinned", (node) => node.id === state.head)
        .attr("aria-pressed", (node) => String(node.id === state.head));
      drawEdges(map, state.head);
    }
  }

  function drawKeys() {
    const present = new Set(Object.values(data.head_changes).flat().map((row) => row.category));
    d3.select("#category-key").selectAll("span").data(
      Object.entries(data.names.head_changes).filter(([category, [sign]]) => sign && present.has(category)))
      .join("span").attr("title", ([, [, meaning]]) => meaning).html("")
      .call((span) => span.append("b").text(([, [sign]]) => sign))
      .call((span) => span.append("i").text(([category]) => ` ${category}`));
    document.getElementById("edge-key").replaceChildren(parsed(drawings["edge-key"]));
  }

  function csv() {
    return data.nodes.flatMap((node, index) => roleNames.flatMap((role) =>
      data.steps.map((now, at) => ({ node: node.id, task: roles[role].name,
        counterfactual: state.family, step: now, ...asColumns("effect", effectAt(role, index, at)),
        category: headChanges().find((row) => row.node === node.id)?.category }))));
  }

  return { draw, step, pin, csv, name: "circuit-map", redrawsOn: ["run", "family", "edges"] };
})();

function togglePin(id) {
  choose({ head: state.head === id ? null : id });
}
