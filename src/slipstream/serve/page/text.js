// Model output as DOM nodes: paragraphs, lists, code. Text only ever enters through textContent,
// so nothing that a model writes can become markup.

export function render(target, text) {
  const nodes = [];
  const fence = /^```([^\n`]*)\n?([\s\S]*?)(?:\n?^```[ \t]*$|$(?![\s\S]))/gm;
  let at = 0;
  for (const found of text.matchAll(fence)) {
    nodes.push(...prose(text.slice(at, found.index)), codeBlock(found[1].trim(), found[2]));
    at = found.index + found[0].length;
  }
  nodes.push(...prose(text.slice(at)));
  target.replaceChildren(...nodes);
}

function codeBlock(language, text) {
  const pre = element("pre");
  pre.tabIndex = 0;
  pre.setAttribute("aria-label", language ? `Code, ${language}` : "Code");
  const code = element("code");
  code.textContent = text;
  pre.append(code);
  return pre;
}

function prose(text) {
  return text.split(/\n{2,}/).filter((part) => part.trim()).flatMap(paragraph);
}

function paragraph(text) {
  const nodes = [];
  let lines = [];
  let list = null;
  const flush = () => {
    if (lines.length) nodes.push(inline(element("p"), lines.join("\n")));
    lines = [];
  };
  for (const line of text.replace(/^\n+|\n+$/g, "").split("\n")) {
    const bullet = line.match(/^\s*(?:[-*•]|(\d+)[.)])\s+(.*)$/);
    if (!bullet) {
      list = null;
      lines.push(line.replace(/^#{1,6}\s+(.*)$/, "**$1**"));
      continue;
    }
    flush();
    const kind = bullet[1] ? "OL" : "UL";
    if (list?.tagName !== kind) {
      list = element(kind.toLowerCase());
      if (bullet[1]) list.start = Number(bullet[1]);
      nodes.push(list);
    }
    list.append(inline(element("li"), bullet[2]));
  }
  flush();
  return nodes;
}

function inline(target, text) {
  for (const part of text.split(/(`[^`\n]+`|\*\*[^*\n]+\*\*)/)) {
    if (/^`.+`$/.test(part)) target.append(filled("code", part.slice(1, -1)));
    else if (/^\*\*.+\*\*$/.test(part)) target.append(filled("strong", part.slice(2, -2)));
    else target.append(part);
  }
  return target;
}

export function element(tag, className = "") {
  const made = document.createElement(tag);
  if (className) made.className = className;
  return made;
}

export function filled(tag, text, className = "") {
  const made = element(tag, className);
  made.textContent = text;
  return made;
}
