// Patching by layer and position, and of each part of a head, in the base and at the end.
const patchingChart = (() => {
  const root = document.getElementById("patching-chart");
  const sites = {
    resid_pre: "Residual stream before", attn_out: "Attention output", mlp_out: "MLP output",
    head_out: "Head output", head_v: "Value only", head_pattern: "Pattern only",
  };
  const ofHeads = (site) => site.startsWith("head");
  const layers = d3.range(data.layout.layers);
  const heads = data.nodes.filter(isHead);
  const place = new Map(heads.map((node, index) => [`${node.layer}/${node.head}`, index]));
  // Effects at the input can dwarf all others: the scale is that of the map.
  const largest = largestEffect;
  let drawn = [];

  function columnsOf(site, role) {
    return ofHeads(site) ? d3.range(data.layout.heads) : data.layout.positions[role];
  }

  // column: the number of a head, or the name of a position.
  function columnAt(site, layer, column) {
    return ofHeads(site) ? place.get(`${layer}/${column}`)
      : layer * data.positions.length + data.positions.indexOf(column);
  }

  function at(role, site, layer, column, step = shownEnd()) {
    return patchAt(role, site, columnAt(site, layer, column), step);
  }

  function draw() {
    root.replaceChildren();
    drawn = [];
    if (!Object.keys(data.patching).length) {
      d3.select(root).append("p").attr("class", "note").text("No patches were recorded.");
      return;
    }
    const { width } = panels(root, 3, 300);
    for (const some of [["resid_pre", "attn_out", "mlp_out"], ["head_out", "head_v", "head_pattern"]]) {
      for (const role of roleNames) {
        for (const site of some) {
          const columns = columnsOf(site, role);
          const map = heatMap(root, {
            title: `${sites[site]}, ${role} task`, role, rows: layers.map((layer) => `L${layer}`), columns, width,
            rowHeight: Math.max(9, Math.min(18, 150 / layers.length)),
            every: ofHeads(site) ? labelEvery(columns.length, width * 1.4) : 1,
          });
          map.details((layer, column) => [
            `${sites[site]}, layer ${layer}, ${ofHeads(site) ? `head ${column}` : columns[column]}`,
            [[roles[role].title, interval(at(role, site, layer, columns[column])), role]], `step ${data.steps[shownEnd()]}`]);
          const where = layers.map((layer) =>
            columns.map((column) => columnAt(site, layer, column)));
          drawn.push({ map, role, site, where });
        }
      }
    }
    drawLegend("patching-legend");
    step();
  }

  function step() {
    d3.select("#patching-step").text(data.steps[shownEnd()]);
    for (const { map, role, site, where } of drawn) {
      const effects = patches(role, site)?.[0] ?? [];
      const first = endAt(shownEnd()) * (effects.length / 2);
      map.colour((layer, column) => effects[first + where[layer][column]] ?? null, largest);
    }
  }

  function csv() {
    return Object.keys(sites).flatMap((site) => roleNames.flatMap((role) =>
      layers.flatMap((layer) => columnsOf(site, role).flatMap((column) =>
        [0, data.steps.length - 1].map((index) => ({ site, task: roles[role].name, layer,
          step: data.steps[index], at: ofHeads(site) ? `head ${column}` : column,
          ...asColumns("effect", at(role, site, layer, column, index)) }))))));
  }

  return { draw, step, csv, name: "patching", redrawsOn: ["run"] };
})();
