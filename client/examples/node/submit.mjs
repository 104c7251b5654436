// A service in JavaScript that submits a job straight onto NATS, waits for its stored result and prints it.
//
//     npm ci
//     node submit.mjs nats://127.0.0.1:4222 service.creds [pool]
//
// With TLS on, MUSTER_CA names the authority's certificate, and `muster creds issue` wrote a certificate and its key beside the credentials.
//
// It needs no library of Muster: a job is a MessagePack map, its address is its subject, and the key of the credentials
// signs both. Agents run what is signed by a key that is registered for the pool, which `muster creds issue` does.

import { createHash, randomUUID } from "node:crypto";
import { readFile } from "node:fs/promises";
import { decode, encode } from "@msgpack/msgpack";
import { connect, credsAuthenticator, headers, nkeys } from "@nats-io/transport-node";

const [url, credentials, pool = "default"] = process.argv.slice(2);
if (!credentials) {
  console.error("usage: submit.mjs NATS_URL CREDENTIALS_FILE [POOL]");
  process.exit(2);
}

// The signature of a job, for its header: of its subject, this moment, and the digest of its body.
function signature(creds, subject, body) {
  const [seed] = creds.toString().match(/^SU[A-Z2-7]+$/m);
  const key = nkeys.fromSeed(new TextEncoder().encode(seed));
  const at = BigInt(Date.now()) * 1000n;
  const text = `muster 1\njob\n${subject}\n${at}\n${createHash("sha256").update(body).digest("hex")}`;
  const signed = Buffer.from(key.sign(new TextEncoder().encode(text))).toString("base64url");
  return `${key.getPublicKey()}.${at}.${signed}`;
}

const beside = (suffix) => credentials.replace(/\.creds$/, suffix);
const ca = process.env.MUSTER_CA;
const tls = ca ? { caFile: ca, certFile: beside(".pem"), keyFile: beside(".key") } : undefined;
const creds = await readFile(credentials);
const connection = await connect({ servers: url, tls, authenticator: credsAuthenticator(creds) });
const id = `js-${randomUUID()}`;
const job = { v: 1, type: "probe.echo", params: { greeting: "hello from JavaScript" }, timeout_s: 10 };
const [subject, body] = [`jobs.${pool}.normal.probe.${id}`, encode(job)];

// Listen before publishing, so that the result cannot be missed. The broker tells it once it is stored.
const done = connection.subscribe(`done.${pool}.${id}`, { max: 1, timeout: 30_000 });

// The answer is the broker's acknowledgement: the job is on disk. It refuses a second job under the same id,
// and a pool or an executor that does not exist has no responders.
const head = headers();
head.set("Content-Type", "application/msgpack");
head.set("Nats-Msg-Id", `${pool}.${id}`);
head.set("Muster-Signature", signature(creds, subject, body));
const answer = await connection.request(subject, body, { timeout: 5_000, headers: head });
const { error } = answer.json();
if (error) {
  console.error(`the broker refused the job: ${error.description}`);
  process.exit(1);
}

for await (const message of done) {
  console.log(JSON.stringify(decode(message.data)));
}
await connection.close();
