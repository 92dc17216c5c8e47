"""deploy/pin.sh asks registries, with the real curl over TLS, which image a tag names, and writes it down."""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from tests.support.cloud import ROOT
from tests.support.cloud_build import FILE, TESTS
from tests.support.photo_host import Authority

DIGESTS = {
    "gcr.io/v2/google.com/cloudsdktool/google-cloud-cli/manifests/slim": "sha256:" + 64 * "a",
    "mirror.gcr.io/v2/library/python/manifests/3.11": "sha256:" + 64 * "b",
}
FILES = (FILE, TESTS)


@contextmanager
def registry(folder: Path, digests: dict[str, str]) -> Iterator[int]:
    """Answers as a registry does, for every host; the port it listens on."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            """A manifest's head: its digest, for all architectures if requested."""
            digest = digests.get(f"{self.headers['Host']}{self.path}")
            all_of_them = "application/vnd.oci.image.index.v1+json" in self.headers["Accept"]
            self.send_response(200 if digest else 404)
            if digest and all_of_them:
                self.send_header("Docker-Content-Digest", digest)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.socket = Authority(folder).server.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()


def pin(folder: Path, digests: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Run the script on copies of the builds, with a curl that finds every registry here."""
    (folder / "deploy").mkdir(exist_ok=True)
    shutil.copy(ROOT / "deploy" / "pin.sh", folder / "deploy")
    for file in FILES:
        if not (folder / file.name).exists():
            shutil.copy(file, folder)
    with registry(folder, digests) as port:
        (folder / ".curlrc").write_text(f'insecure\nconnect-to = "::127.0.0.1:{port}"\n')
        environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder), "CURL_HOME": str(folder)}
        command = ["/bin/bash", str(folder / "deploy" / "pin.sh")]
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def names(folder: Path) -> list[str]:
    """The images of both builds."""
    found = [
        re.findall(r"^    name: (.*)$", (folder / file.name).read_text(), re.MULTILINE) for file in FILES
    ]
    return [name for each in found for name in each]


def test_every_image_gets_its_digest_and_later_the_newer_one(tmp_path: Path) -> None:
    """Only the digests change; an older digest is replaced."""
    before = {file.name: re.sub("@sha256:[0-9a-f]+", "", file.read_text()) for file in FILES}
    newer = {name: digest.replace("aaaa", "cccc") for name, digest in DIGESTS.items()}
    for digests in (DIGESTS, newer):
        done = pin(tmp_path, digests)
        assert (done.returncode, done.stderr) == (0, "")
        first, *others = names(tmp_path)
        gcloud, python = digests.values()
        assert first == f"&gcloud gcr.io/google.com/cloudsdktool/google-cloud-cli:slim@{gcloud}"
        assert others == [*["*gcloud"] * 4, f"mirror.gcr.io/library/python:3.11@{python}"]
        for name, text in before.items():
            assert re.sub("@sha256:[0-9a-f]+", "", (tmp_path / name).read_text()) == text
    assert not list(tmp_path.glob("*.before"))


def test_an_image_that_is_not_there_is_told(tmp_path: Path) -> None:
    """A registry that does not know the image ends it, with what was asked; that image stays as it was."""
    done = pin(tmp_path, dict(list(DIGESTS.items())[1:]))
    assert done.returncode != 0
    assert "404" in done.stderr
    assert names(tmp_path)[0].endswith(":slim")
