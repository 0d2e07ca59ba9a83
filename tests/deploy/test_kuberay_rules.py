"""Each of KubeRay's rules refuses what it is about, so that an overlay without complaints means something."""

import copy

import pytest
import yaml
from kuberay_rules import complaints
from manifests import KUBERAY

_RAY = "spec.rayClusterConfig"
_HEAD = f"{_RAY}.headGroupSpec"
_WORKER = f"{_RAY}.workerGroupSpecs.0"
_REDIS = {"redisAddress": "redis:6379"}
_STEPS = {"gatewayClassName": "istio", "stepSizePercent": 10, "intervalSeconds": 60}


def _incremental(**changes):
    return {"type": "NewClusterWithIncrementalUpgrade", "clusterUpgradeOptions": {**_STEPS, **changes}}


def _env(name, value="1"):
    return [{"name": name, "value": value}]


@pytest.fixture(scope="module")
def base():
    return yaml.safe_load((KUBERAY / "base" / "rayservice.yaml").read_text())


def test_the_base_is_fine(base):
    assert complaints(base) == []


@pytest.mark.parametrize(
    ("path", "value", "complaint"),
    [
        ("metadata.name", "t" * 48, "47 characters"),
        ("metadata.name", "0tts", "DNS1035"),
        ("metadata.annotations", {"ray.io/initializing-timeout": "soon"}, "initializing-timeout"),
        (f"{_HEAD}.headService", {"metadata": {"name": "mine"}}, "headService"),
        (f"{_HEAD}.template.spec.containers.0.ports", [{"name": "http", "containerPort": 8000}], "named 'serve'"),
        (f"{_RAY}.upgradeStrategy", {"type": "Recreate"}, "created by RayService"),
        ("spec.upgradeStrategy.type", "Recreate", "valid options"),
        ("spec.rayClusterDeletionDelaySeconds", -1, "rayClusterDeletionDelaySeconds"),
        ("spec.upgradeStrategy", {"type": "NewClusterWithIncrementalUpgrade"}, "clusterUpgradeOptions are required"),
        ("spec.upgradeStrategy", _incremental(maxSurgePercent=101), "maxSurgePercent"),
        ("spec.upgradeStrategy", _incremental(stepSizePercent=-1), "stepSizePercent"),
        ("spec.upgradeStrategy", _incremental(maxSurgePercent=5), "less than or equal to maxSurgePercent"),
        ("spec.upgradeStrategy", _incremental(intervalSeconds=0), "intervalSeconds"),
        ("spec.upgradeStrategy", _incremental(gatewayClassName=""), "gatewayClassName"),
        (f"{_HEAD}.template.spec.containers", [], "at least one container"),
        (f"{_WORKER}.template.spec.containers", [], "at least one container"),
        (f"{_HEAD}.resources", {"CPU": "1"}, "both rayStartParams and resources"),
        (f"{_WORKER}.rayStartParams.labels", "a=b", "not supported"),
        (f"{_WORKER}.labels", {"a b": "c"}, "invalid label key"),
        (f"{_WORKER}.labels", {"a": "b c"}, "invalid label value"),
        (f"{_WORKER}.minReplicas", -1, "negative minReplicas"),
        (f"{_WORKER}.maxReplicas", -1, "negative maxReplicas"),
        (f"{_WORKER}.minReplicas", 2, "greater than maxReplicas"),
        (f"{_WORKER}.idleTimeoutSeconds", -1, "idleTimeoutSeconds must be non-negative"),
        (f"{_WORKER}.suspend", True, "cannot be suspended"),
        (f"{_HEAD}.rayStartParams.redis-username", "me", "redis username"),
        (f"{_HEAD}.template.spec.containers.0.env", _env("RAY_REDIS_ADDRESS"), "gcsFaultToleranceOptions is not"),
        (f"{_RAY}.gcsFaultToleranceOptions", {"backend": "rocksdb"}, "GCSFaultToleranceEmbeddedStorage"),
        (f"{_RAY}.gcsFaultToleranceOptions", {**_REDIS, "storage": {}}, "rocksdb backend"),
        (f"{_RAY}.autoscalerOptions.idleTimeoutSeconds", -1, "autoscalerOptions.idleTimeoutSeconds"),
        (f"{_RAY}.autoscalerOptions.env", _env("KUBERAY_GEN_AUTOSCALER_START_CMD"), "START_CMD"),
        (f"{_HEAD}.template.spec.containers.0.env", _env("RAY_enable_autoscaler_v2"), "both autoscalerOptions"),
        (f"{_WORKER}.template.spec.restartPolicy", "Always", "restartPolicy"),
        (f"{_RAY}.authOptions.enableK8sTokenAuth", True, "not supported for RayService"),
        (f"{_RAY}.rayVersion", "2.51.0", "Ray 2.52.0"),
        (f"{_RAY}.rayVersion", "", "Ray 2.52.0"),
        (f"{_RAY}.networkPolicy", {"mode": "DenyAll"}, "RayClusterNetworkPolicy"),
        (f"{_RAY}.tlsOptions", {"enabled": True}, "RayClusterMTLS"),
    ],
)
def test_what_kuberay_refuses_is_complained_about(base, path, value, complaint):
    assert any(complaint in found for found in complaints(_with(base, **{path: value})))


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        (
            {f"{_RAY}.enableInTreeAutoscaling": False, f"{_WORKER}.minReplicas": None},
            "both minReplicas and maxReplicas",
        ),
        ({f"{_RAY}.enableInTreeAutoscaling": False, "spec.upgradeStrategy": _incremental()}, "Autoscaler is required"),
        (
            {
                f"{_RAY}.enableInTreeAutoscaling": False,
                f"{_HEAD}.template.spec.containers.0.env": _env("RAY_enable_autoscaler_v2"),
            },
            "enableInTreeAutoscaling is false",
        ),
        ({f"{_RAY}.autoscalerOptions.version": "v1", f"{_WORKER}.idleTimeoutSeconds": 9}, "need autoscaler v2"),
        ({f"{_RAY}.rayVersion": "2.55.1", f"{_WORKER}.priority": 1}, "Ray 2.56.0"),
        (
            {f"{_RAY}.gcsFaultToleranceOptions": _REDIS, "metadata.annotations": {"ray.io/ft-enabled": "true"}},
            "both set",
        ),
        (
            {f"{_RAY}.gcsFaultToleranceOptions": _REDIS, f"{_HEAD}.rayStartParams.redis-password": "secret"},
            "redis-password",
        ),
        (
            {
                f"{_RAY}.gcsFaultToleranceOptions": _REDIS,
                f"{_HEAD}.template.spec.containers.0.env": _env("REDIS_PASSWORD"),
            },
            "REDIS_PASSWORD",
        ),
    ],
)
def test_what_kuberay_refuses_together_is_complained_about(base, changes, complaint):
    assert any(complaint in found for found in complaints(_with(base, **changes)))


def _with(service, **changes):
    """A copy with these fields changed, each named by its path."""
    changed = copy.deepcopy(service)
    for path, value in changes.items():
        *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
        place = changed
        for part in parents:
            place = place[part]
        place[last] = value
    return changed
