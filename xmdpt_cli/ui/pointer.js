// The skeleton editor's mouse, finger and keyboard; see skeleton.js.
const REACH = 11, LIMB_REACH = 5; // of a pointer, in units of the viewBox
const DOUBLE_TAP = 350; // milliseconds
const STEP = 0.01, LARGE_STEP = 0.05; // per press of an arrow key, in fractions of the frame

// The place of an event or a touch, in fractions of the frame.
function placeOf(event) {
  const toFrame = svg.getScreenCTM().inverse(); // also where the frame has borders, when enlarged
  const point = new DOMPoint(event.clientX, event.clientY).matrixTransform(toFrame);
  return [point.x / box.width, point.y / box.height];
}

// The nearest joint within reach, else -1.
function jointAt([x, y]) {
  const far = places.map(([a, b]) => Math.hypot((a - x) * box.width, (b - y) * box.height));
  const best = far.indexOf(Math.min(...far));
  return far[best] <= REACH ? best : -1;
}

function isOnLimb([x, y]) {
  const px = x * box.width, py = y * box.height;
  return limbs.some(([a, b]) => {
    if (!present[a] || !present[b]) return false;
    const [ax, ay] = [places[a][0] * box.width, places[a][1] * box.height];
    const [dx, dy] = [places[b][0] * box.width - ax, places[b][1] * box.height - ay];
    const along = clamp(((px - ax) * dx + (py - ay) * dy) / (dx * dx + dy * dy || 1));
    return Math.hypot(ax + along * dx - px, ay + along * dy - py) <= LIMB_REACH;
  });
}

// The drag in progress: {joint, offset} of a joint, with the offset from the pointer to its middle,
// so that it does not jump; {from, initial} of the whole figure, by a limb.
let drag = null;
svg.addEventListener("pointerdown", (event) => {
  const place = placeOf(event);
  const joint = event.button === 0 ? jointAt(place) : -1;
  choose(joint);
  if (joint >= 0) {
    drag = { joint, offset: [places[joint][0] - place[0], places[joint][1] - place[1]] };
    groups[joint].focus({ preventScroll: true });
  } else if (event.button === 0 && isOnLimb(place)) {
    drag = { from: place, initial: places.map((place) => [...place]) };
    svg.focus({ preventScroll: true });
  } else return;
  event.preventDefault();
  svg.setPointerCapture(event.pointerId);
});
svg.addEventListener("pointermove", (event) => {
  if (!drag) return;
  const [x, y] = placeOf(event);
  if (drag.offset) moveJoint(drag.joint, x + drag.offset[0], y + drag.offset[1]);
  else moveFigure(drag.initial, x - drag.from[0], y - drag.from[1]);
});
for (const end of ["pointerup", "pointercancel"])
  svg.addEventListener(end, () => {
    if (!drag) return;
    commit();
    drag = null;
    postponed.splice(0).forEach(receive);
  });
svg.addEventListener("dblclick", (event) => {
  const joint = jointAt(placeOf(event));
  if (joint >= 0) toggle(joint);
});
// A finger on the figure drags, beside it it scrolls the page. Preventing the scroll also prevents
// the browser from making a double click of two taps.
let tapped = { joint: -1, at: 0 };
svg.addEventListener(
  "touchstart",
  (event) => {
    const place = placeOf(event.touches[0]);
    const joint = jointAt(place);
    if (joint < 0 && !isOnLimb(place)) return;
    event.preventDefault();
    const twice = joint >= 0 && joint === tapped.joint && event.timeStamp - tapped.at < DOUBLE_TAP;
    tapped = twice ? { joint: -1, at: 0 } : { joint, at: event.timeStamp };
    if (twice) toggle(joint);
  },
  { passive: false }
);

groups.forEach((group, i) => {
  group.addEventListener("focus", () => choose(i));
  group.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey) return;
    const by = event.shiftKey ? LARGE_STEP : STEP;
    const arrows = { ArrowLeft: [-by, 0], ArrowRight: [by, 0], ArrowUp: [0, -by], ArrowDown: [0, by] };
    const step = arrows[event.key];
    if (step) {
      moveJoint(i, places[i][0] + step[0], places[i][1] + step[1]);
      commit();
    } else if ([" ", "Enter", "Delete"].includes(event.key)) toggle(i);
    else return;
    event.preventDefault();
  });
});
root.addEventListener("keydown", (event) => {
  if (event.key === "Escape") enlarge(false);
  if (!(event.ctrlKey || event.metaKey) || event.altKey) return;
  const key = event.key.toLowerCase();
  if (key === "z") event.shiftKey ? redo() : undo();
  else if (key === "y") redo();
  else return;
  event.preventDefault();
});
