"""What KubeRay 1.7.0 refuses beyond its CRDs' schema, as complaints about a RayService.

Source: ray-operator/controllers/ray/utils/validation.go (ValidateRayServiceMetadata, ValidateRayServiceSpec,
ValidateRayClusterSpec, ValidateClusterUpgradeOptions) and common/service.go (the port named ``serve``). What stands
behind a feature gate that is off by default is refused here, as such an operator does. Rules about RayJobs, a worker
group's ``suspend`` and inside the gated fields are left out.
"""

import re
from collections.abc import Iterator
from typing import Any

_GATED = {
    "networkPolicy": "RayClusterNetworkPolicy",
    "tlsOptions": "RayClusterMTLS",
    "historyServerOptions": "RayClusterHistoryServer",
}
_TRUE = ("1", "true")


def complaints(service: dict[str, Any]) -> list[str]:
    """Everything that KubeRay would refuse, in its own words where they are short."""
    return [*_metadata(service["metadata"]), *_service(service), *_cluster(service)]


def _metadata(metadata: dict[str, Any]) -> Iterator[str]:
    name = metadata["name"]
    if len(name) > 47:
        yield f"name should be no more than 47 characters, and has {len(name)}"
    if not re.fullmatch(r"[a-z]([-a-z0-9]*[a-z0-9])?", name):
        yield f"name should be a valid DNS1035 label: {name}"
    timeout = metadata.get("annotations", {}).get("ray.io/initializing-timeout", "")
    if timeout and not re.fullmatch(r"(\d+(\.\d+)?(ns|us|µs|ms|s|m|h))+|[1-9]\d*", timeout):
        yield f"initializing-timeout has invalid format: {timeout}"


def _service(service: dict[str, Any]) -> Iterator[str]:
    spec = service["spec"]
    cluster = spec["rayClusterConfig"]
    if cluster["headGroupSpec"].get("headService", {}).get("metadata", {}).get("name"):
        yield "headService.metadata.name should not be set"
    if not any(port["name"].partition("-")[0] == "serve" for port in _head(cluster).get("ports", [])):
        yield "no port named 'serve' in the Ray head container"
    if cluster.get("upgradeStrategy"):
        yield "upgradeStrategy cannot be set when RayCluster is created by RayService"
    strategy = spec.get("upgradeStrategy", {})
    kinds = ("NewClusterWithIncrementalUpgrade", "NewCluster", "None")
    if "type" in strategy and strategy["type"] not in kinds:
        yield f"upgradeStrategy.type {strategy['type']} is invalid, valid options are {', '.join(kinds)}"
    if spec.get("rayClusterDeletionDelaySeconds", 0) < 0:
        yield "rayClusterDeletionDelaySeconds should be a non-negative integer"
    if strategy.get("type") == kinds[0]:
        yield from _incremental(strategy.get("clusterUpgradeOptions"), autoscaling=_autoscaling(cluster))


def _incremental(options: dict[str, Any] | None, *, autoscaling: bool) -> Iterator[str]:
    if not autoscaling:
        yield "Ray Autoscaler is required for NewClusterWithIncrementalUpgrade"
    if options is None:
        yield "clusterUpgradeOptions are required for NewClusterWithIncrementalUpgrade"
        return
    surge, step = options.get("maxSurgePercent", 100), options.get("stepSizePercent", -1)
    if not 0 <= surge <= 100:
        yield "maxSurgePercent must be between 0 and 100"
    if not 0 <= step <= 100:
        yield "stepSizePercent must be between 0 and 100"
    if step > surge:
        yield "stepSizePercent must be less than or equal to maxSurgePercent"
    if options.get("intervalSeconds", 0) <= 0:
        yield "intervalSeconds must be greater than 0"
    if not options.get("gatewayClassName"):
        yield "gatewayClassName is required"


def _cluster(service: dict[str, Any]) -> Iterator[str]:
    cluster = service["spec"]["rayClusterConfig"]
    annotations = service["metadata"].get("annotations", {})
    yield from _group("Head", cluster["headGroupSpec"])
    for worker in cluster.get("workerGroupSpecs", []):
        yield from _group(worker["groupName"], worker)
        yield from _worker(worker, cluster)
    yield from _fault_tolerance(cluster, annotations)
    yield from _autoscaler(cluster)
    yield from _authentication(cluster)
    for field, gate in _GATED.items():
        if field in cluster:
            yield f"{field} requires the {gate} feature gate"


