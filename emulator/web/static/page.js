"use strict";
// The page works without this script. The script refreshes the page, updates times, and draws charts.

// Times: relative, with the exact time on hover.
function lasts(seconds) {
  const whole = Math.round(seconds);
  if (whole < 120) return `${whole} s`;
  const minutes = Math.floor(whole / 60), hours = Math.floor(whole / 3600), days = Math.floor(whole / 86400);
  if (minutes < 120) return `${minutes} min`;
  if (hours < 48) return `${hours} h` + (hours < 6 && minutes % 60 ? ` ${minutes % 60} min` : "");
  return `${days} days`;
}

let skew = 0; // The server's clock minus this machine's: times on the page are the server's.
function ago(at) {
  const past = (Date.now() + skew - at) / 1000;
  if (Math.abs(past) < 1) return "just now";
  return past > 0 ? `${lasts(past)} ago` : `in ${lasts(-past)}`;
}
function tick(root) {
  for (const time of root.querySelectorAll("time[datetime]")) {
    if (time.closest(".log")) continue;
    const at = Date.parse(time.dateTime);
    const text = "lasts" in time.dataset ? lasts(Math.max(0, (Date.now() + skew - at) / 1000)) : ago(at);
    if (time.textContent !== text) time.textContent = text;
  }
}

// Unchanged nodes stay in place: a screen reader reads only new text, and open details stay open.
function renew(part, html) {
  const fresh = document.createElement("template");
  fresh.innerHTML = html;
  tick(fresh.content);
  const here = document.activeElement, mark = part.contains(here) ? markOf(here) : null;
  const old = [...part.children];
  for (const node of [...fresh.content.children]) {
    const same = old.findIndex((child) => alike(child, node));
    if (same < 0) part.insertBefore(node, old[0] ?? null);
    else old.splice(0, same + 1).slice(0, -1).forEach((child) => child.remove());
  }
  old.forEach((child) => child.remove());
  if (mark && !document.contains(here)) [...part.querySelectorAll(here.tagName)].find((link) => markOf(link) === mark)?.focus();
}
function alike(old, node) {
  if (old.isEqualNode(node)) return true;
  if (!old.querySelector("details[open]") && !old.matches("details[open]")) return false;
  const closed = old.cloneNode(true);
  for (const details of [closed, ...closed.querySelectorAll("details")]) details.open = false;
  const other = node.cloneNode(true);
  for (const details of [other, ...other.querySelectorAll("details")]) details.open = false;
  return closed.outerHTML === other.outerHTML;
}
function markOf(node) {
  return node.dataset.k || node.getAttribute("href") || node.id || node.textContent;
}

// Refresh: fetch only what has changed, and nothing in a hidden tab.
const view = document.body.dataset.live, stale = document.getElementById("stale");
const [said, ticket] = stale.children;
let etag = "", answeredAt = Date.now(), wait = 3, timer = 0, asking = false, failed = "";

// The same text is not set again: a screen reader would repeat it.
function judge() {
  const silent = (Date.now() - answeredAt) / 1000;
  const old = failed || (silent > 5 * wait + 25 && !document.hidden);
  stale.hidden = !old;
  document.body.classList.toggle("is-stale", Boolean(old));
  const text = old ? `✖ The connector has not answered since ${utc(answeredAt + skew)}. What you see below is from then.` : "";
  if (said.textContent !== text) {
    said.textContent = text;
    ticket.textContent = "Copy as text for a ticket";
  }
}
const utc = (at) => new Date(at).toISOString().slice(11, 19) + " UTC";
const line = (node) => [...node.childNodes].map((child) => child.textContent.trim().replace(/\s+/g, " ")).filter(Boolean).join(" · ");
async function copied(button, text) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch { // There is no clipboard API without TLS: select the text for a manual copy.
    const area = button.parentNode.querySelector("textarea") ?? document.createElement("textarea");
    area.value = text;
    area.rows = 6;
    area.setAttribute("aria-label", "As text for a ticket");
    button.after(area);
    area.select();
  }
}
const heading = (title) => [title, `connector ${document.getElementById("version").textContent} at ${location.href}`, `written ${new Date().toISOString()}`];
ticket.addEventListener("click", () => copied(ticket, [
  ...heading("The connector does not answer"), `last answer ${new Date(answeredAt + skew).toISOString()}`, `what the browser says: ${failed || "no answer"}`, "", "What it said last:",
  ...[...document.querySelectorAll(".pill, .reason")].map(line)].join("\n")));

