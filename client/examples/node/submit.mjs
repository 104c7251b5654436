// A service in JavaScript that submits a job straight onto NATS, waits for its stored result and prints it.
//
//     npm ci
//     node submit.mjs nats://127.0.0.1:4222 service.creds [pool]
//
// It needs no library of Muster: a job is a MessagePack map, and its address is its subject.

import { randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { decode, encode } from "@msgpack/msgpack";
import { connect, credsAuthenticator, headers } from "@nats-io/transport-node";

const [url, credentials, pool = "default"] = process.argv.slice(2);
if (!credentials) {
  console.error("usage: submit.mjs NATS_URL CREDENTIALS_FILE [POOL]");
  process.exit(2);
}

const connection = await connect({ servers: url, authenticator: credsAuthenticator(await readFile(credentials)) });
const id = `js-${randomUUID()}`;
const body = { v: 1, type: "probe.echo", params: { greeting: "hello from JavaScript" }, timeout_s: 10 };

// Listen before publishing, so that the result cannot be missed. The broker tells it once it is stored.
const done = connection.subscribe(`done.${pool}.${id}`, { max: 1, timeout: 30_000 });

// The answer is the broker's acknowledgement: the job is on disk. It refuses a second job under the same id,
// and a pool or an executor that does not exist has no responders.
const head = headers();
head.set("Content-Type", "application/msgpack");
head.set("Nats-Msg-Id", `${pool}.${id}`);
const answer = await connection.request(`jobs.${pool}.normal.probe.${id}`, encode(body), { timeout: 5_000, headers: head });
const { error } = answer.json();
if (error) {
  console.error(`the broker refused the job: ${error.description}`);
  process.exit(1);
}

for await (const message of done) {
  console.log(JSON.stringify(decode(message.data)));
}
await connection.close();
