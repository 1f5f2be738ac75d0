// One tooltip for the whole page. Its content is built from text nodes only.
const tooltip = d3.select("#tooltip");

// It stands above its anchor, or below another element that it must not cover.
function showTooltip(anchor, title, rows, note = "", below = null) {
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
  let top = box.top - own.height - 8;
  if (below) {
    const room = document.documentElement.clientHeight - own.height - 8;
    top = Math.max(box.bottom + 8, Math.min(below.getBoundingClientRect().bottom + 4, room));
  } else if (top < 4) top = box.bottom + 8;
  const origin = document.body.getBoundingClientRect();
  tooltip.style("left", `${left - origin.left}px`).style("top", `${top - origin.top}px`);
}

function hideTooltip() {
  tooltip.property("hidden", true);
}