async function ask() {
  clearTimeout(timer);
  if (asking || document.hidden) return;
  asking = true;
  try {
    const headers = etag ? { "If-None-Match": etag } : {};
    const answer = await fetch(`/live?view=${encodeURIComponent(view)}`, { headers, cache: "no-store", signal: AbortSignal.timeout(20000) });
    if (answer.status === 200) {
      const page = await answer.json();
      etag = answer.headers.get("ETag");
      wait = page.wait;
      for (const part of document.querySelectorAll("[data-part]")) {
        if (part.dataset.part in page.parts) renew(part, page.parts[part.dataset.part]);
      }
      const updated = document.getElementById("updated");
      if (updated) Object.assign(updated, { dateTime: page.at, title: `${page.at.slice(0, 10)} ${page.at.slice(11, 19)} UTC` });
    } else if (answer.status !== 304) throw new Error(`HTTP status ${answer.status}`);
    const date = Date.parse(answer.headers.get("Date"));
    if (Math.abs(date - Date.now()) > 5000) skew = date - Date.now();
    answeredAt = Date.now();
    failed = "";
  } catch (error) {
    failed = error.message;
  }
  asking = false;
  judge();
  tick(document);
  timer = setTimeout(ask, (failed || document.querySelector("[data-under-way]") ? 1 : wait) * 1000);
}
if (view) {
  timer = setTimeout(ask, 1000);
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) clearTimeout(timer);
    else ask();
  });
  setInterval(() => { if (!document.hidden) { judge(); tick(document); } }, 1000);
}
tick(document);

// Charts.
const box = document.getElementById("chart");
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
function bytes(value) {
  for (const unit of ["B", "KiB", "MiB", "GiB"]) {
    if (value < 1024 || unit === "GiB") return `${unit === "B" ? Math.round(value) : value.toFixed(1)} ${unit}`;
    value /= 1024;
  }
}
const plain = (value) => value.toLocaleString("en", { maximumFractionDigits: 1 }).replaceAll(",", "\u202f");
const PLOTS = [
  { title: "Events a minute", unit: plain, height: 200, least: 5, lines: [["fetched", "Fetched", "--bar", true], ["acked", "Acknowledged", "--bar2"]] },
  { title: "Highest lag", unit: lasts, height: 110, least: 60, steps: [10, 30, 60, 300, 600, 1800, 3600, 7200, 14400, 43200, 86400], lines: [["lag", "Lag", "--warn", true]] },
  { title: "Waiting to be delivered", unit: bytes, height: 110, least: 1024, steps: [...Array(32).keys()].map((power) => 2 ** (power + 8)), lines: [["waiting", "Waiting", "--bar", true]] },
  { title: "Calls a minute", unit: plain, height: 110, least: 10, lines: [["calls", "used", "--bar2", true], ["budget", "steady limit", "--bad"]] },
];

// Gaps and outages as bands, restarts as lines; below them the health, the worse the higher.
const HEALTH = { ok: ["--good", 3, "well"], attention: ["--warn", 5, "needs attention"], failing: ["--bad", 8, "failing"] };
const healthAt = (health, at) => HEALTH[health.find(([from, to]) => from <= at && at < to)?.[2]]?.[2];
function marked(marks, health) {
  return { hooks: { draw: [(u) => {
    const { ctx, bbox } = u;
    ctx.save();
    ctx.beginPath();
    ctx.rect(bbox.left, bbox.top, bbox.width, bbox.height);
    ctx.clip();
    for (const mark of marks) {
      const left = u.valToPos(mark.from, "x", true), right = Math.max(left + 2, u.valToPos(mark.to, "x", true));
      ctx.globalAlpha = mark.kind === "gap" || mark.kind === "outage" ? 0.22 : 0.8;
      ctx.fillStyle = css({ gap: "--bad", outage: "--warn", late: "--good", restart: "--dim" }[mark.kind]);
      ctx.fillRect(left, bbox.top, right - left, bbox.height);
      if (mark.kind === "gap") ctx.fillRect(left, bbox.top, right - left, 6);
    }
    ctx.restore();
    const [first, last] = [bbox.left, bbox.left + bbox.width];
    for (const [from, to, name] of health) {
      const left = Math.max(first, u.valToPos(from, "x", true)), right = Math.min(last, u.valToPos(to, "x", true));
      ctx.fillStyle = css(HEALTH[name][0]);
      if (right > left) ctx.fillRect(left, bbox.top + bbox.height + 1, right - left, HEALTH[name][1] * devicePixelRatio);
    }
  }] } };
}

