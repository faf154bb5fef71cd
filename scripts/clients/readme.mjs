// The examples of openai-node's README on `air serve`, each checked: those of chat completions, completions and models.
//
// Where an example asks the Responses API or lists fine-tuning jobs, the same is done with chat completions and models.
// Left out are what needs another endpoint or service (images, files, realtime, webhooks, Azure, Bedrock, workload
// identities, mutual TLS).
//
// Reads its program from stdin, in the folder that has the package: `node --input-type=module - <readme.mjs`.
// OPENAI_BASE_URL, OPENAI_API_KEY, AIR_SMALL and AIR_SMALL_KEY are as in readme.py.

import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import OpenAI from 'openai';

const model = 'gpt-6-astra';
const messages = [
  { role: 'developer', content: 'Talk like a pirate.' },
  { role: 'user', content: 'Say this is a test' },
];
const ask = { model, messages, max_tokens: 16 };
const small = { baseURL: process.env.AIR_SMALL, apiKey: process.env.AIR_SMALL_KEY };
const client = new OpenAI();

// The error of a kind that a promise must end with.
async function error(kind, promise) {
  const e = await promise.then(() => undefined, (e) => e);
  assert(e instanceof kind, `no ${kind.name}, but ${e}`);
  return e;
}

async function joined(stream) {
  let text = '';
  for await (const chunk of stream) text += chunk.choices[0]?.delta?.content ?? '';
  return text;
}

