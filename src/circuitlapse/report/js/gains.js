// The rescaled base: the output scale of each head and MLP.
const gainsChart = evidenceChart("gains", {
  redrawsOn: ["run"],
  draw(root, all) {
    const rows = mine(all);
    const largest = d3.max(all, (row) => Math.abs(row.gain - 1)) || 1;
    const { heads, layers } = data.layout;
    const names = [...d3.range(heads).map(String), "MLP"];
    const found = new Map(rows.map((row) => [`${row.layer}/${row.head}`, row.gain]));
    const gain = (layer, column) => found.get(`${layer}/${column < heads ? column : -1}`);
    const map = heatMap(root, {
      title: `Gain of each output; colour: its distance from 1, up to ${number(largest)}`, role: "plain",
      rows: d3.range(layers).map((layer) => `L${layer}`), columns: names,
      width: Math.min(root.clientWidth, 120 + 56 * names.length), rowHeight: layers > 16 ? 16 : 24,
    });
    map.colour((layer, column) => (gain(layer, column) ?? null) === null ? null
      : gain(layer, column) - 1, largest);
    map.write((layer, column) => number(gain(layer, column)),
      (layer, column) => inkOn(gain(layer, column) - 1, largest));
    map.details((layer, column) => [column < columns.length ? `Head ${layer}.${column}`
      : `MLP ${layer}`, [["gain", number(gain(layer, column), threeDecimals)]], ""]);
    return rows.length;
  },
});
