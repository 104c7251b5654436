#!/usr/bin/env python3
"""Runs the tests of the Kubernetes executor against a real kube-apiserver, with etcd behind it.

Nobody ships the server as a package, so it is built from Debian's source package of kubernetes (of which Debian itself builds kubectl only), with Debian's Go.
That takes some five minutes and 2 GB once; what was built is kept in target/kubernetes. There is no kubelet and no controller: no pod ever runs, a
controller of the tests' own moves deployments along, and logs are left to the stand-in that the tests use otherwise.

Usage: run.py [--keep]   --keep leaves the server running and prints how to use it
"""

import hashlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import ssl
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / "target" / "kubernetes"
GO = HOME / "debs" / "usr" / "lib" / "go-1.19"
SOURCE = "kubernetes_1.20.5+really1.20.2.orig.tar.gz"
SHA256 = "b83c0780efb182d928dc63d46488a847f161f04e40a94b96bf5247dd671ecdfc"
PACKAGES = ["etcd-server", "golang-1.19-go", "golang-1.19-src", "golang-github-modern-go-reflect2-dev"]
# As the tests know them.
TOKENS = "t0ken-0f-the-admin-1234567890,admin,1,system:masters\nt0ken-0f-nobody-1234567890,nobody,2\n"


def run(*command, **options):
    subprocess.run(command, check=True, **options)


def fetch():
    """The source, checked, and what is needed to build and run it; nothing is installed."""
    (HOME / "apt" / "parts").mkdir(parents=True, exist_ok=True)
    (HOME / "apt" / "lists" / "partial").mkdir(parents=True, exist_ok=True)
    for file in Path("/etc/apt/sources.list.d").glob("*.sources"):
        text = file.read_text()
        if "debian-archive-keyring" in text:
            (HOME / "apt" / "parts" / file.name).write_text(re.sub(r"^Types:.*$", "Types: deb-src", text, flags=re.M))
    options = ["-o", "Dir::Etc::SourceList=/dev/null", "-o", f"Dir::Etc::SourceParts={HOME}/apt/parts", "-o", f"Dir::State::Lists={HOME}/apt/lists"]
    run("apt-get", *options, "update")
    run("apt-get", *options, "--download-only", "source", "kubernetes", cwd=HOME)
    digest = hashlib.sha256((HOME / SOURCE).read_bytes()).hexdigest()
    if digest != SHA256:
        sys.exit(f"{SOURCE} has the SHA-256 {digest}, not {SHA256}")
    run("apt-get", "update")
    run("apt-get", "download", *PACKAGES, cwd=HOME)
    for package in PACKAGES:
        for deb in HOME.glob(f"{package}_*.deb"):
            run("dpkg", "-x", str(deb), str(HOME / "debs"))
    run("tar", "xzf", SOURCE, cwd=HOME)


def build():
    """kube-apiserver. Its tree is complete but for one generated file, and one part of it that Go has outgrown."""
    tree = HOME / "kubernetes-1.20.2"
    package = HOME / "go" / "src" / "k8s.io" / "kubernetes"
    package.parent.mkdir(parents=True, exist_ok=True)
    if not package.is_symlink():
        package.symlink_to(tree)
    reflect = tree / "vendor" / "github.com" / "modern-go" / "reflect2"
    shutil.rmtree(reflect)
    shutil.copytree(HOME / "debs" / "usr" / "share" / "gocode" / "src" / "github.com" / "modern-go" / "reflect2", reflect,
                    ignore=shutil.ignore_patterns("*_test.go"))
    go = {"GOROOT": str(GO), "GOPATH": str(HOME / "go"), "GO111MODULE": "off", "GOFLAGS": "", "CGO_ENABLED": "0", "GOCACHE": str(HOME / "cache"),
          "HOME": str(HOME), "PATH": f"{GO}/bin:{os.environ['PATH']}", "PWD": str(package)}  # PWD: Go must not see through the link
    run("go", "build", "-o", str(HOME / "openapi-gen"), "./vendor/k8s.io/kube-openapi/cmd/openapi-gen", cwd=package, env=go)
    found = subprocess.run(["grep", "-rl", "--include=*.go", "^// *+k8s:openapi-gen=true", "pkg", "staging/src/k8s.io"], cwd=package, check=True,
                           capture_output=True, text=True).stdout.split()
    folders = {os.path.dirname(file) for file in found if not file.endswith("_test.go")}
    inputs = {re.sub("^pkg", "k8s.io/kubernetes/pkg", folder.removeprefix("staging/src/")) for folder in folders}
    inputs = sorted(name for name in inputs if "code-generator" not in name and "sample-" not in name)
    run(str(HOME / "openapi-gen"), "--logtostderr", "-i", ",".join(inputs), "-p", "k8s.io/kubernetes/pkg/generated/openapi", "-O", "zz_generated.openapi",
        "-h", "hack/boilerplate/boilerplate.generatego.txt", "-r", str(HOME / "report"), "--output-base", str(HOME / "go" / "src"), cwd=package, env=go,
        stderr=subprocess.DEVNULL)
    run("go", "build", "-ldflags", "-s -w", "-o", str(HOME / "kube-apiserver"), "./cmd/kube-apiserver", cwd=package, env=go)


