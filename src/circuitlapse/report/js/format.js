// How numbers are written: as in the page's tables, with a real minus sign and a dash for null.
const twoDecimals = d3.format(".2f");
const threeDecimals = d3.format(".3f");

function number(value, format = twoDecimals) {
  return value === null || value === undefined ? "–" : format(value);
}

function interval(triple, format = twoDecimals) {
  if (!triple || triple[0] === null) return "–";
  const [value, low, high] = triple;
  return low === null ? number(value, format)
    : `${number(value, format)} [${number(low, format)}, ${number(high, format)}]`;
}

function percent(fraction) {
  return `${d3.format(".3~g")(100 * fraction)} %`;
}
