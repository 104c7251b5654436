"""A service in Python that submits a job straight onto NATS, waits for its stored result and prints it.

    pip install -r requirements.txt
    python3 submit.py nats://127.0.0.1:4222 service.creds [pool]

With TLS on, MUSTER_CA names the authority's certificate, and `muster creds issue` wrote a certificate and its key beside the credentials.

It needs no library of Muster: a job is a MessagePack map, its address is its subject, and the key of the credentials
signs both. Agents run what is signed by a key that is registered for the pool, which `muster creds issue` does.
"""

import asyncio
import base64
import hashlib
import json
import os
import pathlib
import ssl
import sys
import time
import uuid

import msgpack
import nats
import nkeys


def signature(credentials: str, subject: str, body: bytes) -> str:
    """The signature of a job, for its header: of its subject, this moment, and the digest of its body."""
    with open(credentials, encoding="ascii") as file:
        seed = next(line.strip() for line in file if line.startswith("SU"))
    key = nkeys.from_seed(seed.encode())
    at = time.time_ns() // 1000
    text = f"muster 1\njob\n{subject}\n{at}\n{hashlib.sha256(body).hexdigest()}"
    signed = base64.urlsafe_b64encode(key.sign(text.encode())).rstrip(b"=")
    return f"{key.public_key.decode()}.{at}.{signed.decode()}"


def certificates(credentials: str) -> dict:
    if not (ca := os.environ.get("MUSTER_CA")):
        return {}
    context, path = ssl.create_default_context(cafile=ca), pathlib.Path(credentials)
    context.load_cert_chain(path.with_suffix(".pem"), path.with_suffix(".key"))
    return {"tls": context}


async def main(url: str, credentials: str, pool: str = "default") -> None:
    connection = await nats.connect(url, user_credentials=credentials, **certificates(credentials))
    job_id = f"py-{uuid.uuid4().hex}"
    job = {"v": 1, "type": "probe.echo", "params": {"greeting": "hello from Python"}, "timeout_s": 10}
    subject, body = f"jobs.{pool}.normal.probe.{job_id}", msgpack.packb(job)

    # Listen before publishing, so that the result cannot be missed. The broker tells it once it is stored.
    done = await connection.subscribe(f"done.{pool}.{job_id}", max_msgs=1)

    # The answer is the broker's acknowledgement: the job is on disk. It refuses a second job under the same id,
    # and a pool or an executor that does not exist has no responders.
    answer = await connection.request(
        subject,
        body,
        timeout=5,
        headers={
            "Content-Type": "application/msgpack",
            "Nats-Msg-Id": f"{pool}.{job_id}",
            "Muster-Signature": signature(credentials, subject, body),
        },
    )
    if error := json.loads(answer.data).get("error"):
        sys.exit(f"the broker refused the job: {error['description']}")

    message = await done.next_msg(timeout=30)
    print(json.dumps(msgpack.unpackb(message.data)))
    await connection.close()


if __name__ == "__main__":
    if len(sys.argv) not in (3, 4):
        sys.exit("usage: submit.py NATS_URL CREDENTIALS_FILE [POOL]")
    asyncio.run(main(*sys.argv[1:]))
