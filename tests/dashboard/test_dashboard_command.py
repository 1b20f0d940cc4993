"""The command line of the dashboard: what it is asked for, and what is wrong with that."""

import socket

import pytest

from pipeline.commands import dashboard, main


def refused(capsys, *arguments):
    """What the command says as it ends."""
    assert main(["dashboard", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_run_that_is_not_there(made, capsys):
    line = refused(capsys, "mnist", "--tracking-uri", made.uri, "--port", "0")
    assert line.endswith("has no run 'mnist'; there are: cifar, digits")


def test_a_server_that_is_not_there(capsys):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        uri = f"http://127.0.0.1:{unused.getsockname()[1]}"
        assert "cannot be reached" in refused(capsys, "--tracking-uri", uri, "--port", "0")


def test_a_store_that_is_not_there(tmp_path, capsys):
    assert "there is no" in refused(capsys, "--tracking-uri", f"sqlite:///{tmp_path / 'no.db'}", "--port", "0")
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken(made, capsys):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        line = refused(capsys, "--tracking-uri", made.uri, "--port", port)
    assert (
        line == f"error: --port, --host: cannot listen on 127.0.0.1 port {port} (Address already in use); give others"
    )


def test_a_host_that_is_none(made, capsys):
    assert "cannot listen on no.such.host.invalid" in refused(
        capsys, "--tracking-uri", made.uri, "--host", "no.such.host.invalid", "--port", "0"
    )


@pytest.mark.parametrize("port", ["web", "-1", "70000"])
def test_no_port(capsys, port):
    with pytest.raises(SystemExit) as ended:
        main(["dashboard", f"--port={port}"])
    assert ended.value.code == 2
    assert "is no port" in capsys.readouterr().err


def test_folders_that_are_none_of_a_run(tmp_path, capsys):
    assert "is no folder of a run" in refused(capsys, str(tmp_path))
    assert "there is no folder" in refused(capsys, f"{tmp_path}/none")
    (tmp_path / "config.yaml").write_text("name: [")
    assert "config.yaml cannot be read" in refused(capsys, str(tmp_path))


def test_folders_of_two_registries(tmp_path, capsys):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.yaml").write_text(
            f"name: {name}\nregistry: {{tracking_uri: 'sqlite:///{tmp_path}/{name}.db'}}\n"
        )
    line = refused(capsys, str(tmp_path / "one"), str(tmp_path / "two"))
    assert "recorded in different stores" in line


def test_a_folder_names_its_registry_and_its_run_comes_first(made, monkeypatch):
    served = []
    monkeypatch.setattr(dashboard, "_serve", lambda app, place, store: served.append((app, place.getsockname(), store)))
    assert main(["dashboard", str(made.home / "cifar"), "--port", "0"]) == 0
    ((app, (host, _), store),) = served
    assert (host, store) == ("127.0.0.1", made.uri)
    (chosen,) = [part for part in app.layout()._traverse() if getattr(part, "id", None) == "chosen"]
    assert chosen.value == ["sweep-0"], "not the latest"
    assert [option["value"] for option in chosen.options] == ["sweep-1", "sweep-0"]
