import { $, Refused, ask, make, withKey } from "./service.js";

// So many columns of a modality get a field each; more are pasted as a list.
const FIELDS = 24;
const SHOWN = 12;
const ABOUT_SOLVE = ["converged", "residual", "steps"];
const TYPES = { csv: "text/csv", tsv: "text/csv", txt: "text/csv", json: "application/json", parquet: "application/vnd.apache.parquet" };

let model = null;
let file = null;
let asked = 0;

const tell = (text, wrong = false) => {
  $("status").textContent = text;
  $("status").className = wrong ? "wrong" : "";
};
const number = (x) => (x === null || x === undefined ? "–" : Number(Number(x).toPrecision(4)).toString());
const percent = (x) => (x === null || x === undefined ? "–" : x > 0 && x < 0.0005 ? "< 0.1\u00a0%" : `${(100 * x).toFixed(1)}\u00a0%`);
const points = (x) => `${x < 0 ? "−" : "+"}${Math.abs(100 * x).toFixed(1)}`;
const shown = (x) => (typeof x === "number" ? number(x) : x === null ? "–" : String(x));

// ---- what is asked

function describe(found) {
  model = found;
  file = null;
  $("file").value = "";
  $("title").textContent = `Try ${model.name}`;
  document.title = `Try ${model.name}`;
  const names = Object.keys(model.modalities);
  $("about").textContent =
    `${model.task} from ${names.length} modalities (${names.join(", ")}), fused by ${model.fusion}; trained on ${model.data}.`;
  $("modalities").replaceChildren(...names.map((name, i) => modality(name, model.modalities[name], i)));
  $("go").disabled = false;
  fileChosen(null);
}

function modality(name, about, index) {
  const on = make("input", { type: "checkbox", checked: true, id: `on-${index}` });
  const legend = make("legend", {}, make("label", { htmlFor: on.id }, on, ` ${name}`));
  const box = make("fieldset", {}, legend);
  box.dataset.name = name;
  const columns = about.columns ?? (about.features ?? []).map((feature) => ({ name: feature, kind: "number" }));
  const vector = about.shape.length === 1 && !about.sequence;
  if (vector && columns.length && columns.length <= FIELDS) {
    box.append(make("div", { className: "fields" }, ...columns.map((column) => field(column, index))));
  } else {
    const what = vector
      ? `${about.shape[0]} numbers, with commas or blanks between them`
      : `a nested list, [[...], ...], of shape ${about.sequence ? `any × ${about.shape.slice(1).join(" × ")}` : about.shape.join(" × ")}`;
    const area = make("textarea", { id: `text-${index}`, rows: 3, spellcheck: false });
    area.dataset.kind = vector && !about.columns ? "numbers" : "json";
    box.append(make("label", { htmlFor: area.id }, what), area);
  }
  return box;
}

function field(column, index) {
  let input;
  if (column.kind === "category") {
    input = make("select", {}, make("option", { value: "" }, "(missing)"));
    input.append(...column.values.map((value) => make("option", { value }, value)));
  } else if (column.kind === "boolean") {
    input = make("select", {}, ...[["", "(missing)"], ["true", "true"], ["false", "false"]].map(([value, text]) => make("option", { value }, text)));
  } else {
    input = make("input", { type: column.kind === "number" ? "number" : column.kind === "date" && !column.clock ? "date" : "text" });
    if (column.kind === "number") input.step = "any";
  }
  input.dataset.column = column.name;
  input.dataset.kind = column.kind;
  return make("label", {}, make("span", {}, column.name), input);
}

function boxes() {
  return [...$("modalities").children];
}

const isOn = (box) => box.querySelector("input[type=checkbox]").checked;

function valueOf(input) {
  const text = input.value.trim();
  if (text === "") return null;
  if (input.dataset.kind === "number") return Number(text);
  if (input.dataset.kind === "boolean") return text === "true";
  return text;
}

