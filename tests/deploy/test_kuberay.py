"""The overlays of deploy/kuberay, rendered: they keep the schemas, and agree with the service's configuration."""

import importlib.util
import re
import tomllib
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml
from manifests import KUBERAY, KUBERNETES, OVERLAYS, ROOT, crd_schema, only, pod_templates, rendered

from serve_app.cli.environment import Ports, serve_environment
from serve_app.config import AppConfig

# A monitor's and a rule's schemas belong to the Prometheus operator, a RayService's to KubeRay.
_NOT_CORE = {"PodMonitor", "PrometheusRule", "RayService"}


@pytest.fixture(params=OVERLAYS)
def objects(request):
    return rendered(request.param)


@pytest.fixture
def service(objects):
    return only(objects, "RayService")


@pytest.fixture
def cluster(service):
    return service["spec"]["rayClusterConfig"]


@pytest.fixture
def config(service):
    document = yaml.safe_load(service["spec"]["serveConfigV2"])
    return AppConfig.model_validate(document["applications"][0]["args"])


def test_serve_configs_are_those_of_configs():
    generate = _script("generate", KUBERAY / "generate.py")
    for path, text in generate.files().items():
        assert path.read_text() == text, f"{path} has drifted: run python deploy/kuberay/generate.py"


def test_core_objects_keep_kubernetes_schemas(objects):
    for one in objects:
        if one["kind"] not in _NOT_CORE:
            kubernetes_validate.validate(one, KUBERNETES, strict=True)


def test_pods_keep_kubernetes_schemas(objects):
    for name, template in pod_templates(objects).items():
        pod = {"apiVersion": "v1", "kind": "Pod", **template, "metadata": {"name": name, **template["metadata"]}}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)


def test_example_secrets_keep_their_schema_and_hold_nothing():
    for secret in yaml.safe_load_all((KUBERAY / "examples" / "secrets.yaml").read_text()):
        kubernetes_validate.validate(secret, KUBERNETES, strict=True)
        assert not any(secret["stringData"].values())


def test_the_service_keeps_kuberays_schema(service):
    jsonschema.Draft202012Validator(crd_schema("rayservices")).validate(service)


def test_the_cluster_keeps_kuberays_schema(cluster):
    document = {"apiVersion": "ray.io/v1", "kind": "RayCluster", "metadata": {"name": "tts"}, "spec": cluster}
    jsonschema.Draft202012Validator(crd_schema("rayclusters")).validate(document)


def test_an_unknown_field_is_refused():
    service = yaml.safe_load((KUBERAY / "base" / "rayservice.yaml").read_text())
    service["spec"]["rayClusterConfig"]["autoscalerOptions"]["idleTimeout"] = 1
    with pytest.raises(jsonschema.ValidationError, match="idleTimeout"):
        jsonschema.Draft202012Validator(crd_schema("rayservices")).validate(service)


def test_ray_containers_have_the_port_that_kuberay_sends_clients_to(objects):
    """KubeRay builds the service of the sockets from the port named ``serve``; no schema requires one."""
    for template in _ray_pods(objects):
        ports = {port["name"]: port["containerPort"] for port in template["spec"]["containers"][0]["ports"]}
        assert ports["serve"] == 8000


