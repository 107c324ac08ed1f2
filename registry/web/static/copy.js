"use strict";
// Copying needs a secure context; without one, or without this script, a click selects the whole command.
if (navigator.clipboard) {
  for (const button of document.querySelectorAll("button.copy")) {
    const text = button.parentElement.querySelector("code").textContent;
    const label = button.firstChild;
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(text);
      label.data = "Copied";
      setTimeout(() => { label.data = "Copy"; }, 1500);
    });
  }
}
