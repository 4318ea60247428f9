// The official Node client: holds the conversations that the order on stdin describes, and prints what it was told.
import { text } from "node:stream/consumers";
import OpenAI from "openai";

const { url, stream, prompts, tool, degrees } = JSON.parse(await text(process.stdin));
const client = new OpenAI({ baseURL: `${url}/v1`, apiKey: "any", maxRetries: 0 });

async function ask(messages, options = {}) {
  const request = { model: "scripted", messages, ...options };
  if (!stream) {
    return (await client.chat.completions.create(request)).choices[0].message;
  }
  return client.chat.completions.stream(request).finalMessage();
}

const [overRefused, harmful, weather] = prompts.map((content) => [{ role: "user", content }]);
const recovered = await ask(overRefused);
const refused = await ask(harmful);
const called = await ask(weather, { tools: [tool] });
const call = called.tool_calls[0];
const answer = await ask([...weather, called, { role: "tool", tool_call_id: call.id, content: degrees }], {
  tools: [tool],
});
console.log(
  JSON.stringify({
    recovered: recovered.content,
    refused: refused.content,
    tool: call.function.name,
    arguments: JSON.parse(call.function.arguments),
    answer: answer.content,
  }),
);