function typed() {
  const inputs = Object.create(null); // a name may be any text, __proto__ too
  for (const box of boxes()) {
    const area = box.querySelector("textarea");
    if (area) {
      const text = area.value.trim();
      if (text === "") continue;
      if (area.dataset.kind === "numbers" && !text.startsWith("[")) {
        const parts = text.split(/[\s,;]+/).filter(Boolean);
        const wrong = parts.find((part) => Number.isNaN(Number(part)));
        if (wrong !== undefined) throw new Refused(422, `${box.dataset.name}: '${wrong}' is no number`);
        inputs[box.dataset.name] = [parts.map(Number)];
      } else {
        try {
          inputs[box.dataset.name] = [JSON.parse(text)];
        } catch {
          throw new Refused(422, `${box.dataset.name}: expected a list such as [[1, 2], [3, 4]]`);
        }
      }
      continue;
    }
    const row = Object.create(null);
    for (const input of box.querySelectorAll("[data-column]")) {
      const value = valueOf(input);
      if (value !== null) row[input.dataset.column] = value;
    }
    if (Object.keys(row).length) inputs[box.dataset.name] = [row];
  }
  if (!Object.keys(inputs).length) throw new Refused(422, "type some values, or choose a file");
  return { body: JSON.stringify({ inputs }), type: "application/json", given: Object.keys(inputs) };
}

function fileChosen(given) {
  file = given;
  $("chosen").textContent = file ? `${file.name}: ${file.size} bytes; typed values are not used.` : "";
}

async function question() {
  if (!file) return typed();
  const ending = file.name.split(".").pop().toLowerCase();
  if (!(ending in TYPES)) throw new Refused(415, `${file.name}: expected CSV, JSON or Parquet`);
  return { body: await file.arrayBuffer(), type: TYPES[ending], given: Object.keys(model.modalities) };
}

const path = (kind, without) => {
  const query = new URLSearchParams(without.map((name) => ["without", name]));
  return `/v1/models/${encodeURIComponent(model.name)}/${kind}${without.length ? `?${query}` : ""}`;
};

async function predict(event) {
  event.preventDefault();
  const turn = ++asked;
  try {
    const { body, type, given } = await question();
    const off = boxes().filter((box) => !isOn(box)).map((box) => box.dataset.name);
    const on = given.filter((name) => !off.includes(name));
    if (!on.length) throw new Refused(422, "all modalities that have values are switched off");
    tell("Asking ...");
    const ofAll = await ask(path("predict", off), { body, type });
    const more = { explained: null, alone: [], without: [] };
    if (model.explained.length && ofAll.rows <= model.limits.max_explained) {
      more.explained = await ask(path("explain", off), { body, type }).catch(unless401);
    }
    for (const name of on.length > 1 ? on : []) {
      if (turn !== asked) return;
      const alone = await ask(path("predict", [...off, ...on.filter((other) => other !== name)]), { body, type }).catch(unless401);
      if (alone) more.alone.push([name, alone]);
      const answer = await ask(path("predict", [...off, name]), { body, type }).catch(unless401);
      if (answer) more.without.push([name, answer]);
    }
    if (turn !== asked) return;
    tell(`${ofAll.rows} ${ofAll.rows === 1 ? "row" : "rows"} predicted${off.length ? ` without ${off.join(", ")}` : ""}.`);
    showRows(ofAll, more);
    $("answer").focus();
  } catch (error) {
    if (!(error instanceof Refused)) throw error;
    $("result").replaceChildren();
    tell(error.message, true);
    $("unlock").hidden = error.status !== 401;
  }
}

function unless401(error) {
  if (error.status === 401) throw error;
  return null;
}

// ---- what is answered

function table(caption, head, rows) {
  const top = make("tr", {}, ...head.map((text) => make("th", { scope: "col" }, text)));
  const lines = rows.map(([first, ...others]) =>
    make("tr", {}, make("th", { scope: "row" }, first), ...others.map((cell) => make("td", {}, cell))));
  const inner = make("table", {}, make("caption", {}, caption), make("thead", {}, top), make("tbody", {}, ...lines));
  return make("div", { className: "scroll", tabIndex: 0, role: "region", "aria-label": caption }, inner);
}

function showRows(answer, more) {
  const names = answer.columns.id ?? answer.columns.row;
  const place = make("div");
  const parts = [];
  if (answer.rows > 1) {
    const choice = make("select", { id: "row" }, ...names.map((name, i) => make("option", { value: i }, String(name))));
    choice.addEventListener("change", () => place.replaceChildren(...oneRow(answer, more, Number(choice.value))));
    parts.push(make("p", {}, make("label", {}, "Row ", choice)));
  }
  place.replaceChildren(...oneRow(answer, more, 0));
  $("result").replaceChildren(...parts, place);
}

const said = (answer, i) =>
  Object.entries(answer.columns).filter(([name]) => /^prediction/.test(name)).map(([, cells]) => shown(cells[i])).join(", ");