def certificates(folder):
    quiet = {"cwd": folder, "stderr": subprocess.DEVNULL}
    run("openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=test", **quiet)
    for name, subject, extension in [("server", "/CN=server", "subjectAltName=IP:127.0.0.1"), ("client", "/O=system:masters/CN=admin", "extendedKeyUsage=clientAuth")]:
        (folder / f"{name}.ext").write_text(extension)
        run("openssl", "req", "-newkey", "rsa:2048", "-nodes", "-keyout", f"{name}.key", "-out", f"{name}.csr", "-subj", subject, **quiet)
        run("openssl", "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-out", f"{name}.pem",
            "-extfile", f"{name}.ext", **quiet)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def start(folder):
    """etcd and the server; gives both processes. The folder then has all that the tests need."""
    certificates(folder)
    (folder / "tokens.csv").write_text(TOKENS)
    client, peer, port = (f"http://127.0.0.1:{free_port()}", f"http://127.0.0.1:{free_port()}", free_port())
    etcd = subprocess.Popen(
        [str(HOME / "debs" / "usr" / "bin" / "etcd"), "--data-dir", "etcd", "--listen-client-urls", client, "--advertise-client-urls", client,
         "--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"],
        cwd=folder, stdout=(folder / "etcd.log").open("w"), stderr=subprocess.STDOUT)
    server = subprocess.Popen(
        [str(HOME / "kube-apiserver"), "--etcd-servers", client, "--secure-port", str(port), "--bind-address", "127.0.0.1",
         "--tls-cert-file", "server.pem", "--tls-private-key-file", "server.key", "--client-ca-file", "ca.pem", "--token-auth-file", "tokens.csv",
         "--authorization-mode", "RBAC", "--service-account-issuer", "https://kubernetes.default.svc", "--service-account-key-file", "server.key",
         "--service-account-signing-key-file", "server.key", "--service-cluster-ip-range", "10.0.0.0/24", "--disable-admission-plugins", "ServiceAccount"],
        cwd=folder, stdout=(folder / "server.log").open("w"), stderr=subprocess.STDOUT)
    (folder / "server").write_text(f"https://127.0.0.1:{port}")
    trust = ssl.create_default_context(cafile=str(folder / "ca.pem"))
    for _ in range(120):
        if server.poll() is not None or etcd.poll() is not None:
            break
        try:
            urllib.request.urlopen(f"https://127.0.0.1:{port}/readyz", context=trust, timeout=2)
            return etcd, server
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    sys.exit("the server did not get ready:\n" + (folder / "server.log").read_text()[-2000:])


def main():
    HOME.mkdir(parents=True, exist_ok=True)
    if not (HOME / "kube-apiserver").exists():
        fetch()
        build()
    folder = HOME / "run"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    processes = start(folder)
    try:
        if "--keep" in sys.argv:
            print(f"MUSTER_TEST_CLUSTER={folder}", flush=True)
            signal.pause()
        environment = os.environ | {"MUSTER_TEST_CLUSTER": str(folder)}
        run("cargo", "test", "-p", "muster-executor-kubernetes", "--test", "kubernetes", cwd=ROOT, env=environment)
    finally:
        for process in processes:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
