// Requests to the worker, creation of elements, formats of numbers.
"use strict";

const SECRET = "generation-operator-secret";
const find = (id) => document.getElementById(id);

// --- Requests. URLs are relative, since a proxy may serve the page below any path. The secret is sent only as a header.

class Refused extends Error {
  constructor(status, error) {
    super([error?.message ?? `the worker answered ${status}`, error?.hint].filter(Boolean).join("; "));
    this.unauthorized = status === 401;
    this.forbidden = status === 403;
    this.wrongSecret = error?.code === "wrong_secret";
  }
}

async function ask(path, body) {
  const headers = {};
  const secret = sessionStorage.getItem(SECRET);
  if (secret) headers["X-Operator-Secret"] = secret;
  if (body) headers["Content-Type"] = "application/json";
  const method = body ? "POST" : "GET";
  const answer = await fetch(path, { method, headers, body: body && JSON.stringify(body), cache: "no-store", redirect: "error" });
  const value = await answer.json().catch(() => ({}));
  if (!answer.ok) throw new Refused(answer.status, value.error);
  return value;
}

// --- Elements. Text is set as text, so that no text of the queue is parsed as HTML.

function make(tag, properties = {}, ...children) {
  const space = ["svg", "rect", "line", "title"].includes(tag) ? "http://www.w3.org/2000/svg" : "http://www.w3.org/1999/xhtml";
  const element = document.createElementNS(space, tag);
  for (const [name, value] of Object.entries(properties)) {
    if (typeof value === "function") element.addEventListener(name, value);
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

// One element per item. An element is reused for the same key, so that a refresh keeps the focus and loaded photos.
function keyed(list, items, key, create, update) {
  const known = new Map([...list.children].map((element) => [element.dataset.key, element]));
  items.forEach((item, place) => {
    const name = String(key(item));
    let element = known.get(name);
    known.delete(name);
    if (!element) {
      element = create(item);
      element.dataset.key = name;
    }
    update?.(element, item);
    if (list.children[place] !== element) list.insertBefore(element, list.children[place] ?? null);
  });
  known.forEach((element) => element.remove());
}

function write(element, text) {
  if (element.textContent !== String(text)) element.textContent = text;
}

function rows(body, items, key, cells, classes = []) {
  const create = (item) => make("tr", {}, ...cells(item).map((_, place) => make("td", classes[place] ? { class: classes[place] } : {})));
  keyed(body, items, key, create, (row, item) => {
    cells(item).forEach((content, place) => {
      const cell = row.children[place];
      if (content instanceof Node) {
        if (!cell.firstChild?.isEqualNode?.(content)) cell.replaceChildren(content);
      } else write(cell, content);
    });
  });
}

// --- Formats of numbers.

const counted = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
const seconds = (value) => (value === null || value === undefined ? "–" : duration(value));
const dollars = (value) => `$${Number(value).toFixed(2)}`;
const words = (code) => String(code ?? "").replaceAll("_", " ");

function duration(value) {
  for (const [size, unit] of [[86400, "days"], [3600, "h"], [60, "min"]]) if (value >= 2 * size) return `${Math.round(value / size)} ${unit}`;
  return `${value < 10 ? Math.round(value * 10) / 10 : Math.round(value)} s`;
}

function ago(time, now) {
  if (!time) return "–";
  const past = (new Date(now) - new Date(time)) / 1000;
  return past >= 0 ? `${duration(past)} ago` : `in ${duration(-past)}`;
}
