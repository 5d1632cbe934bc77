# SPDX-License-Identifier: MIT
"""The command line: what it prints, and its exit statuses."""

import json
import pathlib
import re
import subprocess

import pytest
from conftest import ROOT

CONFIG = """
links = ( { name = "local"; host = "127.0.0.1"; } );
services = { file = { plugin = "file"; targets = { out = { path = "%s/out"; }; room = { path = "%s/{room}.log"; };
    }; }; gone = { plugin = "file"; targets = { out = { path = "/nonexistent/folder/out"; }; }; }; };
routes = (
    { name = "warm"; topic = "{room}/celsius"; decode = "number"; when = "value > 30"; title = "{room}";
      format = "{value:.1f}"; targets = "file"; },
    { name = "lost"; topic = "lost"; targets = "file:{payload}"; },
    { name = "last"; topic = "+/celsius"; targets = "file:out"; }
);
"""


@pytest.fixture
def tocsin(build):
    def call(*args, status=0, text=None):
        done = subprocess.run([build / "tocsin", *map(str, args)], capture_output=True, text=True, input=text,
                              timeout=60)
        assert done.returncode == status, done.stdout + done.stderr
        return done

    return call


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "tocsin.conf"
    path.write_text(CONFIG % (tmp_path, tmp_path))
    return path


def test_check_says_yes(tocsin, config):
    assert "fine: 1 link, 2 services with 3 targets, 3 routes" in tocsin("check", "-c", config).stdout
    assert json.loads(tocsin("check", "--json", "-c", config).stdout)["ok"] is True


def test_check_names_everything_that_is_wrong_at_once(tocsin, tmp_path):
    (tmp_path / "conf.d").mkdir()
    (tmp_path / "conf.d" / "10.conf").write_text('routes = ( { topic = "x"; wehn = "1"; } );\n')
    path = tmp_path / "tocsin.conf"
    path.write_text('links = ( { name = "local"; host = "127.0.0.1"; } );\n'
                    'services = { f = { plugin = "fiel"; }; };\n'
                    'routes = (\n  { topic = "a"; when = "value >"; },\n  { topic = "a/#/b"; format = "{x"; }\n);\n'
                    "lgo_level = 1;\n")
    out = tocsin("check", "-c", path, status=1).stdout
    for part in ('tocsin.conf:2: services.f.plugin: ', 'did you mean', "tocsin.conf:4: routes[0].when: ",
                 "tocsin.conf:5: routes[1].topic: ", "tocsin.conf:5: routes[1].format: ",
                 "tocsin.conf:7: lgo_level: ", "10.conf:1: routes[2].wehn: "):
        assert part in out, f"{part} is not in\n{out}"
    answer = json.loads(tocsin("check", "--json", "-c", path, status=1).stdout)
    assert answer["ok"] is False and len(answer["errors"]) == out.count("\n") - 1


def test_check_of_a_file_that_is_not_there(tocsin, tmp_path):
    assert "No such file" in tocsin("check", "-c", tmp_path / "none.conf", status=1).stdout


def test_the_sample_is_right_and_shows_every_option(tocsin):
    assert (ROOT / "conf" / "tocsin.conf").read_text() == tocsin("help", "--sample").stdout
    tocsin("check", "-c", ROOT / "conf" / "tocsin.conf")


def test_explain_tells_why(tocsin, config, tmp_path):
    out = tocsin("explain", "-c", config, "attic/celsius", "31.25").stdout
    assert '* route "warm" (+/celsius): dispatched' in out
    assert "field room = \"attic\"" in out and "would go to file:out" in out and "31.2" in out
    assert f"{tmp_path}/attic.log" in out
    assert '- route "lost" (lost): the topic does not match' in out
    assert "3 deliveries would be made; nothing was sent." in out
    out = tocsin("explain", "-c", config, "attic/celsius", "12").stdout
    assert '- route "warm" (+/celsius): `when` was false' in out
    assert "1 delivery would be made" in out
    assert "field value = 31.4\n" in tocsin("explain", "-c", config, "attic/celsius", "31.4").stdout
    out = tocsin("explain", "-c", config, "attic/celsius", "-5").stdout
    assert "`when` was false" in out
    assert not (tmp_path / "out").exists()


def test_explain_tells_once_what_fails_in_a_text_for_html_too(tocsin, tmp_path):
    (tmp_path / "list.tmpl").write_text("{% for x in rows %}{{ x }}{% endfor %}")
    path = tmp_path / "tocsin.conf"
    path.write_text('links = ( { name = "local"; } ); services = { mail = { plugin = "mail"; host = "127.0.0.1";'
                    ' from = "a@b.c"; targets = { ops = { to = "d@e.f"; body = "both"; }; }; }; };'
                    ' routes = ( { topic = "#"; template = "list.tmpl"; targets = "mail"; } );')
    out = tocsin("explain", "-c", path, "a", "{}").stdout
    assert out.count("what the for is to go through has no value") == 1, out


def test_explain_tells_of_a_route_of_another_link(tocsin, tmp_path):
    path = tmp_path / "tocsin.conf"
    path.write_text('broker = { }; links = ( { name = "office"; host = "127.0.0.1"; } );\n'
                    'services = { log = { plugin = "log"; }; };\n'
                    'routes = ( { topic = "a"; link = "office"; targets = "log"; } );\n')
    assert 'it listens to the link "office" only' in tocsin("explain", "-c", path, "a", "1").stdout
    assert "1 delivery would be made" in tocsin("explain", "-c", path, "-l", "office", "a", "1").stdout
    assert 'no link "offcie"' in tocsin("explain", "-c", path, "-l", "offcie", "a", "1", status=1).stderr


