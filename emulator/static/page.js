"use strict";
// The page works without this: it keeps itself up to date, and shows a test's checks while they are made.

const live = document.getElementById("live");
if (live) {
  setInterval(async () => {
    if (document.hidden || live.contains(document.activeElement)) return;
    try {
      const answer = await fetch("/", { cache: "no-store" });
      const page = new DOMParser().parseFromString(await answer.text(), "text/html");
      const fresh = page.getElementById("live");
      if (answer.ok && fresh) live.replaceChildren(...fresh.childNodes);
    } catch {
      // The emulator is being started again: what was read last stays.
    }
  }, 3000);
}

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
if (form) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const checks = document.getElementById("checks");
    const verdict = document.getElementById("verdict");
    checks.replaceChildren();
    verdict.textContent = "Testing …";
    const answer = await fetch(form.action, {
      method: "POST",
      body: new URLSearchParams(new FormData(form)),
      headers: { Accept: "application/x-ndjson" },
    });
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
  });
}
