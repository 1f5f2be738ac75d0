// One tooltip for the whole page. Its content is built from text nodes only.
const tooltip = d3.select("#tooltip");

function showTooltip(anchor, title, rows, note = "") {
  tooltip.html("").property("hidden", false);
  tooltip.append("p").attr("class", "title").text(title);
  const table = tooltip.append("table").append("tbody");
  for (const [name, value, role] of rows) {
    const row = table.append("tr");
    row.append("th").attr("class", role ? `key-${role}` : null).text(name);
    row.append("td").attr("class", "num").text(value);
  }
  if (note) tooltip.append("p").attr("class", "note").text(note);
  const box = anchor.getBoundingClientRect();
  const own = tooltip.node().getBoundingClientRect();
  const left = Math.min(Math.max(8, box.left + box.width / 2 - own.width / 2),
    document.documentElement.clientWidth - own.width - 8);
  const above = box.top - own.height - 8;
  tooltip.style("left", `${left + scrollX}px`)
    .style("top", `${(above > 4 ? above : box.bottom + 8) + scrollY}px`);
}

function hideTooltip() {
  tooltip.property("hidden", true);
}
