"""The composition root: one function that turns a configuration into a Serve application.

``serve run FILE``, ``serve deploy FILE`` and ``tts-serve FILE`` all call it. No other code builds deployments.
"""

import warnings
from pathlib import Path
from typing import Any

from ray import serve
from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

from serve_app.config import AppConfig, Settings
from serve_app.deployments.generator import Generator
from serve_app.deployments.ingress import Ingress
from serve_app.paths import found

_MANY = 100_000
"""High enough that Serve's own limit is never reached: Serve would reject a request with a bare 500, while our sessions
give a reason."""

_METRICS_INTERVAL_S = 1.0
"""How often Serve collects the load for our policy; its default of ten seconds is longer than many texts."""

_ROUTING_STATS_PERIOD_S = 2.0
"""How often Serve asks the generators which voices they hold."""


def build_app(args: AppConfig) -> serve.Application:
    """Build the application: sockets and sessions in the ingress, one engine in each generator.

    Args:
        args: the file's ``args:``, which Serve validates because of this annotation.
    """
    config = with_absolute_paths(args, Path.cwd())
    generator: Any = serve.deployment(Generator, name="Generator", **generator_options(config))
    ingress: Any = serve.deployment(Ingress, name="Ingress", **ingress_options(config))
    return ingress.bind(config, generator.bind(config))


def with_absolute_paths(config: AppConfig, working_directory: Path) -> AppConfig:
    """Resolve the configuration's relative paths, against the working directory or else the project's root."""
    voices = {"path": str(found(config.voices.path, working_directory))}
    if config.voices.uploads is not None:
        voices["uploads"] = str((working_directory / config.voices.uploads).resolve())
    update: dict[str, Settings] = {"voices": config.voices.model_copy(update=voices)}
    if config.access.keys_file is not None:
        keys_file = str(found(config.access.keys_file, working_directory))
        update["access"] = config.access.model_copy(update={"keys_file": keys_file})
    return config.model_copy(update=update)


def generator_options(config: AppConfig) -> dict[str, Any]:
    """Return Serve's options for the generator deployment."""
    replicas = config.generator
    options: dict[str, Any] = {
        "max_ongoing_requests": config.engine.slots,
        "max_queued_requests": max(1, config.engine.max_waiting_streams * replicas.max_replicas),
        "ray_actor_options": {"num_cpus": replicas.num_cpus, "num_gpus": replicas.num_gpus},
        "graceful_shutdown_timeout_s": replicas.graceful_shutdown_timeout_s,
        "request_router_config": {
            "request_router_class": "serve_app.deployments.router.VoiceRouter",
            "request_routing_stats_period_s": _ROUTING_STATS_PERIOD_S,
        },
        # Three consecutive checks must fail, so a hung replica receives no new streams after at most 18 s.
        "health_check_period_s": 3.0,
        "health_check_timeout_s": 5.0,
    }
    if replicas.min_replicas == replicas.max_replicas:
        options["num_replicas"] = replicas.max_replicas
    else:
        options["autoscaling_config"] = _autoscaling(config)
    return options


def _autoscaling(config: AppConfig) -> AutoscalingConfig:
    """Return Serve's autoscaling options. Our policy alone decides; Serve's own delays are switched off.

    ``initial_replicas`` is not set, because Serve would return to it at every change of the deployment's options.
    """
    with warnings.catch_warnings():
        # Ray 2.60 deprecates metrics_interval_s but never reads the environment variables that replace it.
        warnings.simplefilter("ignore", DeprecationWarning)
        return AutoscalingConfig(
            min_replicas=config.generator.min_replicas,
            max_replicas=config.generator.max_replicas,
            target_ongoing_requests=config.engine.slots,  # not used, but Serve warns if it exceeds the slots
            metrics_interval_s=_METRICS_INTERVAL_S,
            look_back_period_s=3 * _METRICS_INTERVAL_S,
            upscale_delay_s=0.0,
            downscale_delay_s=0.0,
            policy=AutoscalingPolicy(
                policy_function="serve_app.deployments.autoscaling_policy:ScaleGenerators",
                policy_kwargs={"slots": config.engine.slots, "scaling": config.scaling.model_dump()},
            ),
        )


def ingress_options(config: AppConfig) -> dict[str, Any]:
    """Return Serve's options for the ingress deployment."""
    actor: dict[str, Any] = {"num_cpus": config.ingress.num_cpus}
    if config.ingress.label_selector:
        # Serve spreads replicas over all nodes with free resources, including those with a GPU.
        actor["label_selector"] = config.ingress.label_selector
    return {
        "num_replicas": config.ingress.replicas,
        "max_ongoing_requests": _MANY,
        "ray_actor_options": actor,
        "graceful_shutdown_timeout_s": config.ingress.graceful_shutdown_timeout_s,
        # A redeploy starts the new replicas before the old ones stop accepting sockets. Serve's default order is the
        # reverse, so with a single ingress no client could connect in the meantime.
        "max_surge_percent": 100,
    }
