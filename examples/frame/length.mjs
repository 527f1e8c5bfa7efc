#!/usr/bin/env node
// A program of mode: frame. It works on many records at once and answers each when it is done, in
// any order.
import { createInterface } from "node:readline";
import { setTimeout } from "node:timers/promises";

const answer = (id, fields) => console.log(JSON.stringify({ id, ...fields }));

async function handle(record) {
  await setTimeout(10 * Math.random()); // a call to some service
  return `${record.body.length} ${record.body}`;
}

for await (const line of createInterface({ input: process.stdin })) {
  const record = JSON.parse(line);
  handle(record).then(
    (body) => answer(record.id, { body, done: true }),
    // retry: true asks for later and blames nobody, poison: true says that no attempt can help.
    (e) => answer(record.id, { error: String(e) }),
  );
}
