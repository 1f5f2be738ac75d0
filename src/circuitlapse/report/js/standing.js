// Downloads of drawings and tables that the page has without a script.
const shareBar = {
  name: "shares", root: document.querySelector("svg.shares"), draw() {}, redrawsOn: [],
  csv: () => data.shares.map(flatRow),
  legend: () => [...document.querySelectorAll(".share-list li")].map((line) =>
    [line.textContent.trim().replace(/\s+/g, " "), getComputedStyle(line.querySelector("rect")).fill]),
};

const calibrationTable = {
  name: "calibration", draw() {}, redrawsOn: [], csv: () => data.calibration.map(flatRow),
};
