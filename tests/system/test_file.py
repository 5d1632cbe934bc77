# SPDX-License-Identifier: MIT
"""The plugin file: what is in the files afterwards, and what becomes of the messages when something is wrong."""

import os
import resource
import signal
import stat

import pytest
from plugin_host import PluginHost


def one(path, text, **more):
    target = {"path": str(path), **more.pop("target", {})}
    return {"target": target, "text": text, **more}


def verdicts(results):
    return [r["verdict"] for r in results]


NEWLINES = [
    # newline, delivery, what is written
    ("auto", {"text": "a"}, b"a\n"),
    ("auto", {"text": "a\n"}, b"a\n"),
    ("auto", {"text": ""}, b"\n"),
    ("auto", {"payload": "a", "text_is_payload": True}, b"a\n"),
    ("auto", {"payload_hex": "00ff0a00", "text": "?", "text_is_payload": True}, b"\x00\xff\x0a\x00"),
    ("always", {"text": "a\n"}, b"a\n\n"),
    ("always", {"payload_hex": "00ff", "text": "?", "text_is_payload": True}, b"\x00\xff\n"),
    ("never", {"text": "a"}, b"a"),
    ("never", {"text": ""}, b""),
    ("auto", {"payload": "raw", "text": "formatted"}, b"formatted\n"),
]


@pytest.mark.parametrize("mode", ["append", "overwrite"])
@pytest.mark.parametrize("newline, delivery, want", NEWLINES)
def test_a_line_feed_comes_where_the_policy_says(tmp_path, mode, newline, delivery, want):
    target = {"path": str(tmp_path / "f"), "mode": mode, "newline": newline}
    with PluginHost("file") as host:
        assert verdicts(host.send({"target": target, **delivery})) == ["sent"]
    assert (tmp_path / "f").read_bytes() == want


def test_a_batch_for_several_files_keeps_the_order_of_each(tmp_path):
    with PluginHost("file", max_open_files=3) as host:
        for batch in range(3):
            lines = [one(tmp_path / f"f{i % 7}", f"{batch}.{i}") for i in range(100)]
            assert verdicts(host.send(*lines)) == ["sent"] * 100
    for f in range(7):
        want = [f"{b}.{i}" for b in range(3) for i in range(100) if i % 7 == f]
        assert (tmp_path / f"f{f}").read_text().split() == want


def test_only_so_many_files_are_open(tmp_path):
    with PluginHost("file", max_open_files=5) as host:
        host.send(*[one(tmp_path / f"f{i}", "x") for i in range(20)])
        links = [os.readlink(f"/proc/{host.process.pid}/fd/{n}") for n in os.listdir(f"/proc/{host.process.pid}/fd")]
        assert sum(str(tmp_path) in link for link in links) == 5
        host.send(*[one(tmp_path / f"f{i}", "y") for i in range(20)])
    assert all((tmp_path / f"f{i}").read_text() == "x\ny\n" for i in range(20))


def test_a_batch_for_one_file_is_one_write(tmp_path):
    with PluginHost("file") as host:
        host.send(one(tmp_path / "f", "first"))
        before = write_calls(host)
        host.send(*[one(tmp_path / "f", "x" * i) for i in range(100)])
        assert write_calls(host) - before < 10  # the tool's own answer is among them


def write_calls(host):
    for line in open(f"/proc/{host.process.pid}/io"):
        if line.startswith("syscw:"):
            return int(line.split()[1])
    raise AssertionError("no count of writes")


def test_a_rotated_file_is_made_again_without_a_signal(tmp_path):
    with PluginHost("file") as host:
        host.send(one(tmp_path / "f", "1"))
        os.rename(tmp_path / "f", tmp_path / "f.1")
        host.send(one(tmp_path / "f", "2"))
        os.unlink(tmp_path / "f")
        host.send(one(tmp_path / "f", "3"))
    assert (tmp_path / "f.1").read_text() == "1\n"
    assert (tmp_path / "f").read_text() == "3\n"


def test_reopen_lets_go_of_files(tmp_path):
    with PluginHost("file") as host:
        host.send(one(tmp_path / "f", "1"))
        os.unlink(tmp_path / "f")
        host.reopen()
        fds = f"/proc/{host.process.pid}/fd"
        assert not any(str(tmp_path) in os.readlink(f"{fds}/{n}") for n in os.listdir(fds))


def test_permissions_are_those_of_the_target_whatever_the_umask(tmp_path):
    before = os.umask(0o077)
    try:
        with PluginHost("file") as host:
            host.send(
                one(tmp_path / "a", "x", target={"permissions": "0644"}),
                one(tmp_path / "b", "x", target={"permissions": "660", "mode": "overwrite"}),
                one(tmp_path / "c", "x"),
                one(tmp_path / "d/e/f", "x", target={"mkdir": True}),
            )
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / f).stat().st_mode) for f in ("a", "b", "c", "d/e/f")]
    assert modes == [0o644, 0o660, 0o640, 0o640]


def test_overwrite_replaces_as_a_whole(tmp_path):
    path = tmp_path / "f"
    path.write_text("old and long\n")
    old = os.open(path, os.O_RDONLY)
    try:
        with PluginHost("file") as host:
            over = {"mode": "overwrite"}
            assert verdicts(host.send(*[one(path, str(i), target=over) for i in range(5)])) == ["sent"] * 5
            assert path.read_text() == "4\n"
            # both modes on one path, in the order of the batch
            host.send(one(path, "a"), one(path, "b", target=over), one(path, "c"))
        assert os.read(old, 100) == b"old and long\n"
    finally:
        os.close(old)
    assert path.read_text() == "b\nc\n"
    assert os.listdir(tmp_path) == ["f"]