function oneRow(answer, more, i) {
  const columns = Object.entries(answer.columns).filter(([name]) => name !== "row" && name !== "id");
  const parts = [];
  if (said(answer, i)) parts.push(make("p", { className: "said" }, "Prediction: ", make("strong", {}, said(answer, i))));
  const values = columns.filter(([name]) => !ABOUT_SOLVE.includes(name) && name !== "prediction");
  const chances = values.every(([name]) => name.startsWith("prob_"));
  let rows = values.map(([name, cells]) => [chances ? name.slice(5) : name, cells[i]]);
  if (chances) rows.sort((a, b) => b[1] - a[1]);
  const left = rows.length - SHOWN;
  rows = rows.slice(0, SHOWN).map(([name, value]) => [name, chances ? percent(value) : shown(value), chances ? bar(value, 1) : ""]);
  if (rows.length) parts.push(table(chances ? "Probabilities" : "Values", ["", chances ? "probability" : "value", ""], rows));
  if (left > 0) parts.push(make("p", { className: "hint" }, `and ${left} more`));
  if (more.explained) parts.push(...contributions(more.explained, i));
  if (more.alone.length) parts.push(others(answer, more.alone, i, "What each modality says alone", (name) => name));
  if (more.without.length) parts.push(others(answer, more.without, i, "The same with one modality missing", (name) => `without ${name}`));
  parts.push(convergence(answer, i));
  return parts;
}

function contributions(found, i) {
  const each = Object.entries(found.contributions).map(([name, values]) => [name, values[i]]);
  const most = Math.max(...each.map(([, value]) => Math.abs(value)), 1e-12);
  const chance = found.value === "probability";
  const rows = each.map(([name, value]) =>
    [name, chance ? points(value) : (value > 0 ? "+" : "") + number(value), bar(value, most)]);
  const text = `What each modality contributes to the ${found.value.replace("_", " ")} of ${found.output[i]}`;
  const [empty, full] = [found.empty[i], found.full[i]].map(chance ? percent : number);
  return [
    table(text, ["modality", chance ? "points" : "contribution", ""], rows),
    make("p", { className: "hint" }, `From ${empty} without any to ${full} with all of them.`),
  ];
}

// What the model says with other modalities than in the answer, and what chance it then gives the answer.
function others(answer, every, i, caption, called) {
  const key = `prob_${said(answer, i)}`;
  const known = key in answer.columns;
  const rows = every.map(([name, other]) => {
    const same = said(other, i) === said(answer, i);
    const verdict = make("span", { className: same ? "" : "changed" }, said(other, i) || "–", same ? "" : " (changed)");
    return [called(name), verdict, known ? percent(other.columns[key][i]) : "", known ? bar(other.columns[key][i], 1) : ""];
  });
  return table(caption, ["", "says", known ? `chance of ${said(answer, i)}` : "", ""], rows);
}

function convergence(answer, i) {
  const { converged, residual, steps } = answer.columns;
  if (!converged) return make("p", { className: "hint" }, "This fusion is in closed form: there is nothing to converge.");
  const text = `after ${number(steps[i])} steps, residual ${residual[i].toExponential(1)}`;
  return make("p", { className: converged[i] ? "" : "wrong" }, converged[i] ? `The equilibrium converged ${text}.` : `The equilibrium did not converge: stopped ${text}. Do not rely on this answer.`);
}

function bar(value, most) {
  const inner = make("span", { className: value < 0 ? "bar negative" : "bar" });
  inner.style.width = `${Math.round((100 * Math.abs(value)) / most)}%`;
  return make("span", { className: "track", "aria-hidden": "true" }, inner);
}

// ---- start

const drop = $("drop");
for (const kind of ["dragover", "dragenter"]) {
  drop.addEventListener(kind, (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
}
drop.addEventListener("dragleave", () => drop.classList.remove("over"));
drop.addEventListener("drop", (event) => {
  event.preventDefault();
  drop.classList.remove("over");
  if (event.dataTransfer.files.length) fileChosen(event.dataTransfer.files[0]);
});
$("file").addEventListener("change", () => fileChosen($("file").files[0] ?? null));
$("ask").addEventListener("submit", predict);
$("clear").addEventListener("click", () => {
  asked += 1;
  $("ask").reset();
  fileChosen(null);
  $("result").replaceChildren();
  tell("Nothing asked yet.");
});

withKey(async () => {
  const { models } = await ask("/v1/models");
  const choice = $("model");
  choice.replaceChildren(...models.map((one, i) => make("option", { value: i }, one.name)));
  $("choose").hidden = models.length < 2;
  choice.onchange = () => describe(models[Number(choice.value)]);
  describe(models[0]);
  tell("Nothing asked yet.");
}, (text) => tell(text, true));
