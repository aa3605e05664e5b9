// Shows what openapi.json describes and lets every door be tried. All texts are set as texts.
"use strict";

const doors = document.getElementById("doors");
const trouble = document.getElementById("trouble");
const tokenField = document.getElementById("token");
let described;

function el(name, properties = {}, ...children) {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function resolved(part) {
  while (part && part.$ref) {
    part = part.$ref.slice(2).split("/").reduce((place, name) => place[name], described);
  }
  return part || {};
}

function nameOf(part) {
  return part && part.$ref ? part.$ref.split("/").pop() : "";
}

// What a value is, in a few words: "integer, 1 to 3" or "one of A, B".
function words(schema) {
  if ("const" in schema) return JSON.stringify(schema.const);
  if (schema.enum) return "one of " + schema.enum.map((one) => JSON.stringify(one)).join(", ");
  const said = [[schema.type || "any value"].flat().join(" or ")];
  if (schema.format) said.push(schema.format);
  const [least, most] = [schema.minimum, schema.maximum].map((n) => (Number.isSafeInteger(n) || n % 1 ? n : undefined));
  if (least !== undefined && most !== undefined) said.push(`${least} to ${most}`);
  else if (least !== undefined) said.push(`at least ${least}`);
  else if (most !== undefined) said.push(`at most ${most}`);
  if (schema.maxLength) said.push(`at most ${schema.maxLength} characters`);
  if (schema.minItems) said.push(`at least ${schema.minItems}`);
  if ("default" in schema) said.push(`default ${JSON.stringify(schema.default)}`);
  return said.join(", ");
}

// The parts of a schema as a list; what is deep inside is made when it is opened.
function parts(schema) {
  const list = el("ul", { className: "schema" });
  const alternatives = schema.anyOf || schema.oneOf || schema.allOf || [];
  alternatives.forEach((one, n) => list.append(item(`${n ? "or " : ""}${nameOf(one)}`, one, false)));
  const required = schema.required || [];
  for (const [name, one] of Object.entries(schema.properties || {})) {
    list.append(item(name, one, required.includes(name)));
  }
  if (schema.items) list.append(item("each", schema.items, false));
  return list;
}

function item(name, given, must) {
  const schema = resolved(given);
  const label = el("code", { textContent: name, className: must ? "must" : "" });
  const open = schema.properties || schema.items || schema.anyOf || schema.oneOf || schema.allOf;
  const kind = el("small", { textContent: " " + words(schema) });
  const more = schema.description ? el("small", { textContent: ` – ${schema.description}` }) : null;
  if (!open) return el("li", {}, label, kind, more);
  return el("li", {}, lazily(el("summary", {}, label, kind, more), () => parts(schema)));
}

function lazily(summary, make, className = "") {
  const details = el("details", { className }, summary);
  details.addEventListener("toggle", () => details.append(make()), { once: true });
  return details;
}

// A value that the schema allows, to begin with; required parts only when it has any.
function sample(given, depth = 0) {
  const schema = resolved(given);
  const known = [schema.const, schema.default, schema.enum && schema.enum[0], schema.examples && schema.examples[0]];
  const told = known.find((one) => one !== undefined);
  if (told !== undefined) return told;
  const kind = [schema.type].flat()[0];
  if (kind === "object") {
    const names = schema.required && schema.required.length ? schema.required : Object.keys(schema.properties || {});
    if (depth > 4) return {};
    return Object.fromEntries(names.map((name) => [name, sample((schema.properties || {})[name], depth + 1)]));
  }
  if (kind === "array") return depth > 4 ? [] : [sample(schema.items, depth + 1)];
  if (kind === "integer" || kind === "number") return Math.max(schema.minimum || 0, 1);
  if (kind === "boolean") return true;
  if (kind === "string") return schema.format === "date-time" ? new Date().toISOString() : "text";
  const one = (schema.anyOf || schema.oneOf || schema.allOf || [])[0];
  return one ? sample(one, depth + 1) : null;
}

function jsonOf(content) {
  return content && Object.entries(content).find(([kind]) => kind.includes("json"))?.[1];
}

function inside(method, path, operation) {
  const box = el("div");
  const tried = trying(method, path, operation);
  const body = jsonOf(operation.requestBody && operation.requestBody.content);
  if (operation.description) box.append(el("p", { textContent: operation.description }));
  if (operation.security && !operation.security.length) box.append(el("p", { className: "muted", textContent: "Open to everybody." }));
  box.append(el("h3", { textContent: "Try it" }), tried);
  if (body) box.append(el("h3", { textContent: `Body: ${nameOf(body.schema) || words(resolved(body.schema))}` }), parts(resolved(body.schema)));
  box.append(el("h3", { textContent: "Answers" }), answers(operation));
  return box;
}

function answers(operation) {
  const list = el("ul", { className: "schema" });
  for (const [status, given] of Object.entries(operation.responses || {})) {
    const response = resolved(given);
    const schema = jsonOf(response.content)?.schema;
    const line = [el("code", { textContent: status }), el("small", { textContent: ` ${response.description || ""}` })];
    list.append(el("li", {}, ...(schema ? [lazily(el("summary", {}, ...line), () => parts(resolved(schema)))] : line)));
  }
  return list;
}

function trying(method, path, operation) {
  const fields = (operation.parameters || []).map(resolved).map((parameter) => {
    const choices = resolved(parameter.schema).enum;
    const input = choices
      ? el("select", {}, el("option"), ...choices.map((one) => el("option", { textContent: one })))
      : el("input", { placeholder: words(resolved(parameter.schema)), spellcheck: false });
    input.required = Boolean(parameter.required);
    if (parameter.name === "X-Request-ID") input.value = `by-hand-${Date.now()}`;
    const label = el("span", { className: parameter.required ? "must" : "" }, el("code", { textContent: parameter.name }), el("small", { textContent: ` ${parameter.in}` }));
    return { parameter, input, row: el("label", { className: "field" }, label, input) };
  });
  const told = jsonOf(operation.requestBody && operation.requestBody.content);
  const text = told && el("textarea", { spellcheck: false, ariaLabel: "body", value: JSON.stringify(told.example ?? sample(told.schema), null, 2) });
  const send = el("button", { textContent: `Send ${method.toUpperCase()}` });
  const outcome = el("div", { ariaLive: "polite" });
  const form = el("form", {}, ...fields.map((field) => field.row), text, send, outcome);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    send.disabled = true;
    try {
      outcome.replaceChildren(...(await asked(method, path, operation, fields, text)));
    } catch (error) {
      outcome.replaceChildren(el("p", { textContent: `No answer: ${error.message}` }));
    } finally {
      send.disabled = false;
    }
  });
  return form;
}

