// The rescaled base: the output scale of each head and MLP.
const outputScalesChart = evidenceChart("output_scales", {
  redrawsOn: ["run"],
  draw(root, all) {
    const rows = mine(all);
    const largest = d3.max(all, (row) => Math.abs(row.scale - 1)) || 1;
    const { heads, layers } = data.layout;
    const names = [...d3.range(heads).map(String), "MLP"];
    const found = new Map(rows.map((row) => [`${row.layer}/${row.head}`, row.scale]));
    const scale = (layer, column) => found.get(`${layer}/${column < heads ? column : -1}`);
    const map = heatMap(root, {
      title: `Scale of each output; colour: distance from 1, up to ${number(largest)}`, role: "plain",
      rows: d3.range(layers).map((layer) => `L${layer}`), columns: names,
      width: Math.min(root.clientWidth, 120 + 56 * names.length), rowHeight: layers > 16 ? 16 : 24,
    });
    map.colour((layer, column) => (scale(layer, column) ?? null) === null ? null
      : scale(layer, column) - 1, largest);
    map.write((layer, column) => number(scale(layer, column)),
      (layer, column) => inkOn(scale(layer, column) - 1, largest));
    map.details((layer, column) => [column < heads ? `Head ${layer}.${column}`
      : `MLP ${layer}`, [["scale", number(scale(layer, column), threeDecimals)]], ""]);
    return rows.length;
  },
});
