"use strict";
for (const box of document.querySelectorAll(".case")) {
  const slice = box.querySelector(".slice");
  const slider = box.querySelector("input[type=range]");
  const numbers = slice.dataset.numbers.split(",");
  const columns = Number(slice.dataset.columns);
  const rows = Math.ceil(numbers.length / columns);
  const share = (place, count) => (count > 1 ? (100 * place) / (count - 1) + "%" : "0%");
  if (slider) {
    const show = () => {
      const place = Number(slider.value);
      const said = numbers[place] + " of " + slice.dataset.depth;
      slice.style.setProperty("--x", share(place % columns, columns));
      slice.style.setProperty("--y", share(Math.floor(place / columns), rows));
      slice.setAttribute("aria-label", slice.dataset.name + ", slice " + said);
      slider.setAttribute("aria-valuetext", "slice " + said);
      box.querySelector("output").textContent = said;
    };
    slider.addEventListener("input", show);
    slice.addEventListener("wheel", (event) => {
      if (!event.shiftKey) return;
      event.preventDefault();
      slider.value = Number(slider.value) + Math.sign(event.deltaY || event.deltaX);
      show();
    }, { passive: false });
    show();
  }
  const boxes = box.querySelectorAll("input[type=checkbox]");
  const chosen = box.querySelector("select");
  const cover = () => {
    for (const check of boxes) {
      for (const layer of box.querySelectorAll('.layer[data-kind="' + check.value + '"]')) {
        const other = check.value === "answer" && chosen && layer.dataset.number !== chosen.value;
        layer.hidden = !check.checked || other;
      }
    }
  };
  for (const one of [...boxes, ...(chosen ? [chosen] : [])]) one.addEventListener("change", cover);
  cover();
}

const button = document.getElementById("theme");
const root = document.documentElement;
const prefers = matchMedia("(prefers-color-scheme: dark)");
const isDark = () => (root.dataset.theme || (prefers.matches ? "dark" : "light")) === "dark";
const label = () => {
  button.setAttribute("aria-pressed", String(isDark()));
  button.textContent = isDark() ? "Light" : "Dark";
};
button.addEventListener("click", () => {
  root.dataset.theme = isDark() ? "light" : "dark";
  label();
});
prefers.addEventListener("change", label);
label();
