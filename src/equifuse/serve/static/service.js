// What both pages need: elements made of text, never of markup, and questions to the service.

export const $ = (id) => document.getElementById(id);

export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in element) element[name] = value;
    else element.setAttribute(name, value);
  }
  element.append(...children);
  return element;
}

export class Refused extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

const KEY = "equifuse-key";

export async function ask(path, { body, type } = {}) {
  const headers = { Accept: "application/json" };
  if (body !== undefined) headers["Content-Type"] = type;
  const key = sessionStorage.getItem(KEY);
  if (key) headers.Authorization = `Bearer ${key}`;
  let answer;
  try {
    answer = await fetch(path, { method: body === undefined ? "GET" : "POST", headers, body });
  } catch {
    throw new Refused(0, "the service does not answer");
  }
  let content;
  try {
    content = await answer.json();
  } catch {
    throw new Refused(answer.status, `the service answers with status ${answer.status}`);
  }
  if (!answer.ok) throw new Refused(answer.status, content.detail ?? `status ${answer.status}`);
  return content;
}

// Runs `start`, and again with a key once one is given, where one is needed.
export function withKey(start, tell) {
  const form = $("unlock");
  const run = async () => {
    try {
      await start();
      form.hidden = true;
    } catch (error) {
      if (!(error instanceof Refused)) throw error;
      tell(error.message);
      if (error.status === 401) {
        form.hidden = false;
        $("key").focus();
      } else if (error.status === 503 || error.status === 0) {
        setTimeout(run, 2000);
      }
    }
  };
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    sessionStorage.setItem(KEY, $("key").value);
    run();
  });
  run();
}
