"use strict";
// The page works without this: it keeps itself up to date, and shows a test's checks while they are made.

// What is the same stays as it is: a screen reader tells only what is new.
function renew(part, fresh) {
  const old = [...part.children];
  for (const node of [...fresh.children]) {
    const same = old.findIndex((each) => each.isEqualNode(node));
    if (same < 0) part.insertBefore(node, old[0] ?? null);
    else old.splice(0, same + 1).slice(0, -1).forEach((each) => each.remove());
  }
  old.forEach((each) => each.remove());
}

const live = document.getElementById("live");

async function refresh() {
  if (!document.hidden && !live.contains(document.activeElement)) {
    try {
      const answer = await fetch("/", { cache: "no-store", signal: AbortSignal.timeout(30000) });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      for (const part of answer.ok ? live.querySelectorAll("[data-part]") : []) {
        renew(part, page.querySelector(`[data-part="${part.dataset.part}"]`));
      }
    } catch {
      // The emulator is being started again: what was read last stays.
    }
  }
  setTimeout(refresh, 3000);
}
if (live) setTimeout(refresh, 3000);

function shown(check) {
  const line = document.createElement("li");
  const part = (tag, text) => {
    const node = document.createElement(tag);
    node.textContent = text;
    line.append(node, " ");
  };
  line.className = check.outcome;
  part("b", check.outcome);
  line.append(check.name + " ");
  part("span", check.milliseconds + " ms");
  part("p", check.detail);
  if (check.remedy) part("p", "→ " + check.remedy);
  return line;
}

function judged(told) {
  if (!told.ok) return "Something does not work.";
  const warned = told.checks.some((check) => check.outcome === "warning");
  return warned ? "It works, with a warning." : "Everything works.";
}

const form = document.querySelector("form[data-live]");
const checks = document.getElementById("checks");
const verdict = document.getElementById("verdict");

async function test() {
  const answer = await fetch(form.action, {
    method: "POST",
    body: new URLSearchParams(new FormData(form)),
    headers: { Accept: "application/x-ndjson" },
  });
  if (!answer.ok) {
    const { detail, remedy } = await answer.json();
    verdict.textContent = remedy ? `${detail} ${remedy}` : detail;
    return;
  }
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    text += value;
    const lines = text.split("\n");
    text = lines.pop();
    for (const line of lines) {
      const told = JSON.parse(line);
      if ("ok" in told && "checks" in told) verdict.textContent = judged(told);
      else if (told.detail && !told.name) verdict.textContent = told.detail;
      else checks.append(shown(told));
    }
  }
}

if (form) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    checks.replaceChildren();
    verdict.textContent = "Testing …";
    try {
      await test();
    } catch {
      verdict.textContent = "The emulator does not answer: is it being started again?";
    }
  });
}
