// The Vercel AI SDK: the same conversations; it calls the tool itself and goes on with what that returned.
import { text } from "node:stream/consumers";
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { generateText, jsonSchema, stepCountIs, streamText, tool as makeTool } from "ai";

const { url, stream, prompts, tool, degrees } = JSON.parse(await text(process.stdin));
const provider = createOpenAICompatible({ name: "proxy", baseURL: `${url}/v1`, apiKey: "any" });
const calls = [];

async function ask(prompt, options = {}) {
  const request = { model: provider("scripted"), prompt, maxRetries: 0, ...options };
  if (!stream) {
    return (await generateText(request)).text;
  }
  const result = streamText({ ...request, onError: ({ error }) => { throw error; } });
  let told = "";
  for await (const piece of result.textStream) {
    told += piece;
  }
  return told;
}

const { name, description, parameters } = tool.function;
const weather = makeTool({
  description,
  inputSchema: jsonSchema(parameters),
  execute: async (input) => {
    calls.push(input);
    return degrees;
  },
});
const [overRefused, harmful, warm] = prompts;
console.log(
  JSON.stringify({
    recovered: await ask(overRefused),
    refused: await ask(harmful),
    answer: await ask(warm, { tools: { [name]: weather }, stopWhen: stepCountIs(2) }),
    tool: name,
    arguments: calls[0],
  }),
);
