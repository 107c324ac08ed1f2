"use strict";

const form = document.querySelector("form");
const result = document.getElementById("result");

function problem(text) {
  const element = document.createElement("p");
  element.className = "problem";
  element.textContent = text;
  return element;
}

// The answer's page is the one that a browser without scripts gets; only its result is put in place here.
async function ask() {
  const response = await fetch(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)) });
  const text = await response.text();
  if (!response.headers.get("Content-Type").startsWith("text/html")) {
    return [problem(JSON.parse(text).error.message)];
  }
  return new DOMParser().parseFromString(text, "text/html").getElementById("result").childNodes;
}

form.addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = form.querySelector("button");
  button.disabled = true;
  try {
    result.replaceChildren(...(await ask()));
  } catch (error) {
    result.replaceChildren(problem(`The server can't be reached: ${error.message}`));
  } finally {
    button.disabled = false;
  }
});
