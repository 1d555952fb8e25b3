// Where the words of lines stand: in the middle, and where two would stand on each other, one of them nearer to an end.

const SIZE_PX = 10.5;
const HEIGHT_PX = 15;
const ROOM_PX = 8;
//: how far along a line its words may stand, the best first: the middle, towards the end, towards the beginning
const PLACES = [0, 0.5, -0.5, 0.7, -0.7];

const measure = document.createElement("canvas").getContext("2d");

// A point of a line that may bend: between its middle and one of its ends.
function along(edge, place) {
  const middle = edge.midpoint();
  const end = place < 0 ? edge.sourceEndpoint() : edge.targetEndpoint();
  const share = Math.abs(place);
  return { x: middle.x + (end.x - middle.x) * share, y: middle.y + (end.y - middle.y) * share, way: Math.hypot(end.x - middle.x, end.y - middle.y) };
}

const overlap = (a, b) => Math.abs(a.x - b.x) < (a.width + b.width) / 2 && Math.abs(a.y - b.y) < (a.height + b.height) / 2;

// Gives each line `stands`: where its words stand (mid, source, target), and `off`, how far from that end.
export function placeLabels(cy) {
  measure.font = `${SIZE_PX}px system-ui, sans-serif`;
  const taken = cy.nodes().map((each) => ({ ...each.position(), width: each.data("width"), height: each.data("height") }));
  const edges = cy.edges().filter((each) => each.data("words")).sort((a, b) => b.data("calls") - a.data("calls"));
  cy.batch(() => {
    edges.forEach((edge) => {
      const width = measure.measureText(edge.data("words")).width + ROOM_PX;
      const boxes = PLACES.map((place) => ({ place, width, height: HEIGHT_PX, ...along(edge, place) }));
      const free = boxes.find((box) => Number.isFinite(box.x) && !taken.some((each) => overlap(box, each))) ?? boxes[0];
      taken.push(free);
      const stands = free.place === 0 ? "mid" : free.place > 0 ? "target" : "source";
      edge.data({ stands, off: Math.round(free.way * (1 - Math.abs(free.place))) });
    });
  });
}
