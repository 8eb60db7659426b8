// What gradio's page does not do by itself.

// Keys that move a slider count once they are released, as a pointer does. Enter in a number beside it leaves the number.
const MOVING = ["ArrowLeft", "ArrowRight", "ArrowUp", "ArrowDown", "Home", "End", "PageUp", "PageDown"];
document.addEventListener("keyup", (event) => {
  if (event.target.type === "range" && MOVING.includes(event.key))
    event.target.dispatchEvent(new PointerEvent("pointerup", { bubbles: true }));
});
document.addEventListener("keydown", (event) => {
  if (event.target.type === "number" && event.key === "Enter") event.target.blur();
});

// The line between before and after follows the arrow keys.
const moveLine = (compare, step) => {
  const line = compare.querySelector("[data-testid=slider]");
  const box = line.getBoundingClientRect();
  const from = { clientX: box.x + box.width / 2, clientY: box.y + box.height / 2 };
  const to = { ...from, clientX: from.clientX + step };
  const options = { bubbles: true, cancelable: true, view: window };
  line.dispatchEvent(new MouseEvent("mousedown", { ...options, ...from }));
  window.dispatchEvent(new MouseEvent("mousemove", { ...options, ...to }));
  window.dispatchEvent(new MouseEvent("mouseup", { ...options, ...to }));
};
document.addEventListener("keydown", (event) => {
  const line = event.target.closest?.("#compare [data-testid=slider]");
  const steps = { ArrowLeft: -1, ArrowRight: 1, Home: -1000, End: 1000 };
  if (!line || !(event.key in steps)) return;
  event.preventDefault();
  moveLine(document.querySelector("#compare"), (steps[event.key] * line.parentElement.clientWidth) / 20);
});

// What screen readers say of pictures.
const describe = (selector, texts) =>
  document.querySelectorAll(selector).forEach((element, index) => {
    const text = texts[Math.min(index, texts.length - 1)];
    if (element.alt !== text) element.alt = text;
  });
const label = () => {
  describe("#compare img", ["Before the edit", "After the edit"]);
  describe("#photo img", ["The photo, with a box around each face; what the model sees is bright"]);
  describe("[id^=place-] img", ["The photo, with a box around each face; what the model sees is bright"]);
  describe("#strip img", ["Images from the first photo to the last"]);
  describe("#moving img", ["The images one after another"]);
  describe("#combined img", ["The images combined with their weights"]);
  document.querySelectorAll(".line textarea").forEach((box) => box.setAttribute("aria-label", "Command line"));
  document.querySelectorAll("#compare [data-testid=slider]").forEach((line) => {
    if (line.tabIndex === 0) return;
    line.tabIndex = 0;
    line.setAttribute("role", "group");
    line.setAttribute("aria-label", "Line between before and after; the arrow keys move it");
  });
};

// While a new result is computed, the old one is grey and cannot be saved.
const mark = () => {
  label();
  document.querySelectorAll(".result").forEach((result) => {
    const trackers = [...result.querySelectorAll("[data-testid=status-tracker]")];
    const busy = trackers.some((each) => !each.classList.contains("hide") && !each.querySelector(".error"));
    if (result.classList.contains("busy") === busy) return;
    result.classList.toggle("busy", busy);
    result.setAttribute("aria-busy", busy);
    result.querySelectorAll(".files").forEach((files) => {
      files.inert = busy;
      files.setAttribute("aria-disabled", busy);
    });
  });
};
// gradio may add this script before or after the page is complete.
new MutationObserver(mark).observe(document.documentElement, {
  subtree: true,
  childList: true,
  attributes: true,
  attributeFilter: ["class", "src"],
});
