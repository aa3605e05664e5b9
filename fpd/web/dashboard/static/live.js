// Keeps the page up to date without flicker: fetches its changing part and alters only what differs,
// so a selection, the focus and the scroll position stay.
"use strict";

const live = document.getElementById("live");
const silence = document.getElementById("silence");
const everyMs = Number(live.dataset.everyS) * 1000;
let heardAt = new Date();
let timer = 0;

function alter(old, fresh) {
  if (old.nodeType !== fresh.nodeType || old.nodeName !== fresh.nodeName) {
    old.replaceWith(fresh);
    return;
  }
  if (old.nodeType !== Node.ELEMENT_NODE) {
    if (old.nodeValue !== fresh.nodeValue) old.nodeValue = fresh.nodeValue;
    return;
  }
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  }
  alterChildren(old, fresh);
}

function alterChildren(old, fresh) {
  const before = [...old.childNodes];
  const after = [...fresh.childNodes];
  after.forEach((node, i) => (i < before.length ? alter(before[i], node) : old.append(node)));
  before.slice(after.length).forEach((node) => node.remove());
}

async function refresh() {
  clearTimeout(timer);
  try {
    const answer = await fetch(live.dataset.from, {
      cache: "no-store",
      signal: AbortSignal.timeout(10000),
    });
    if (answer.status === 401 || answer.status === 403) return location.reload();
    if (!answer.ok) throw new Error(answer.statusText);
    show(await answer.text());
  } catch {
    silence.querySelector("span").textContent = heardAt.toISOString().slice(11, 19) + " UTC";
    silence.hidden = false;
  }
  if (!document.hidden) timer = setTimeout(refresh, everyMs);
}

function show(text) {
  const fresh = new DOMParser().parseFromString(`<div>${text}</div>`, "text/html").body.firstChild;
  const header = fresh.querySelector("header");
  // Another version may bring another script and style.
  if (header.dataset.version !== live.querySelector("header").dataset.version) {
    return location.reload();
  }
  document.title = header.dataset.title;
  alterChildren(live, fresh);
  heardAt = new Date();
  silence.hidden = true;
}

document.addEventListener("visibilitychange", () => {
  if (document.hidden) clearTimeout(timer);
  else refresh();
});
timer = setTimeout(refresh, everyMs);