def test_folders_are_made_only_when_asked(tmp_path):
    with PluginHost("file") as host:
        for mode in ("append", "overwrite"):
            path = tmp_path / mode / "b/f"
            [result] = host.send(one(path, "x", target={"mode": mode}))
            assert result["verdict"] == "retry" and "No such file" in result["reason"]
            [result] = host.send(one(path, "x", target={"mode": mode, "mkdir": True}))
            assert result["verdict"] == "sent"


REJECTED = ["", "/", "/tmp", "x" * 300, "/" + "x/" * 3000 + "f"]


@pytest.mark.parametrize("mode", ["append", "overwrite"])
@pytest.mark.parametrize("path", REJECTED)
def test_a_path_that_never_works_is_rejected(tmp_path, mode, path):
    if len(path) == 300:
        path = str(tmp_path / path)
    with PluginHost("file") as host:
        results = host.send(
            {"target": {"path": "x", "mode": mode}, "rendered": {"path": path}, "text": "x"},
            one(tmp_path / "good", "x"),
        )
    assert verdicts(results) == ["reject", "sent"]
    assert results[0]["reason"]


def test_a_failing_file_holds_back_its_own_messages_only(tmp_path):
    with PluginHost("file") as host:
        results = host.send(
            one(tmp_path / "good", "1"),
            one("/dev/full", "2"),
            one(tmp_path / "good", "3"),
            one("/dev/full", "4"),
        )
    assert verdicts(results) == ["sent", "retry", "sent", "retry"]
    assert "No space left" in results[1]["reason"] and "/dev/full" in results[1]["reason"]
    assert results[3]["reason"] == ""  # it was not its turn
    assert (tmp_path / "good").read_text() == "1\n3\n"


def test_a_torn_line_is_taken_away_again(tmp_path):
    """A limit of the file's size stands for the full disk: the last write gets half through."""
    path = tmp_path / "f"
    limit = 1 << 30
    lines = [one(path, "0123456789") for _ in range(10)]  # 11 bytes each
    with PluginHost("file") as host:
        with open(path, "wb") as f:
            f.truncate(limit - 3 * 11 - 5)
        resource.prlimit(host.process.pid, resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        results = host.send(*lines)
        assert verdicts(results) == ["sent"] * 3 + ["retry"] * 7
        assert "File too large" in results[3]["reason"]
        assert [r["reason"] for r in results[4:]] == [""] * 6
        assert path.stat().st_size == limit - 5
        resource.prlimit(host.process.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        assert verdicts(host.send(*lines[3:])) == ["sent"] * 7
    with open(path, "rb") as f:
        f.seek(limit - 3 * 11 - 5)
        assert f.read() == b"0123456789\n" * 10


def test_a_pipe_without_a_reader_is_a_failure_and_no_hang(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with PluginHost("file") as host:
        [result] = host.send(one(path, "1"))
        assert result["verdict"] == "retry"
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        for mode in ("append", "overwrite"):
            [result] = host.send(one(path, mode, target={"mode": mode}))
            assert result["verdict"] == "sent"
        assert os.read(reader, 100) == b"append\noverwrite\n"
        os.close(reader)
        [result] = host.send(one(path, "1"))
        assert result["verdict"] == "retry"


def test_large_payloads_and_sync(tmp_path):
    big = "x" * (5 << 20)
    with PluginHost("file", sync=True) as host:
        assert verdicts(host.send(one(tmp_path / "f", big), one(tmp_path / "f", "end"))) == ["sent"] * 2
        assert verdicts(host.send(one(tmp_path / "g", big, target={"mode": "overwrite"}))) == ["sent"]
    assert (tmp_path / "f").read_text() == big + "\nend\n"
    assert (tmp_path / "g").read_text() == big + "\n"


@pytest.mark.parametrize("permissions", ["", "8", "64", "0888", "rw-r-----", "01777", "10644", "1644"])
def test_permissions_that_are_none_are_an_error_of_the_configuration(permissions):
    with PluginHost("file") as host:
        assert "octal" in host.check_target({"path": "f", "permissions": permissions})


def test_signals_of_a_limit_do_not_end_the_host():
    """The tool is set up as the daemon's workers are; without that the test above would prove nothing."""
    with PluginHost("file") as host:
        ignored = next(line for line in open(f"/proc/{host.process.pid}/status") if line.startswith("SigIgn:"))
        assert int(ignored.split()[1], 16) & 1 << signal.SIGXFSZ - 1


@pytest.mark.parametrize("mode", ["append", "overwrite"])
def test_at_the_limit_of_open_files_older_ones_make_room(tmp_path, mode):
    def batch(mode):
        return [one(tmp_path / mode / f"f{i}", "line", target={"mode": mode, "mkdir": True}) for i in range(100)]
    with PluginHost("file", max_open_files=200) as host:
        assert verdicts(host.send(*batch("append")[:1])) == ["sent"]
        pid = host.process.pid
        limit = len(os.listdir(f"/proc/{pid}/fd")) + 2
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, limit))
        assert verdicts(host.send(*batch("append")[:20])) == ["sent"] * 20
        assert verdicts(host.send(*batch(mode))) == ["sent"] * 100
    assert all((tmp_path / mode / f"f{i}").exists() for i in range(100))
