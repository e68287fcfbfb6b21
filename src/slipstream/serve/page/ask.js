// Talks with the server: the list of models, and one streamed answer with its timings.

export function headers(key) {
  return { "Content-Type": "application/json", ...(key ? { Authorization: `Bearer ${key}` } : {}) };
}

export async function models(key) {
  const reply = await fetch("v1/models", { headers: headers(key) });
  if (!reply.ok) throw new Error(await refusal(reply));
  return (await reply.json()).data.map((model) => model.id);
}

// Calls onText with each piece; returns {ttft, seconds, prompt, answer, cached, finish}.
export async function ask(body, key, signal, onText) {
  const started = performance.now();
  const figures = { ttft: null, seconds: 0, prompt: 0, answer: 0, cached: 0, finish: "" };
  const reply = await fetch("v1/chat/completions", {
    method: "POST",
    headers: headers(key),
    signal,
    body: JSON.stringify({ ...body, stream: true, stream_options: { include_usage: true } }),
  });
  if (!reply.ok) throw new Error(await refusal(reply));
  for await (const event of events(reply.body)) {
    if (event.error) throw new Error(event.error.message);
    const choice = event.choices[0];
    const text = choice?.delta?.content || choice?.delta?.reasoning_content;
    if (text) {
      figures.ttft ??= performance.now() - started;
      figures.seconds = (performance.now() - started) / 1000;
      onText(text);
    }
    if (choice?.finish_reason) figures.finish = choice.finish_reason;
    if (event.usage) {
      figures.prompt = event.usage.prompt_tokens;
      figures.answer = event.usage.completion_tokens;
      figures.cached = event.usage.prompt_tokens_details?.cached_tokens ?? 0;
    }
  }
  return figures;
}

async function* events(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines) {
      if (line === "data: [DONE]") return;
      if (line.startsWith("data: ")) yield JSON.parse(line.slice(6));
    }
  }
}

async function refusal(reply) {
  try {
    const { error } = await reply.json();
    const again = reply.headers.get("retry-after");
    return again ? `${error.message} (try again in ${again} s)` : error.message;
  } catch {
    return `The server answered ${reply.status}.`;
  }
}