const examples = {
  async usage() {
    const completion = await client.chat.completions.create(ask);
    assert(completion.choices[0].message.content);
    assert.equal(completion.model, model);
    assert(completion.usage.completion_tokens <= 16);
  },

  async streaming() {
    const whole = await client.chat.completions.create({ ...ask, seed: 1 });
    const stream = await client.chat.completions.create({ ...ask, seed: 1, stream: true });
    assert.equal(await joined(stream), whole.choices[0].message.content);
  },

  async 'streaming helper'() {
    let text = '';
    const stream = client.chat.completions.stream({ ...ask, max_tokens: 400, stop: 'e', seed: 3 });
    stream.on('content', (delta) => (text += delta));
    const final = await stream.finalChatCompletion();
    assert.equal(text, final.choices[0].message.content);
    assert.equal(final.choices[0].finish_reason, 'stop');
  },

  async 'streaming as lines'() {
    const stream = await client.chat.completions.create({ ...ask, stream: true });
    const text = await new Response(stream.toReadableStream()).text();
    const lines = text.trim().split('\n').map((line) => JSON.parse(line));
    assert(lines.length > 1 && lines.every((line) => line.object === 'chat.completion.chunk'));
  },

  async completions() {
    const asked = { model, prompt: 'ROMEO:', max_tokens: 8, temperature: 0 };
    const whole = await client.completions.create(asked);
    let text = '';
    const stream = await client.completions.create({ ...asked, stream: true });
    for await (const chunk of stream) text += chunk.choices[0].text;
    assert.equal(text, whole.choices[0].text);
    assert.equal(whole.usage.completion_tokens, 8);
  },

  async 'handling errors'() {
    const once = new OpenAI({ maxRetries: 0 });
    let e = await error(OpenAI.NotFoundError, once.chat.completions.create({ ...ask, model: 'gpt-5.5' }));
    assert.equal(e.status, 404);
    assert.equal(e.code, 'model_not_found');
    assert(e.requestID && e.headers.get('x-request-id') === e.requestID);
    e = await error(OpenAI.BadRequestError, once.chat.completions.create({ ...ask, temperature: -1 }));
    assert(e instanceof OpenAI.APIError && e.status === 400);
    e = await error(OpenAI.BadRequestError, once.chat.completions.create({ ...ask, baz: 'undocumented option' }));
    assert.equal(e.param, 'baz');
    e = await error(OpenAI.APIError, once.embeddings.create({ model, input: 'text' }));
    assert.equal(e.status, 404);
    const nobody = new OpenAI({ baseURL: 'http://127.0.0.1:9/v1', maxRetries: 0 });
    await error(OpenAI.APIConnectionError, nobody.models.list());
    e = await error(OpenAI.AuthenticationError, new OpenAI({ ...small, apiKey: 'another' }).models.list());
    assert.equal(e.status, 401);
  },

  async retries() {
    const busy = new OpenAI(small);
    // As many answers as one key can have, one after another: long enough for a request meanwhile.
    const taken = { model, prompt: 'ROMEO:', max_tokens: 400, n: 4, stream: true };
    const stream = (await busy.completions.create(taken))[Symbol.asyncIterator]();
    await stream.next();
    const e = await error(OpenAI.RateLimitError, busy.chat.completions.create(ask, { maxRetries: 0 }));
    assert(Number(e.headers.get('retry-after')) >= 1);
    assert((await busy.chat.completions.create(ask, { maxRetries: 60 })).choices);
    await stream.return();
  },

  async timeouts() {
    const once = new OpenAI({ timeout: 20 * 1000, maxRetries: 0 });
    assert((await once.chat.completions.create(ask)).choices);
    const promise = once.chat.completions.create({ ...ask, max_tokens: 400 }, { timeout: 1 });
    await error(OpenAI.APIConnectionTimeoutError, promise);
  },

  async cancellation() {
    const controller = new AbortController();
    const { signal } = controller;
    // More events than may be on their way when it is cancelled.
    const asked = { ...ask, n: 4, max_tokens: 400, stream: true, return_token_ids: true };
    const stream = await client.chat.completions.create(asked, { signal });
    let chunks = 0;
    for await (const _ of stream) if (++chunks === 3) controller.abort();
    assert(chunks < 1600, `${chunks} events`);
    const other = await client.chat.completions.create({ ...ask, max_tokens: 400, stream: true });
    for await (const _ of other) break;
    assert(other.controller.signal.aborted);
    const whole = new AbortController();
    const promise = client.chat.completions.create({ ...ask, max_tokens: 400 }, { signal: whole.signal });
    whole.abort();
    await error(OpenAI.APIUserAbortError, promise);
  },

  async 'request ids'() {
    const completion = await client.chat.completions.create(ask);
    assert(completion._request_id);
    const { data: stream, request_id } = await client.chat.completions.create({ ...ask, stream: true }).withResponse();
    assert(request_id && request_id !== completion._request_id);
    assert(await joined(stream));
  },

  async pagination() {
    const names = [];
    for await (const model of client.models.list()) names.push(model.id);
    const page = await client.models.list();
    assert.deepEqual(names, page.data.map((model) => model.id));
    assert(names.includes(model) && !page.hasNextPage());
    assert.equal((await client.models.retrieve(model)).object, 'model');
  },

  async 'raw response'() {
    const response = await client.chat.completions.create(ask).asResponse();
    assert.equal(response.headers.get('content-type'), 'application/json');
    assert((await response.json()).choices[0].message.content);
    const { data, response: raw } = await client.chat.completions.create(ask).withResponse();
    assert(raw.headers.get('x-request-id') && raw.statusText === 'OK' && data.choices.length === 1);
  },

  async logging() {
    const seen = [];
    const log = (...all) => seen.push(all.join(' '));
    const logger = { debug: log, info: log, warn: log, error: log };
    await new OpenAI({ logger, logLevel: 'debug' }).models.list();
    assert(seen.some((line) => line.includes('200')), seen.join('\n'));
  },

  async undocumented() {
    const url = client.baseURL.replace(/v1\/?$/, 'tokenize');
    const { tokens } = await client.post(url, { body: { prompt: 'ROMEO:' } });
    const asked = { model, prompt: tokens, max_tokens: 4, top_k: 1, return_token_ids: true };
    assert.equal((await client.completions.create(asked)).choices[0].token_ids.length, 4);
  },

  async 'own fetch'() {
    const seen = [];
    const own = (url, options) => (seen.push(options.method.toUpperCase()), fetch(url, options));
    const mine = new OpenAI({ fetch: own, fetchOptions: { redirect: 'error' } });
    await mine.models.list();
    await mine.chat.completions.create(ask);
    assert.deepEqual(seen, ['GET', 'POST']);
  },
};

let failed = 0;
for (const [name, example] of Object.entries(examples)) {
  try {
    await example();
  } catch (e) {
    failed += 1;
    console.error(`${name}: ${e.stack}`);
  }
}
const { version } = JSON.parse(readFileSync('node_modules/openai/package.json'));
console.log(`openai-node ${version}, examples: ${Object.keys(examples).length - failed} passed, ${failed} failed`);
process.exit(failed ? 1 : 0);
