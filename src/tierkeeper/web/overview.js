// Reads the page anew while it is looked at, and says so when that fails: a figure must not look younger than it is.
"use strict";
const every = Number(document.body.dataset.seconds) * 1000;
const stale = document.getElementById("stale");
const live = document.getElementById("live");
let heard = performance.now();
let shown = document.querySelector("main").innerHTML;

function tell() {
  const seconds = Math.round((performance.now() - heard) / 1000);
  const late = seconds * 1000 > 2 * every + 5000;
  stale.hidden = !late;
  if (late) {
    const age = seconds < 120 ? `${seconds} seconds` : `${Math.round(seconds / 60)} minutes`;
    stale.textContent = `No answer from tierkeeper for ${age}: what stands below is old. Is it still running?`;
  }
  live.textContent = late ? "not connected" : "read anew by itself";
}

async function read() {
  if (document.hidden) return;
  try {
    const answer = await fetch(location.href, { cache: "no-store", signal: AbortSignal.timeout(every + 10000) });
    if (!answer.ok) throw new Error(String(answer.status));
    const next = new DOMParser().parseFromString(await answer.text(), "text/html");
    const main = next.querySelector("main").innerHTML;
    heard = performance.now();
    if (main !== shown && getSelection().isCollapsed) {
      document.querySelector("main").innerHTML = shown = main;
      document.title = next.title;
    }
    document.getElementById("asof").innerHTML = next.getElementById("asof").innerHTML;
  } catch { /* `tell` says how long it has been */ }
  tell();
}

setInterval(read, every);
setInterval(tell, 1000);
document.addEventListener("visibilitychange", read);
tell();
