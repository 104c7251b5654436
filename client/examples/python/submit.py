"""A service in Python that submits a job straight onto NATS, waits for its stored result and prints it.

    pip install -r requirements.txt
    python3 submit.py nats://127.0.0.1:4222 service.creds [pool]

It needs no library of Muster: a job is a MessagePack map, and its address is its subject.
"""

import asyncio
import json
import sys
import uuid

import msgpack
import nats


async def main(url: str, credentials: str, pool: str = "default") -> None:
    connection = await nats.connect(url, user_credentials=credentials)
    job_id = f"py-{uuid.uuid4().hex}"
    body = {"v": 1, "type": "probe.echo", "params": {"greeting": "hello from Python"}, "timeout_s": 10}

    # Listen before publishing, so that the result cannot be missed. The broker tells it once it is stored.
    done = await connection.subscribe(f"done.{pool}.{job_id}", max_msgs=1)

    # The answer is the broker's acknowledgement: the job is on disk. It refuses a second job under the same id,
    # and a pool or an executor that does not exist has no responders.
    answer = await connection.request(
        f"jobs.{pool}.normal.probe.{job_id}",
        msgpack.packb(body),
        timeout=5,
        headers={"Content-Type": "application/msgpack", "Nats-Msg-Id": f"{pool}.{job_id}"},
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