def test_the_head_does_no_work_and_takes_no_sockets(service, cluster):
    assert cluster["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    assert service["spec"]["excludeHeadPodFromServeSvc"] is True


def test_ray_is_the_version_that_was_tested(cluster):
    assert f"ray=={cluster['rayVersion']}\n" in (ROOT / "constraints.txt").read_text()


def test_the_autoscaler_is_the_second(cluster):
    assert cluster["enableInTreeAutoscaling"] is True
    assert cluster["autoscalerOptions"]["version"] == "v2"


def test_every_ray_container_has_the_launchers_environment(objects, cluster, config):
    environment = only(objects, "ConfigMap")
    containers = [template["spec"]["containers"][0] for template in _ray_pods(objects)]
    for container in (*containers, cluster["autoscalerOptions"]):
        assert container["envFrom"] == [{"configMapRef": {"name": environment["metadata"]["name"]}}]
    launcher = serve_environment(Path("/run"), Ports(1, 2, 3, 4), Path("/haproxy"), 4096, config.ingress)
    # Of one machine only: paths and ports that keep two services apart, loopback, tokens (KubeRay sets those).
    own = re.compile(r"_(PATH|LOC|BASE|FILE|PORT|HOST|MAXCONN)$|^RAY_AUTH_|^RAY_ENABLE_WINDOWS")
    wanted = {name: value for name, value in launcher.items() if not own.search(name)}
    assert len(wanted) >= 5
    assert wanted.items() <= environment["data"].items()
    grace_s = float(environment["data"]["RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S"])
    assert grace_s == config.ingress.graceful_shutdown_timeout_s


def test_haproxy_is_started_by_a_program_of_the_image(objects):
    program = Path(only(objects, "ConfigMap")["data"]["RAY_SERVE_HAPROXY_BINARY_PATH"])
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert program.name in scripts
    assert f"PATH={program.parent}:" in (ROOT / "deploy" / "docker" / "Dockerfile").read_text()


def test_clients_reach_haproxy_alone(objects):
    """Not the ingresses behind it, nor Serve's own proxy (8500), which has none of HAProxy's limits."""
    rules = [rule for one in objects if one["kind"] == "NetworkPolicy" for rule in one["spec"].get("ingress", [])]
    of_clients = [rule for rule in rules if "tts-client" in str(rule["from"])]
    assert [port["port"] for rule in of_clients for port in rule["ports"]] == [8000]


def test_ingresses_are_tied_to_the_nodes_without_a_gpu_where_there_are_some(cluster, config):
    groups = cluster["workerGroupSpecs"]
    wanted = config.ingress.label_selector.items()
    chosen = [group for group in groups if wanted <= group.get("labels", {}).items()]
    without_gpu = [group for group in groups if not _resources(group)[1]]
    assert chosen == (without_gpu or groups)
    assert bool(wanted) is (len(groups) > 1)
    # A redeploy has the new replicas beside the old ones.
    cpus = sum(group["maxReplicas"] * _resources(group)[0] for group in chosen)
    assert 2 * config.ingress.replicas * config.ingress.num_cpus <= cpus


def test_one_proxy_takes_every_socket_that_the_ingresses_take(objects, config):
    most = int(only(objects, "ConfigMap")["data"]["RAY_SERVE_HAPROXY_MAXCONN"])
    assert config.ingress.replicas * config.ingress.max_sessions <= most <= 65536 // 3


def test_the_old_cluster_outlives_its_sockets(service, config):
    if service["spec"]["upgradeStrategy"]["type"] != "None":
        assert service["spec"]["rayClusterDeletionDelaySeconds"] >= config.ingress.graceful_shutdown_timeout_s


def test_every_replica_finds_room(cluster, config):
    groups = [(group["maxReplicas"], *_resources(group)) for group in cluster["workerGroupSpecs"]]
    most, smallest = config.generator, config.ingress
    cpus = sum(count * cpu for count, cpu, _ in groups)
    assert most.max_replicas * most.num_cpus + 2 * smallest.replicas * smallest.num_cpus <= cpus
    if most.num_gpus:
        generators = sum(count * int(gpus // most.num_gpus) for count, _, gpus in groups)
        assert most.max_replicas <= generators
        # A GPU's share of generators has to find as many CPUs beside it.
        assert all(gpus / most.num_gpus * most.num_cpus <= cpu for _, cpu, gpus in groups if gpus)


def test_a_gpu_is_shared_where_there_is_one(cluster, config):
    with_gpu = [group for group in cluster["workerGroupSpecs"] if _resources(group)[1]]
    assert bool(with_gpu) == (config.model.device == "cuda")
    assert not with_gpu or 0 < config.generator.num_gpus < 1


def test_containers_are_restricted(objects, cluster):
    containers = [one for template in pod_templates(objects).values() for one in template["spec"]["containers"]]
    for container in (*containers, cluster["autoscalerOptions"]):
        assert container["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": 1000,
            "runAsGroup": 1000,
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
            "seccompProfile": {"type": "RuntimeDefault"},
        }


def test_containers_say_what_they_need(objects):
    for template in pod_templates(objects).values():
        for container in template["spec"]["containers"]:
            resources = container["resources"]
            assert {"cpu", "memory"} <= resources["requests"].keys()
            assert "memory" in resources["limits"]
            assert "cpu" not in resources["limits"]


def test_ray_pods_write_to_volumes(objects):
    for template in _ray_pods(objects):
        (container,) = template["spec"]["containers"]
        writable = {one["mountPath"] for one in container["volumeMounts"] if not one.get("readOnly")}
        assert writable == {"/tmp", "/cache", "/voices"}


def test_what_is_mounted_is_there(objects, cluster):
    claims = {one["metadata"]["name"] for one in objects if one["kind"] == "PersistentVolumeClaim"}
    autoscaler = cluster["autoscalerOptions"]
    for name, template in pod_templates(objects).items():
        spec = template["spec"]
        volumes = {one["name"] for one in spec["volumes"]}
        mounts = [mount for one in spec["containers"] for mount in one["volumeMounts"]]
        mounts += autoscaler["volumeMounts"] if name == "head" else []
        assert {one["name"] for one in mounts} <= volumes
        assert _claims(template) <= claims


def test_pods_that_share_a_volume_of_one_node_are_held_to_one_and_may_all_run_there(objects):
    claims = [one for one in objects if one["kind"] == "PersistentVolumeClaim"]
    of_one_node = {one["metadata"]["name"] for one in claims if one["spec"]["accessModes"] == ["ReadWriteOnce"]}
    assert of_one_node in (set(), {one["metadata"]["name"] for one in claims})
    pods = [one["spec"] for one in pod_templates(objects).values() if _claims(one) & of_one_node]
    for spec in pods:
        assert spec["nodeSelector"] == {"tts-node": "true"}
        # A node with a GPU may be tainted for those who ask for none.
        assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert not of_one_node or len(pods) == len(pod_templates(objects))


def test_pods_with_a_gpu_may_run_on_nodes_that_are_kept_for_such(objects):
    for template in _ray_pods(objects):
        if "nvidia.com/gpu" in template["spec"]["containers"][0]["resources"]["limits"]:
            (toleration,) = template["spec"]["tolerations"]
            assert toleration == {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}


def test_what_was_compiled_and_encoded_outlives_the_pod(objects):
    for template in _ray_pods(objects):
        (volume,) = (one for one in template["spec"]["volumes"] if one["name"] == "cache")
        assert volume["persistentVolumeClaim"] == {"claimName": "tts-cache"}
        assert "tts-cache" in _claims(template)
    dockerfile = (ROOT / "deploy" / "docker" / "Dockerfile").read_text()
    for variable in ("TTS_CACHE", "NUMBA_CACHE_DIR", "TRITON_CACHE_DIR"):
        assert re.search(rf"\b{variable}=/cache/", dockerfile)


def test_no_secret_is_rendered(objects):
    assert not [one for one in objects if one["kind"] == "Secret"]


def test_ray_pods_are_probed_where_no_token_is_asked_for(objects):
    for template in _ray_pods(objects):
        (container,) = template["spec"]["containers"]
        assert container["livenessProbe"]["httpGet"] == {"path": "/api/healthz", "port": 52365}
        path = container["readinessProbe"]["httpGet"]["path"]
        assert path == ("/api/healthz" if container["name"] == "ray-head" else "/-/healthz")


def test_selectors_find_pods(objects):
    pods = [template["metadata"]["labels"] for template in pod_templates(objects).values()]
    chosen = [
        one["spec"].get("podSelector") or one["spec"]["selector"]
        for one in objects
        if one["kind"] in {"NetworkPolicy", "PodDisruptionBudget", "PodMonitor"}
    ]
    for selector in chosen:
        assert any(selector["matchLabels"].items() <= labels.items() for labels in pods), selector


def test_the_head_and_the_job_that_empties_redis_may_reach_it(objects, cluster):
    if "gcsFaultToleranceOptions" not in cluster:
        return
    # KubeRay's buildRedisCleanupJob: the head's pod with another node type.
    head = pod_templates(objects)["head"]["metadata"]["labels"]
    policies = [one["spec"] for one in objects if one["kind"] == "NetworkPolicy"]
    for labels in (head, {**head, "ray.io/node-type": "redis-cleanup"}):
        chosen = [one for one in policies if one["podSelector"]["matchLabels"].items() <= labels.items()]
        ports = {port["port"] for one in chosen for rule in one.get("egress", []) for port in rule.get("ports", [])}
        assert {53, 6379} <= ports


def test_every_worker_has_a_disruption_budget_that_kubernetes_takes(objects):
    budgets = [one["spec"] for one in objects if one["kind"] == "PodDisruptionBudget"]
    # Pods of a custom resource without a scale subresource: an integer minAvailable and nothing else.
    assert all(isinstance(one["minAvailable"], int) and "maxUnavailable" not in one for one in budgets)
    for template in _ray_pods(objects)[1:]:
        labels = template["metadata"]["labels"].items()
        assert len([one for one in budgets if one["selector"]["matchLabels"].items() <= labels]) == 1


def test_monitors_name_ports_that_exist(objects):
    for monitor in (one for one in objects if one["kind"] == "PodMonitor"):
        selector = monitor["spec"]["selector"]["matchLabels"].items()
        wanted = {one["port"] for one in monitor["spec"]["podMetricsEndpoints"]}
        for template in _ray_pods(objects):
            if selector <= template["metadata"]["labels"].items():
                assert wanted <= {port["name"] for port in template["spec"]["containers"][0]["ports"]}


def test_weights_are_fetched_by_the_job_alone(objects, config):
    jobs = {one["metadata"]["name"]: one for one in objects if one["kind"] == "Job"}
    offline = only(objects, "ConfigMap")["data"].get("HF_HUB_OFFLINE")
    if config.model.source == "demo":
        assert "tts-weights" not in jobs
        return
    (container,) = jobs["tts-weights"]["spec"]["template"]["spec"]["containers"]
    revision = [] if config.model.revision is None else ["--revision", config.model.revision]
    assert container["command"] == ["hf", "download", config.model.source, *revision]
    assert offline == "1"


def test_all_pods_run_one_image(objects):
    images = {one["image"] for template in pod_templates(objects).values() for one in template["spec"]["containers"]}
    (image,) = images
    assert re.search(r"qwen3-tts-serve:\S+$", image)


def _claims(template):
    """Names of the claims that a pod mounts."""
    volumes = template["spec"]["volumes"]
    return {one["persistentVolumeClaim"]["claimName"] for one in volumes if "persistentVolumeClaim" in one}


def _ray_pods(objects):
    """The head's template first."""
    return [one for one in pod_templates(objects).values() if "ray.io/node-type" in one["metadata"]["labels"]]


def _resources(group):
    """CPUs and GPUs that KubeRay tells Ray of: the request, there being no limit, and the limit."""
    resources = group["template"]["spec"]["containers"][0]["resources"]
    return int(resources["requests"]["cpu"]), int(resources["limits"].get("nvidia.com/gpu", 0))


def _script(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