// The words for the strip: its colours and heights alone would not tell.
function strip() {
  const legend = document.createElement("p");
  legend.className = "strip";
  legend.append("Health:");
  for (const [name, [, , word]] of Object.entries(HEALTH)) {
    const key = document.createElement("span");
    key.className = name;
    key.append(document.createElement("i"), word);
    legend.append(" ", key);
  }
  legend.append(" empty: not known");
  return legend;
}

function draw(chart) {
  const plots = document.createElement("div");
  plots.className = "plots";
  const width = box.clientWidth, wide = matchMedia("(min-width:60.01rem)").matches;
  // The current bucket is incomplete: scale it to a full one, so that the line does not fall at its end.
  const step = chart.t[1] - chart.t[0], last = chart.t.length - 1, lasted = (Date.now() + skew) / 1000 - chart.t[last];
  for (const key of ["fetched", "acked"]) {
    if (step > 60 && lasted > 60 && lasted < step) chart[key][last] *= step / lasted;
    else if (lasted < step && (chart[key][last - 1] ?? null) !== null) chart[key][last] = null;
  }
  // Cut off the time before the first data, but draw at least ten buckets.
  const columns = ["t", "fetched", "acked", "lag", "waiting", "calls"], firstKnown = chart.fetched.findIndex((value) => value !== null);
  const first = Math.min(firstKnown < 0 ? 0 : firstKnown, chart.t.length - 10);
  for (const key of columns) chart[key] = chart[key].slice(Math.max(0, first));
  // A step needs an end: the last bucket that is shown lasts until the next one.
  const shown = chart.t.length - (chart.fetched.at(-1) === null ? 2 : 1);
  chart.t[shown + 1] = chart.t[shown] + step;
  for (const key of columns.slice(1)) chart[key][shown + 1] = key === "fetched" || key === "acked" ? chart[key][shown] : chart[key][shown + 1] ?? null;
  if (chart.budget) chart.budget = chart.t.map(() => chart.budget);
  if (!columns.slice(1, 5).some((key) => chart[key].some(Boolean))) {
    plots.className = "dim";
    plots.append("The charts begin with the first events.");
  } else for (const [place, plot] of PLOTS.entries()) {
    const lines = plot.lines.filter(([key]) => chart[key] && chart[key].some((value) => value !== null));
    if (!lines.length || lines[0] !== plot.lines[0]) continue;
    const cell = document.createElement("div");
    cell.className = "plot";
    const title = document.createElement("h3"), legend = document.createElement("p");
    title.textContent = plot.title;
    cell.append(title, legend);
    const keys = lines.map(([, label, colour]) => {
      const key = document.createElement("span");
      key.style.color = css(colour);
      legend.append(key, " ");
      return (value) => { key.textContent = `■ ${label} ` + (value === undefined || value === null ? "" : plot.unit(value)); };
    });
    const when = document.createElement("span");
    legend.append(when);
    const showValues = (u) => {
      const at = !place && u.cursor.idx > shown ? shown : u.cursor.idx;
      keys.forEach((key, index) => key(at === null || at === undefined ? null : u.data[index + 1][at]));
      if (at === null || at === undefined) when.textContent = "";
      else {
        const health = place ? "" : healthAt(chart.health, u.data[0][at]);
        when.textContent = new Date(u.data[0][at] * 1000).toISOString().slice(0, 16).replace("T", " ") + " UTC" + (health ? ` · health: ${health}` : "");
      }
    };
    keys.forEach((key) => key(null));
    plots.append(cell);
    const axis = { stroke: css("--dim"), grid: { stroke: css("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
    new uPlot({
      width: place && wide ? (width - 32) / 3 : width, height: plot.height,
      plugins: [marked(chart.marks, place ? [] : chart.health), { hooks: { setCursor: [showValues] } }],
      legend: { show: false },
      cursor: { sync: { key: "all" }, y: false },
      scales: { y: { range: (_, __, most) => [0, Math.max(plot.least, most * 1.1)] } },
      axes: [{ ...axis, size: 32, gap: 10, space: place ? 55 : 70, values: (_, splits, __, ___, step) => splits.map((at) => clock(at, step)) }, { ...axis, size: place ? 58 : 50, space: 28, ...(plot.steps && { incrs: plot.steps }), values: (_, splits) => splits.map((at) => plot.unit(at).replace(".0 ", " ")) }],
      // A value between two missing ones is drawn as a point: a line needs two values.
      series: [{}, ...lines.map(([key, label, colour, fill]) => ({ label, stroke: css(colour), width: 1.5, fill: fill ? css(colour) + "26" : undefined,
        ...(place ? {} : { paths: uPlot.paths.stepped({ align: 1 }) }),
        points: { size: 5, filter: () => chart[key].flatMap((value, at, all) => value !== null && (all[at - 1] ?? null) === null && (all[at + 1] ?? null) === null ? [at] : []), show: true } }))],
    }, [chart.t, ...lines.map(([key]) => chart[key])], cell);
    if (!place && chart.health.some(([from, to]) => from < chart.t.at(-1) && to > chart.t[0])) cell.append(strip());
  }
  if (plots.className === "plots") {
    plots.setAttribute("role", "img");
    plots.setAttribute("aria-label", "Charts of the events, the lag, the bytes that wait, and the calls; the table below holds the figures.");
  }
  box.replaceChildren(plots);
  renew(document.getElementById("rows"), chart.rows);
  renew(document.getElementById("happened"), chart.happened);
}
// Axes are in UTC, as all other times on the page.
function clock(at, step) {
  const time = new Date(at * 1000), text = time.toISOString().slice(11, 16);
  return step >= 86400 || text === "00:00" ? time.toLocaleDateString("en-GB", { day: "numeric", month: "short", timeZone: "UTC" }) : text;
}
let drawn = "", charted = 0;
async function chart() {
  if (!box || !window.uPlot || document.hidden) return;
  const query = `range=${box.dataset.range}${box.dataset.query ? "&" + box.dataset.query : ""}`;
  try {
    const answer = await fetch(`/chart.json?${query}`, { cache: "no-store", signal: AbortSignal.timeout(20000) });
    const text = await answer.text();
    if (answer.ok && text !== drawn) {
      drawn = text;
      draw(JSON.parse(text));
    }
    charted = Date.now();
  } catch {
    // The last chart stays; the banner says that it is old.
  }
}
if (box) {
  addEventListener("load", chart);
  setInterval(() => { if (Date.now() - charted > 15000) chart(); }, 5000);
  const again = () => { if (drawn) draw(JSON.parse(drawn)); };
  matchMedia("(prefers-color-scheme:dark)").addEventListener("change", again);
  let width = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; again(); } });
}

