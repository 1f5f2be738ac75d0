// What carries the new ability: each measure by set of heads, with random groups.
const carriersChart = evidenceChart("carriers", {
  draw(root, all) {
    const reported = all.filter((row) => row.value[0] !== null);
    const rows = mine(reported);
    if (!rows.length) return false;
    const label = (row) => [row.measure, row.heads].filter(Boolean).join(", ").replaceAll("_", " ");
    rangeChart(root, {
      labelWidth: 250,
      label: "What carries the new ability; the table below has the numbers",
      lineHeight: 22,
      rows: rows.map((row) => ({ label: label(row) })),
      panels: [{
        title: "value",
        domain: fixedDomain(reported.flatMap((row) => [row.value, row.null])),
        cells: rows.map((row) => ({
          value: row.value, colour: "new", null: [null, ...row.null],
          details: [["value", interval(row.value)], ["heads", row.names || "all"],
            ["random groups", `${row.n_random}: ${row.null.map((end) => number(end)).join(" to ")}`]],
        })),
      }],
    });
    return true;
  },
});