def test_explain_for_programs(tocsin, config):
    answer = json.loads(tocsin("explain", "--json", "-c", config, "attic/celsius", "31.25").stdout)
    assert [r["route"] for r in answer["routes"]] == ["warm", "lost", "last"]
    assert answer["routes"][0]["fields"] == {"room": "attic", "value": 31.25}
    assert [d["target"] for d in answer["deliveries"]] == ["out", "room", "out"]
    answer = json.loads(tocsin("explain", "--json", "-c", config, "lost", "nowhere").stdout)
    assert answer["routes"][1]["unknown_targets"] == ["file:nowhere"]


def test_explain_reads_a_payload_from_standard_input(tocsin, config):
    out = tocsin("explain", "-c", config, "--file", "attic/celsius", "-", text="40").stdout
    assert "40.0" in out


def test_send_delivers_through_the_plugin(tocsin, config, tmp_path):
    assert "file:out: sent" in tocsin("send", "-c", config, "file:out", "hello").stdout
    assert (tmp_path / "out").read_text() == "hello\n"
    answer = json.loads(tocsin("send", "--json", "-c", config, "file:out", "again").stdout)
    assert answer["verdict"] == "sent"
    assert "tried again" in tocsin("send", "-c", config, "gone:out", "hello", status=75).stdout
    assert "known are: file:out file:room\n" in tocsin("send", "-c", config, "file:none", "x", status=1).stderr
    assert "file:room gone:out\n" in tocsin("send", "-c", config, "fiel:out", "x", status=1).stderr
    assert "/{room}.log\n" in tocsin("send", "-c", config, "file:room", "x").stderr
    tocsin("send", "-c", config, "file", "x", status=2)


def test_plugins_are_listed_with_their_options(tocsin):
    listed = tocsin("plugins").stdout
    folders = sorted(p.name for p in (ROOT / "plugins").iterdir() if p.is_dir())
    assert [line.split()[0] for line in listed.splitlines()] == folders
    for name in folders:
        text = tocsin("plugins", name).stdout
        options = json.loads(tocsin("plugins", "--json", name).stdout)
        for option in options["service_options"] + options["target_options"]:
            assert option["name"] in text
            assert option["help"].endswith("."), option
        assert (ROOT / "plugins" / name / f"{name}.md").read_text().startswith("# ")
    assert "did you mean" in tocsin("plugins", "mial", status=1).stderr


@pytest.mark.parametrize("section", ["settings", "broker", "listener", "link", "tls", "router", "route", "service", "target", "retry", "queue", "fields",
                                     "formats", "expressions", "templates", "functions"])
def test_every_section_has_help(tocsin, section):
    assert len(tocsin("help", section).stdout.splitlines()) > 4


def test_help_names_functions_and_fields_that_there_are(tocsin, tmp_path):
    named = re.findall(r"(\w+)\(", tocsin("help", "expressions").stdout)
    assert "regex" in named and "tojson" in named
    path = tmp_path / "tocsin.conf"
    path.write_text('links = ( { name = "local"; } ); services = { log = { plugin = "log"; }; }; routes = ( { topic = "#";'
                    ' when = "%s"; targets = "log"; } );' % " and ".join(f"type({f}) == 'function'" for f in named))
    assert ": dispatched\n" in tocsin("explain", "-c", path, "a", "1").stdout
    names = [name for line in tocsin("help", "fields").stdout.splitlines() if re.match(r"  (topic|_)", line)
             for name in re.split("  +", line)[1].split()]
    assert "topic" in names and "_dthhmmss" in names
    path.write_text('links = ( { name = "local"; } ); services = { log = { plugin = "log"; }; }; routes = ( { topic = "#";'
                    ' format = "%s"; targets = "log"; } );' % "".join("{%s}" % name for name in names))
    assert "missing" not in tocsin("explain", "-c", path, "a", "1").stdout


@pytest.mark.parametrize("command", ["run", "check", "explain", "send", "pub", "sub", "plugins", "help", "version"])
def test_every_command_has_help_and_a_manual_page(tocsin, tmp_path, command):
    text = tocsin(command, "--help").stdout
    assert text.startswith(f"tocsin {command}: ")
    assert tocsin("help", command).stdout == text
    page = tmp_path / f"tocsin-{command}.1"
    page.write_text(tocsin("help", "--man", command).stdout)
    lint = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", page], capture_output=True, text=True)
    assert lint.stdout == ""


@pytest.mark.parametrize("page", ["tocsin", "tocsin.conf"])
def test_manual_pages_are_well_formed(tocsin, tmp_path, page):
    path = tmp_path / page
    path.write_text(tocsin("help", "--man", page).stdout)
    lint = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", path], capture_output=True, text=True)
    assert lint.stdout == ""


def test_calls_that_make_no_sense(tocsin):
    assert 'did you mean "check"?' in tocsin("chekc", status=2).stderr
    assert "Try `tocsin explain --help`" in tocsin("explain", "a", status=2).stderr
    assert "there is no option --josn" in tocsin("check", "--josn", status=2).stderr
    assert "options stand before" in tocsin("send", "log:default", "x", "-t", "y", status=2).stderr
    assert "bad topic" in tocsin("explain", "a/#", "x", status=2).stderr
    assert tocsin("--help").stdout == tocsin("help").stdout
    tocsin(status=2)


def test_version(tocsin):
    assert json.loads(tocsin("version", "--json").stdout)["version"]
    assert tocsin("--version").stdout == tocsin("version").stdout
