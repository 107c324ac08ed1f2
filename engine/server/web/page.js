"use strict";

const form = document.querySelector("form");
const result = document.getElementById("result");

function paragraph(text, kind) {
  const element = document.createElement("p");
  element.textContent = text;
  if (kind) element.className = kind;
  return element;
}

// Offsets count Unicode characters, JavaScript strings count UTF-16 units.
function marked(context, start, end) {
  const characters = Array.from(context);
  const element = paragraph(characters.slice(0, start).join(""), "context");
  const mark = document.createElement("mark");
  mark.textContent = characters.slice(start, end).join("");
  element.append(mark, characters.slice(end).join(""));
  return element;
}

function shown(answer, fields) {
  if ("answer" in answer && "context" in fields) {
    const score = paragraph(`score ${answer.score.toFixed(3)}`);
    return [paragraph(answer.answer || "no answer", "answer"), score, marked(fields.context, answer.start, answer.end)];
  }
  const element = document.createElement("pre");
  element.textContent = JSON.stringify(answer, null, 1).slice(0, 20000);
  return [element];
}

async function ask(fields) {
  const response = await fetch(`/predict/${form.dataset.model}`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify(fields),
  });
  const answer = await response.json();
  if (!response.ok) return [paragraph(answer.error.message, "problem")];
  return shown(answer, fields);
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const { model, ...fields } = Object.fromEntries(new FormData(form));
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    result.replaceChildren(...(await ask(fields)));
  } catch (error) {
    result.replaceChildren(paragraph(`The server can't be reached: ${error.message}`, "problem"));
  } finally {
    button.disabled = false;
  }
});
