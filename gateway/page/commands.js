// The same question from a shell or a program, to be copied. The key stays out of them.

const FILE = /^[A-Za-z0-9][A-Za-z0-9._-]{0,80}$/;

export const LANGUAGES = { curl: "curl", direct: "Direct upload", python: "Python", javascript: "JavaScript" };

// what is asked: { base, wish: { model, version, label }, file, address, authentication }
export function command(language, asked) {
  return COMMANDS[language](asked);
}

const COMMANDS = {
  curl({ base, wish, file, address, authentication }) {
    const url = quoted(`${base}/predict${query(wish)}`);
    return lines(`curl${key(authentication)}`, `  ${body(file, address)}`, `  ${url}`);
  },

  direct({ base, wish, file, address, authentication }) {
    const lookup = quoted(`${base}/lookup${query(wish)}`);
    return [
      "# ask where to: the answer is the address of a worker, with a ticket in it",
      `where=$(curl -s${key(authentication)} -H 'Accept: text/plain' ${lookup})`,
      "# the picture goes straight there, past the gateway",
      `curl ${body(file, address)} "$where"`,
    ].join("\n");
  },

  python({ base, wish, file, address, authentication }) {
    if (address) return byAddress(`${base}/predict${query(wish)}`, address, authentication);
    const terms = given(wish, "=");
    const secret = authentication ? ', api_key=os.environ["SHOAL_API_KEY"]' : "";
    return [
      ...(authentication ? ["import os", ""] : []),
      "from shoal import Client",
      "",
      `with Client(${JSON.stringify(base)}${secret}) as client:`,
      `    answer = client.predict(${JSON.stringify(name(file))}${terms && `, ${terms}`})`,
      "    for prediction in answer.predictions:",
      "        print(prediction)",
    ].join("\n");
  },

  javascript({ base, wish, address, authentication }) {
    const terms = given(wish, ": ");
    return [
      `import { Shoal } from ${JSON.stringify(`${base}/page/shoal.js`)};`,
      "",
      `const shoal = new Shoal(${JSON.stringify(base)}${authentication ? ", { apiKey }" : ""});`,
      `const { answer, way } = await shoal.predict(${address ? JSON.stringify({ url: address }) : "file"}${terms && `, { ${terms} }`});`,
      "console.log(way, answer.predictions);",
    ].join("\n");
  },
};

// The SDK sends pictures; an address goes in a request of one's own
function byAddress(url, address, authentication) {
  const secret = authentication ? ', "Authorization": "Bearer " + os.environ["SHOAL_API_KEY"]' : "";
  return [
    `import json${authentication ? ", os" : ""}, urllib.request`,
    "",
    `headers = {"Content-Type": "application/json"${secret}}`,
    `body = json.dumps({"url": ${JSON.stringify(address)}}).encode()`,
    `request = urllib.request.Request(${JSON.stringify(url)}, body, headers)`,
    'print(json.load(urllib.request.urlopen(request))["predictions"])',
  ].join("\n");
}

function query(wish) {
  const said = Object.entries(wish).filter(([, value]) => value);
  return said.length ? `?${new URLSearchParams(said)}` : "";
}

function given(wish, sign) {
  const said = Object.entries(wish).filter(([, value]) => value);
  return said.map(([term, value]) => `${term}${sign}${JSON.stringify(value)}`).join(", ");
}

function body(file, address) {
  if (!address) return `-F image=@${name(file)}`;
  return `-H 'Content-Type: application/json' -d ${quoted(JSON.stringify({ url: address }))}`;
}

function key(authentication) {
  return authentication ? ' -H "Authorization: Bearer $SHOAL_API_KEY"' : "";
}

// A name that means itself in every shell, or another one
function name(file) {
  return FILE.test(file ?? "") ? file : "picture.jpg";
}

function quoted(text) {
  return `'${text.replaceAll("'", `'\\''`)}'`;
}

function lines(...parts) {
  return parts.join(" \\\n");
}
