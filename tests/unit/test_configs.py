import warnings
from pathlib import Path

import pytest
import yaml

from serve_app.config import AppConfig

with warnings.catch_warnings(action="ignore"):  # Ray 2.60 uses what pydantic 2.14 deprecates
    from ray.serve.schema import ServeDeploySchema

    from serve_app.cli import cluster

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_every_file_is_taken_by_serve_and_by_the_application(path):
    document = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
    (application,) = document.applications
    assert application.import_path == "serve_app.app:build_app"
    AppConfig.model_validate(application.args)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_no_file_limits_the_time_of_a_socket(path):
    document = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
    assert document.http_options.request_timeout_s is None


def test_the_local_file_is_reachable_from_this_machine_only():
    document = ServeDeploySchema.model_validate(yaml.safe_load((CONFIGS[0].parent / "local.yaml").read_text()))
    assert document.http_options.host == "127.0.0.1"


def test_the_generators_of_the_gpu_file_fit_on_one_gpu():
    document = yaml.safe_load((CONFIGS[0].parent / "gpu.yaml").read_text())
    generator = AppConfig.model_validate(document["applications"][0]["args"]).generator
    assert generator.num_gpus * generator.max_replicas <= 1


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.name)
def test_a_file_says_how_its_lines_look_to_serve_and_to_the_application_alike(path):
    document = ServeDeploySchema.model_validate(yaml.safe_load(path.read_text()))
    config = AppConfig.model_validate(document.applications[0].args)
    serves = "TEXT" if document.logging_config is None else document.logging_config.encoding
    assert config.logs.format == serves.lower() == ("text" if path.name == "local.yaml" else "json")
    assert config.logs.level == "INFO"
    assert config.tracing.endpoint is None


@pytest.mark.parametrize(
    ("prefix", "address"), [("/", "127.0.0.1:8123"), ("/tts", "127.0.0.1:8123/tts"), ("/a/b", "127.0.0.1:8123/a/b")]
)
def test_what_is_printed_begins_with_the_prefix(prefix, address):
    document = yaml.safe_load((CONFIGS[0].parent / "local.yaml").read_text())
    document["http_options"] = {"host": "0.0.0.0", "port": 8123}
    document["applications"][0]["route_prefix"] = prefix
    site = cluster.site_of(ServeDeploySchema.model_validate(document))
    assert site.address == address
