"""Downloads over real sockets, from a server that misbehaves on demand."""

from __future__ import annotations

import contextlib
import hashlib
import http.server
import logging
import threading

import pytest

from bnas_larq.errors import WeightsError
from bnas_larq.zoo import downloads
from bnas_larq.zoo.downloads import download

CONTENT = bytes(range(256)) * 4096  # 1 MiB, more than one piece
SUM = hashlib.sha256(CONTENT).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves `content` at any path; `cuts` connections end half way; counts what is asked."""

    daemon_threads = True
    content = CONTENT
    announces = True
    cuts = 0
    status = 200
    location = "/weights.h5"
    endless = False

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/weights.h5"


class Handler(http.server.BaseHTTPRequestHandler):
    """GET, in the server's mood."""

    def do_GET(self):
        server = self.server
        server.asked.append(self.path)
        if server.status in (301, 302):
            self.send_response(server.status)
            self.send_header("Location", server.location)
            if server.endless:
                server.status = 200  # before the client can ask again
            self.end_headers()
            if server.endless:
                self.write_for_ever()
            return
        if server.status != 200:
            self.send_error(server.status)
            return
        body = server.content
        self.send_response(200)
        if server.endless:
            self.end_headers()
            self.write_for_ever()
            return
        if server.announces:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if server.cuts > 0:
            server.cuts -= 1
            body = body[: len(body) // 2]
        try:
            self.wfile.write(body)
        except ConnectionError:
            pass  # the client may have had enough

    def write_for_ever(self):
        with contextlib.suppress(ConnectionError):
            while True:
                self.wfile.write(CONTENT)

    def log_message(self, *args):
        pass


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cache" / "weights.h5"


@pytest.fixture(autouse=True)
def no_waiting(monkeypatch):
    monkeypatch.setattr(downloads, "PAUSE", 0.0)


def left(path):
    """What lies in the folder, but for locks."""
    return sorted(p.name for p in path.parent.glob("*") if not p.name.endswith(".lock"))


def test_a_file_is_downloaded_once(server, path, caplog):
    caplog.set_level(logging.INFO, "bnas_larq")
    assert download(server.url, path, sha256=SUM, size=len(CONTENT)) == path
    assert path.read_bytes() == CONTENT and left(path) == ["weights.h5"]
    download(server.url, path, sha256=SUM)
    assert len(server.asked) == 1
    (message,) = caplog.messages
    assert "1,048,576 bytes" in message


def test_a_cache_that_cannot_be_locked_serves_what_it_holds(server, path):
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    path.with_name(".weights.h5.lock").mkdir()
    assert download(server.url, path, sha256=SUM) == path and server.asked == []
    with pytest.raises(WeightsError, match="must be written to disk"):
        download(server.url, path, sha256="0" * 64)


@pytest.mark.parametrize("size", [None, len(CONTENT)])
def test_a_connection_that_is_cut_off_is_tried_again(server, path, size):
    server.cuts = 2
    download(server.url, path, sha256=SUM, size=size)
    assert path.read_bytes() == CONTENT and len(server.asked) == 3
    assert left(path) == ["weights.h5"]


def test_a_cut_that_nobody_announces_is_known_by_the_sum(server, path):
    server.cuts, server.announces = 1, False
    with pytest.raises(WeightsError, match="must have the SHA-256"):
        download(server.url, path, sha256=SUM)
    assert left(path) == []
    download(server.url, path, sha256=SUM, size=len(CONTENT))
    assert path.read_bytes() == CONTENT


def test_a_half_download_is_never_put_in_place(server, path):
    server.cuts = 100
    with pytest.raises(WeightsError, match="reach its end. Received: http.*try again"):
        download(server.url, path, sha256=SUM, size=len(CONTENT))
    assert left(path) == []


@pytest.mark.parametrize("announces", [False, True])
def test_less_than_was_published_is_refused_without_trying_for_ever(server, path, announces):
    server.content, server.announces = CONTENT[:5000], announces
    with pytest.raises(WeightsError, match="reach its end|must have the SHA-256"):
        download(server.url, path, sha256=SUM, size=len(CONTENT))
    assert len(server.asked) <= 6 and not path.exists()


def test_other_content_than_was_published_is_refused_and_deleted(server, path):
    server.content = CONTENT[:-1] + b"!"
    with pytest.raises(WeightsError, match="must have the SHA-256.*Received.*it was deleted"):
        download(server.url, path, sha256=SUM, size=len(CONTENT))
    assert left(path) == []


def test_a_refused_download_leaves_the_earlier_file(server, path):
    path.parent.mkdir()
    path.write_bytes(b"earlier")
    server.content = b"tampered"
    with pytest.warns(UserWarning, match="not as it was published"):
        with pytest.raises(WeightsError, match="SHA-256"):
            download(server.url, path, sha256=SUM)
    assert path.read_bytes() == b"earlier"


def test_a_file_in_the_cache_that_was_changed_is_downloaded_again(server, path):
    path.parent.mkdir()
    path.write_bytes(b"tampered")
    with pytest.warns(UserWarning, match="downloading it again"):
        download(server.url, path, sha256=SUM)
    assert path.read_bytes() == CONTENT


@pytest.mark.parametrize("announces", [False, True])
def test_more_than_was_published_is_not_fetched(server, path, announces):
    server.announces = announces
    with pytest.raises(WeightsError, match="not be larger.*more than 1,000 bytes"):
        download(server.url, path, sha256=SUM, size=1000)
    assert left(path) == []


@pytest.mark.parametrize("size", [None, 10**18])
def test_a_server_that_never_ends_fills_no_disk(server, path, size, monkeypatch):
    monkeypatch.setattr(downloads, "MAX_BYTES", 3_000_000)
    server.endless = True
    with pytest.raises(WeightsError, match="nor than 3,000,000 bytes. Received: more than 3,000,0"):
        download(server.url, path, sha256=SUM, size=size)
    assert left(path) == []


def test_a_redirection_that_never_ends_is_followed_unread(server, path, monkeypatch):
    monkeypatch.setattr(downloads, "MAX_BYTES", 3_000_000)
    server.endless, server.status = True, 302
    with pytest.raises(WeightsError, match="Received: more than 3,000,000 bytes"):
        download(server.url, path, sha256=SUM)
    assert len(server.asked) == 2


def test_a_link_in_the_place_of_the_half_download_is_not_followed(server, path, tmp_path):
    (tmp_path / "precious").write_text("years of work")
    path.parent.mkdir()
    path.with_name(".weights.h5.part").symlink_to(tmp_path / "precious")
    download(server.url, path, sha256=SUM)
    assert path.read_bytes() == CONTENT and not path.is_symlink()
    assert (tmp_path / "precious").read_text() == "years of work"


@pytest.mark.parametrize(
    ("status", "message"), [(404, "404 Not Found for http"), (403, "403"), (503, "503 Service")]
)
def test_a_server_that_refuses_is_named(server, path, status, message):
    server.status = status
    with pytest.raises(WeightsError, match=message):
        download(server.url, path, sha256=SUM)
    assert len(server.asked) == (downloads.ATTEMPTS if status >= 500 else 1)
    assert left(path) == []


def test_redirections_are_followed_until_they_go_round(server, path):
    server.status = 302
    with pytest.raises(WeightsError, match="reach its end.*redirects"):
        download(server.url, path, sha256=SUM)
    server.location = "file:///etc/hostname"
    with pytest.raises(WeightsError, match="reach its end"):
        download(server.url, path, sha256=SUM)
    assert left(path) == []


def test_no_server_at_all(server, path):
    server.server_close()
    with pytest.raises(WeightsError, match="must reach its end. Received: http.*try again"):
        download(server.url, path, sha256=SUM)


def test_files_are_copied_from_file_urls(tmp_path, path):
    source = tmp_path / "with space.h5"
    source.write_bytes(CONTENT)
    download(source.as_uri(), path, sha256=SUM)
    assert path.read_bytes() == CONTENT
    with pytest.raises(WeightsError, match="which is no file"):
        download((tmp_path / "absent").as_uri(), path.with_name("other"), sha256=SUM)
    with pytest.raises(WeightsError, match="must have the SHA-256"):
        download(source.as_uri(), path.with_name("other"), sha256="0" * 64)
    assert left(path) == ["weights.h5"]


def test_other_schemes_are_refused(path):
    with pytest.raises(WeightsError, match="begins with https, http, file. Received: 'ftp:"):
        download("ftp://example.org/w.h5", path, sha256=SUM)


def test_impossible_urls_are_refused(path):
    with pytest.raises(WeightsError, match="begins with https, http, file"):
        download("http://[x/w.h5", path, sha256=SUM)
    with pytest.raises(WeightsError, match="must reach its end. Received: http"):
        download(f"http://{'x' * 70}.invalid/w.h5", path, sha256=SUM)


def test_two_downloads_at_once_give_one_file(server, path):
    threads = [
        threading.Thread(target=download, args=(server.url, path), kwargs={"sha256": SUM})
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert path.read_bytes() == CONTENT and len(server.asked) == 1


def test_a_full_disk_is_one_sentence(server, path, full_disk):
    path.parent.mkdir()
    with full_disk(1000), pytest.raises(WeightsError, match="written to disk.*Free space"):
        download(server.url, path, sha256=SUM)
    assert not path.exists()