async function asked(method, path, operation, fields, text) {
  const query = new URLSearchParams();
  const headers = {};
  for (const { parameter, input } of fields) {
    if (!input.value) continue;
    if (parameter.in === "path") path = path.replace(`{${parameter.name}}`, encodeURIComponent(input.value));
    else if (parameter.in === "query") query.set(parameter.name, input.value);
    else headers[parameter.name] = input.value;
  }
  const url = new URL("." + path + (String(query) ? `?${query}` : ""), document.baseURI);
  const scheme = (operation.security || []).some((way) => "oscp" in way) ? "Token" : "Bearer";
  if (tokenField.value) headers.Authorization = `${scheme} ${tokenField.value.trim()}`;
  const init = { method: method.toUpperCase(), headers, cache: "no-store" };
  if (text && text.value.trim()) {
    init.body = text.value;
    headers["Content-Type"] = "application/json";
  }
  const began = performance.now();
  const answer = await fetch(url, init);
  const said = await answer.text();
  const took = Math.round(performance.now() - began);
  const good = answer.ok ? "good" : "bad";
  const state = el("p", {}, el("span", { className: `state ${good}`, textContent: `${answer.status} ${answer.statusText}` }), el("small", { textContent: ` ${took} ms ${answer.headers.get("Location") || ""}` }));
  return [el("pre", { textContent: command(url, init, scheme) }), state, el("pre", { textContent: pretty(said) })];
}

// The same as a command line; the token stays out of it.
function command(url, init, scheme) {
  const quoted = (text) => `'${text.replaceAll("'", "'\\''")}'`;
  const lines = [`curl -sS -X ${init.method} ${quoted(url.href)}`];
  for (const [name, value] of Object.entries(init.headers)) {
    lines.push(name === "Authorization" ? `-H "Authorization: ${scheme} $TOKEN"` : `-H ${quoted(`${name}: ${value}`)}`);
  }
  if (init.body) lines.push(`-d ${quoted(init.body)}`);
  return lines.join(" \\\n  ");
}

function pretty(text) {
  try {
    return JSON.stringify(JSON.parse(text), null, 2);
  } catch {
    return text || "(no body)";
  }
}

function show() {
  const rooms = new Map();
  for (const [path, operations] of Object.entries(described.paths)) {
    for (const [method, operation] of Object.entries(operations)) {
      const line = el("summary", {}, el("b", { className: `verb ${method}`, textContent: method.toUpperCase() }), " ", el("code", { textContent: path }), " ", el("span", { textContent: operation.summary || "" }));
      const door = lazily(line, () => inside(method, path, operation), "door");
      door.id = operation.operationId;
      door.dataset.words = `${method} ${path} ${operation.summary} ${operation.tags}`.toLowerCase();
      const room = (operation.tags || ["other"])[0];
      rooms.set(room, [...(rooms.get(room) || []), door]);
    }
  }
  for (const [room, its] of rooms) doors.append(el("section", {}, el("h2", { textContent: room }), ...its));
  const wanted = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (wanted && wanted.matches("details")) {
    wanted.open = true;
    wanted.scrollIntoView();
  }
}

function find(event) {
  const wanted = event.target.value.toLowerCase().split(/\s+/);
  for (const room of doors.children) {
    const its = [...room.querySelectorAll("details.door")];
    for (const door of its) door.hidden = !wanted.every((word) => door.dataset.words.includes(word));
    room.hidden = its.every((door) => door.hidden);
  }
}

document.getElementById("find").addEventListener("input", find);
document.getElementById("tools").addEventListener("submit", (event) => event.preventDefault());
fetch(doors.dataset.from)
  .then((answer) => {
    if (!answer.ok) throw new Error(`${answer.status}`);
    return answer.json();
  })
  .then((document) => {
    described = document;
    show();
  })
  .catch((error) => {
    trouble.textContent = `openapi.json cannot be shown: ${error.message}`;
    trouble.hidden = false;
  });
