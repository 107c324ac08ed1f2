"""The server's configuration file, in both generations of the original's, and the command's flags."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

import cli
from engine.cores import default_cores
from engine.server import ServerSettings, SettingsError, read_config


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "server.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_config_of_the_endpoint_generation(tmp_path: Path) -> None:
    config = read_config(
        write(
            tmp_path,
            """
num_cores: 2
num_workers: 3
engine_thread_pinning: core
loggers: {prometheus: {port: 6100}}
endpoints:
  - task: question_answering
    route: /squad/predict
    model: a/b
    bucketing: {sequence_lengths: [64, 128]}
    kwargs: {doc_stride: 64}
  - {task: qa, model: c, name: second, batch_size: 8}
  - {task: text-classification, model: d}
""",
        ),
        port=9000,
        host=None,
    )
    assert config.names() == ["question_answering", "second", "text_classification"]
    assert (config.port, config.host, config.workers()) == (9000, "127.0.0.1", 3)
    cores = {"num_cores": 2, "num_streams": 3}
    given = {"batch_size": 1, "sequence_length": 128, "doc_stride": 64}
    assert config.endpoints[0].options(2, 3) == {**cores, **given}
    assert config.unused() == ["engine_thread_pinning", "loggers"]


def test_config_of_the_first_generation(tmp_path: Path) -> None:
    config = read_config(
        write(
            tmp_path,
            """
workers: 2
models:
  - {task: question_answering, model_path: a, batch_size: 1, alias: squad, engine_type: onnxruntime, scheduler: sync}
""",
        )
    )
    assert (config.names(), config.num_workers) == (["squad"], 2)
    assert config.endpoints[0].options(None, None)["engine_type"] == "onnxruntime"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no mapping"),
        ("endpoints: []", "endpoints"),
        ("endpoints: [", "isn't usable YAML"),
        ("a: &a [*a]\nendpoints: *a", "endpoints"),
        ("port: 1\nport: 2", "isn't usable YAML"),
        ("!!python/object/apply:os.system [ls]", "isn't usable YAML|holds no mapping"),
        ("[" * 1500, "isn't usable YAML"),
        ("endpoints: [{task: qa, model: a}]\nworker: 2", "worker: Extra inputs"),
        ("endpoints: [{task: qa, model: a, batchsize: 2}]", "endpoints.0.batchsize: Extra inputs"),
        ("endpoints: [{task: yolo, model: a}]", "no task is named 'yolo'"),
        ("endpoints: [{task: qa, model: a}]\nport: '1'", "port"),
        ("endpoints: [{task: qa, model: a, route: predict}]", "route"),
        ("endpoints: [{task: qa, model: a, route: /config}]", "one of the server's own"),
        ("endpoints: [{task: qa, model: a, name: x}, {task: qa, model: b, name: x}]", "share the name x"),
        ("endpoints: [{task: qa, model: a, name: ../x}]", "name"),
        ("endpoints: [{task: qa, model: a, kwargs: {batch_size: 2}}]", "kwargs may not hold"),
        ("models: 3", "models: must be a list"),
        ("models: [3]", "must be a mapping"),
    ],
)
def test_wrong_configs_are_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(SettingsError, match=message) as caught:
        read_config(path)
    assert str(path) in str(caught.value)


def test_config_files_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="can't be read"):
        read_config(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes(b"\xe9: 1")
    with pytest.raises(SettingsError, match="isn't UTF-8"):
        read_config(tmp_path / "latin.yaml")
    with pytest.raises(SettingsError, match="is larger than"):
        read_config(write(tmp_path, "#" * 2**21))


def test_worker_threads_follow_the_cores_of_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.cpu_count", lambda: 1024)
    one = {"endpoints": [{"task": "qa", "model": "a"}]}
    assert ServerSettings.checked(one, "test").workers() == max(2, default_cores() // 2)
    assert ServerSettings.checked({**one, "num_cores": 12}, "test").workers() == 6


# the command's flags

ONE = "endpoints: [{task: qa, model: a}]"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Callable[..., ServerSettings]:
    """Give the settings that `zoo serve` would run with."""

    def run(*arguments: str) -> ServerSettings:
        told: list[ServerSettings] = []
        monkeypatch.setattr("engine.server.serve", lambda settings: told.append(settings) or 0)
        with pytest.raises(SystemExit) as ended:
            cli.main(["serve", *arguments])
        assert ended.value.code == 0
        return told[0]

    return run


def test_the_config_files_address_counts_unless_a_flag_says_otherwise(
    served: Callable[..., ServerSettings], tmp_path: Path
) -> None:
    file = str(write(tmp_path, f"host: models.local\nport: 8443\n{ONE}"))
    settings = served("--config_file", file)
    assert (settings.host, settings.port) == ("models.local", 8443)
    settings = served("--config_file", file, "--host", "::1", "--port", "0")
    assert (settings.host, settings.port) == ("::1", 0)
    settings = served("--task", "qa", "--model_path", "a", "--batch_size", "2")
    assert (settings.host, settings.port, settings.endpoints[0].batch_size) == ("127.0.0.1", 5543, 2)


@pytest.mark.parametrize(
    ("flags", "values"),
    [
        (["--log-level", "info", "--integration", "local"], {"log_level": "info", "integration": "local"}),
        (["--log_level", "warn", "--integration", "sagemaker"], {"log_level": "warning", "integration": "sagemaker"}),
        (["--log-level", "fatal"], {"log_level": "critical"}),
        (["--workers", "3", "--num-cores", "2"], {"num_workers": 3, "num_cores": 2}),
    ],
)
def test_the_originals_flags(
    served: Callable[..., ServerSettings], flags: list[str], values: dict[str, object]
) -> None:
    settings = served("--task", "qa", "--model_path", "a", *flags)
    assert settings.model_dump(include=set(values)) == values


@pytest.mark.parametrize("flag", ["--hot-reload-config", "--hot_reload_config"])
def test_hot_reload_says_what_to_do_instead(
    served: Callable[..., ServerSettings], tmp_path: Path, capsys: pytest.CaptureFixture[str], flag: str
) -> None:
    served("--config_file", str(write(tmp_path, ONE)), flag)
    assert "restart the server" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--task", "qa"], "--task"),
        (["--batch_size", "1"], "--batch_size"),
        (["m"], "MODEL"),
        (["--model_path", "m"], "MODEL"),
    ],
)
def test_flags_of_an_endpoint_beside_a_config_file_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], flags: list[str], named: str
) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["serve", "--config_file", str(write(tmp_path, ONE)), *flags])
    assert ended.value.code == 2
    assert named in capsys.readouterr().err


def test_a_model_may_be_named_twice_but_not_two(
    served: Callable[..., ServerSettings], capsys: pytest.CaptureFixture[str]
) -> None:
    assert served("--task", "qa", "a").endpoints[0].model == "a"
    assert served("--task", "qa", "a", "--model_path", "a").endpoints[0].model == "a"
    with pytest.raises(SystemExit) as ended:
        cli.main(["serve", "--task", "qa", "one-model", "--model_path", "other-model"])
    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert "one-model" in said
    assert "other-model" in said
