import { $, ask, make, withKey } from "./service.js";

function operation(method, path, described) {
  const parts = [make("p", {}, described.summary ?? "")];
  const body = described.requestBody?.content;
  if (body) {
    parts.push(make("p", {}, `Body: ${Object.keys(body).join(", ")}`));
    parts.push(schema("Body as JSON", body["application/json"].schema));
  }
  for (const parameter of described.parameters ?? []) {
    const values = parameter.schema.enum ?? parameter.schema.items?.enum ?? [];
    parts.push(make("p", {}, make("code", {}, `?${parameter.name}=`), ` ${parameter.description} (${values.join(", ")})`));
  }
  const answers = make("ul", {});
  for (const [status, answer] of Object.entries(described.responses)) {
    answers.append(make("li", {}, make("strong", {}, status), ` ${answer.description}`));
    if (status === "200" && body) parts.push(schema("Answer as JSON", answer.content["application/json"].schema));
  }
  parts.push(make("details", {}, make("summary", {}, "Statuses"), answers));
  if (body) parts.push(example(path));
  return make("section", {}, make("h2", {}, make("code", {}, `${method.toUpperCase()} ${path}`)), ...parts);
}

function schema(title, content) {
  const text = JSON.stringify(content, null, 2);
  return make("details", {}, make("summary", {}, title), make("pre", { tabIndex: 0 }, text));
}

function example(path) {
  const lines = [
    `curl -X POST '${location.origin}${path}' \\`,
    `  -H 'Content-Type: application/json' --data-binary @rows.json`,
  ];
  return make("pre", { tabIndex: 0 }, lines.join("\n"));
}

withKey(
  async () => {
    const described = await ask("/openapi.json");
    $("title").textContent = described.info.title;
    const found = [];
    for (const [path, methods] of Object.entries(described.paths)) {
      for (const [method, about] of Object.entries(methods)) found.push([method, path, about]);
    }
    found.sort((a, b) => (a[1].startsWith("/v1") ? 1 : 0) - (b[1].startsWith("/v1") ? 1 : 0));
    $("paths").replaceChildren(...found.map((one) => operation(...one)));
    $("status").textContent = `equifuse ${described.info.version}: ${found.length} paths.`;
  },
  (text) => {
    $("status").textContent = text;
  },
);