def _group(name: str, group: dict[str, Any]) -> Iterator[str]:
    params = group.get("rayStartParams", {})
    if not group["template"]["spec"].get("containers"):
        yield f"{name} should have at least one container"
    if group.get("resources") and any(params.get(key) for key in ("num-cpus", "num-gpus", "memory", "resources")):
        yield f"resource fields should not be set in both rayStartParams and resources for {name}"
    if "labels" in params:
        yield f"rayStartParams['labels'] is not supported for {name}"
    for key, value in group.get("labels", {}).items():
        if not re.fullmatch(r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?", key):
            yield f"invalid label key for {name}: {key}"
        if not re.fullmatch(r"([A-Za-z0-9]([\w.-]{0,61}[A-Za-z0-9])?)?", value):
            yield f"invalid label value for {name}: {value}"


def _worker(worker: dict[str, Any], cluster: dict[str, Any]) -> Iterator[str]:
    name, least, most = worker["groupName"], worker.get("minReplicas"), worker.get("maxReplicas")
    if not _autoscaling(cluster) and (least is None or most is None):
        yield f"{name} must set both minReplicas and maxReplicas when autoscaling is disabled"
    if least is not None and least < 0:
        yield f"{name} has negative minReplicas"
    if most is not None and most < 0:
        yield f"{name} has negative maxReplicas"
    if least is not None and most is not None and least > most:
        yield f"{name} has minReplicas {least} greater than maxReplicas {most}"
    idle, priority = worker.get("idleTimeoutSeconds"), worker.get("priority", 0)
    if idle is not None and idle < 0:
        yield f"{name}: idleTimeoutSeconds must be non-negative"
    if (idle is not None or priority) and not (
        _v2(cluster) or _env(_head(cluster), "RAY_enable_autoscaler_v2") in _TRUE
    ):
        yield f"{name}: idleTimeoutSeconds and priority need autoscaler v2"
    if priority and _version(cluster) < (2, 56):
        yield f"{name}: priority needs Ray 2.56.0"
    if worker.get("suspend") and _autoscaling(cluster):
        yield f"{name} cannot be suspended with Autoscaler enabled"


def _fault_tolerance(cluster: dict[str, Any], annotations: dict[str, str]) -> Iterator[str]:
    options, head = cluster.get("gcsFaultToleranceOptions"), _head(cluster)
    params = cluster["headGroupSpec"].get("rayStartParams", {})
    if params.get("redis-username") or _has(head, "REDIS_USERNAME"):
        yield "cannot set redis username in rayStartParams or environment variables"
    if options is None:
        if _has(head, "RAY_REDIS_ADDRESS") and annotations.get("ray.io/ft-enabled", "").lower() != "true":
            yield "RAY_REDIS_ADDRESS is set, but gcsFaultToleranceOptions is not"
    else:
        yield from _redis(options, cluster, annotations)


def _redis(options: dict[str, Any], cluster: dict[str, Any], annotations: dict[str, str]) -> Iterator[str]:
    for annotation in ("ray.io/ft-enabled", "ray.io/external-storage-namespace"):
        if annotations.get(annotation):
            yield f"{annotation} annotation and gcsFaultToleranceOptions are both set"
    if cluster["headGroupSpec"].get("rayStartParams", {}).get("redis-password"):
        yield "cannot set redis-password in rayStartParams"
    for variable in ("REDIS_PASSWORD", "RAY_REDIS_ADDRESS"):
        if _has(_head(cluster), variable):
            yield f"cannot set {variable} in the head's environment"
    if options.get("backend", "redis") == "rocksdb":
        yield "backend rocksdb requires the GCSFaultToleranceEmbeddedStorage feature gate"
    elif "storage" in options:
        yield "storage only applies to the rocksdb backend"


def _autoscaler(cluster: dict[str, Any]) -> Iterator[str]:
    options, head = cluster.get("autoscalerOptions", {}), _head(cluster)
    if options.get("idleTimeoutSeconds", 0) < 0:
        yield "autoscalerOptions.idleTimeoutSeconds must be non-negative"
    if _has(options, "KUBERAY_GEN_AUTOSCALER_START_CMD"):
        yield "autoscalerOptions.env must not contain KUBERAY_GEN_AUTOSCALER_START_CMD"
    if not _autoscaling(cluster):
        if _env(head, "RAY_enable_autoscaler_v2") in _TRUE:
            yield "RAY_enable_autoscaler_v2 cannot be set when enableInTreeAutoscaling is false"
        return
    if "version" in options and _has(head, "RAY_enable_autoscaler_v2"):
        yield "both autoscalerOptions.version and RAY_enable_autoscaler_v2 are set"
    if _v2(cluster):
        for group in (cluster["headGroupSpec"], *cluster.get("workerGroupSpecs", [])):
            if group["template"]["spec"].get("restartPolicy", "Never") != "Never":
                yield f"restartPolicy for {group.get('groupName', 'head')} should be Never or unset with autoscaler v2"


def _authentication(cluster: dict[str, Any]) -> Iterator[str]:
    options = cluster.get("authOptions", {})
    if options.get("enableK8sTokenAuth"):
        yield "K8s token auth mode is not supported for RayService"
    if options.get("mode") == "token" and _version(cluster) < (2, 52):
        yield "authOptions.mode is 'token': Ray 2.52.0 is required, and rayVersion has to say so"


def _autoscaling(cluster: dict[str, Any]) -> bool:
    return bool(cluster.get("enableInTreeAutoscaling"))


def _v2(cluster: dict[str, Any]) -> bool:
    return cluster.get("autoscalerOptions", {}).get("version") == "v2"


def _version(cluster: dict[str, Any]) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", cluster.get("rayVersion", ""))[:2])


def _head(cluster: dict[str, Any]) -> dict[str, Any]:
    return next(iter(cluster["headGroupSpec"]["template"]["spec"]["containers"]), {})


def _has(container: dict[str, Any], variable: str) -> bool:
    return any(one["name"] == variable for one in container.get("env", []))


def _env(container: dict[str, Any], variable: str) -> str | None:
    return next((one.get("value") for one in container.get("env", []) if one["name"] == variable), None)