// The checks of a connection test as they end, and as text for a ticket.
const form = document.querySelector("form[data-live]");
const checks = document.getElementById("checks"), verdict = document.getElementById("verdict"), copy = document.getElementById("copy");

function shown(check) {
  const line = document.createElement("li");
  const part = (tag, text) => {
    const node = document.createElement(tag);
    node.textContent = text;
    line.append(node, " ");
  };
  line.className = check.outcome;
  part("b", check.outcome);
  line.append(check.title + " ");
  if (check.outcome !== "skipped") part("span", check.milliseconds + " ms");
  part("p", check.detail);
  if (check.remedy) part("p", "→ " + check.remedy);
  return line;
}
function say(text, kind) {
  verdict.textContent = text;
  verdict.className = `note ${kind}`;
  verdict.hidden = false;
}
function judged(report) {
  const warned = report.checks.some((check) => check.outcome === "warning");
  say(report.verdict, !report.ok ? "failing" : warned ? "attention" : "ok");
}
async function test() {
  const answer = await fetch(form.action, { method: "POST", body: new URLSearchParams(new FormData(form)), headers: { Accept: "application/x-ndjson" } });
  if (!answer.ok) {
    const { detail, remedy } = await answer.json();
    return say(remedy ? `${detail} ${remedy}` : detail, "failing");
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
      const entry = JSON.parse(line);
      if ("ok" in entry && "checks" in entry) judged(entry);
      else if (entry.detail && !entry.name) say(entry.detail, "failing");
      else checks.append(shown(entry));
    }
  }
}
if (form) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    checks.replaceChildren();
    say("Testing …", "waiting");
    try {
      await test();
    } catch {
      say("The connector does not answer: is it being started again?", "failing");
    }
    copy.textContent = "Copy as text for a ticket";
    copy.hidden = false;
  });
  copy.addEventListener("click", () => copied(copy, [
    ...heading(document.querySelector("h1").textContent), "", verdict.textContent, ...[...checks.children].map(line)].join("\n")));
  copy.hidden = !checks.children.length;
}
