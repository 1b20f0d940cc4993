"""The recipes of deploy/: what can be known of them without the systems that they are for."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
import ray
import yaml

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
ALL = sorted(str(path.relative_to(DEPLOY)) for path in DEPLOY.rglob("*") if path.is_file())
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
RAYJOB = yaml.safe_load((DEPLOY / "kuberay-rayjob.yaml").read_text())


def lint(program: str, *arguments: str) -> str:
    """What a linter of the environment that runs the tests has to say."""
    done = subprocess.run([Path(sys.executable).parent / program, *arguments], capture_output=True, text=True)
    return done.stdout + done.stderr


def images() -> list[str]:
    found = re.findall(r"(?:image:(?: &\w+)?|FROM) (\S+)", "".join((DEPLOY / name).read_text() for name in ALL))
    return [image for image in found if not image.startswith("*")]


def containers() -> list[dict]:
    cluster = RAYJOB["spec"]["rayClusterSpec"]
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [container for group in groups for container in group["template"]["spec"]["containers"]]


def test_the_linters_find_nothing():
    assert lint("shellcheck", str(DEPLOY / "slurm.sbatch")) == ""
    assert lint("hadolint", str(DEPLOY / "Dockerfile")) == ""


def test_every_image_is_pinned_to_a_full_version():
    assert len(images()) >= 8
    for image in images():
        assert re.fullmatch(r"[\w./-]+:v?\d+\.\d+(\.\d+)?[\w.-]*", image), image


@pytest.mark.parametrize("name", ALL)
def test_no_file_holds_a_secret(name):
    text = (DEPLOY / name).read_text()
    given = re.findall(r"(?i)\w*(?:password|secret|token|access_key)\w*[ \t]*[:=](?!\?)[ \t]*(\S*)", text)
    # Nothing, a variable, an ellipsis in a comment, a reference to a Kubernetes secret, a path.
    assert all(re.match(r'$|"?\$|…|\{|~', value) for value in given), given


def test_every_secret_of_compose_must_be_given_and_stands_in_the_example():
    text = (DEPLOY / "compose.yaml").read_text()
    wanted = set(re.findall(r"\$\{(\w+)", text))
    assert wanted == set(re.findall(r"\$\{(\w+):\?", text)), "a variable has a default or may be empty"
    example = dict(line.split("=") for line in (DEPLOY / ".env.example").read_text().splitlines() if "=" in line)
    assert set(example) == wanted
    assert set(example.values()) == {""}


def test_compose_listens_on_loopback_alone():
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_compose_mentions_only_what_it_has():
    services, volumes = COMPOSE["services"], COMPOSE["volumes"]
    for service in services.values():
        assert set(service.get("depends_on", {})) <= set(services)
        assert {volume.split(":")[0] for volume in service.get("volumes", [])} <= set(volumes)
        assert {config["source"] for config in service.get("configs", [])} <= set(COMPOSE["configs"])
    files = [config["file"] for config in COMPOSE["configs"].values() if "file" in config]
    assert all((DEPLOY / file).exists() for file in files)
    for service in ("mlflow", "ray-head"):
        assert (DEPLOY / services[service]["build"]["context"] / services[service]["build"]["dockerfile"]).exists()
    (shell,) = [part for part in services["mlflow"]["command"] if "mlflow server" in part]
    assert "--app-name basic-auth" in shell


def test_the_image_runs_as_nobody_and_brings_no_build_tools():
    stages = (DEPLOY / "Dockerfile").read_text().split("\nFROM ")
    assert re.search(r"^USER [1-9]\d*$", stages[-1], re.M)
    assert not re.search(r"build-essential|gcc|\bgit\b|pip install", stages[-1])
    copied = [line.split()[1] for line in stages[-1].splitlines() if line.startswith("COPY ") and "--from" not in line]
    assert all((ROOT / path).exists() for path in copied)


@pytest.mark.parametrize("entrypoint", [RAYJOB["spec"]["entrypoint"], "deploy/README.md", "deploy/slurm.sbatch"])
def test_commands_name_what_exists(entrypoint):
    text = (ROOT / entrypoint).read_text() if (ROOT / entrypoint).is_file() else entrypoint
    for path in re.findall(r"(?:pipeline|configs)/[\w.-]+\.(?:py|yaml)", text):
        assert path == "configs/NAME.yaml" or (ROOT / path).exists(), path


def test_the_ray_job_is_one_of_kuberay():
    assert (RAYJOB["apiVersion"], RAYJOB["kind"]) == ("ray.io/v1", "RayJob")
    spec = RAYJOB["spec"]
    assert spec["shutdownAfterJobFinishes"]
    (workers,) = spec["rayClusterSpec"]["workerGroupSpecs"]
    assert workers["minReplicas"] == workers["replicas"] == 0 < workers["maxReplicas"]
    assert spec["rayClusterSpec"]["enableInTreeAutoscaling"]
    assert spec["rayClusterSpec"]["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0"
    wanted = re.search(r'"ray\[[\w,]+\]>=([\d.]+),', (ROOT / "pyproject.toml").read_text())[1]
    assert spec["rayClusterSpec"]["rayVersion"].startswith(f"{wanted}.")


def test_containers_have_limits_and_take_credentials_from_secrets():
    assert len(containers()) == 2
    for container in containers():
        assert container["resources"]["limits"] == container["resources"]["requests"]
        assert not container["securityContext"]["allowPrivilegeEscalation"]
        assert all("secretKeyRef" in one["valueFrom"] for one in container["env"])
    assert "nvidia.com/gpu" in containers()[1]["resources"]["limits"]


def test_the_cloud_cluster_fits_rays_own_schema_and_its_workers_are_of_the_spot_market():
    cluster = yaml.safe_load((DEPLOY / "ray-cluster.yaml").read_text())
    schema = Path(ray.__file__).parent / "autoscaler" / "ray-schema.json"
    jsonschema.validate(cluster, json.loads(schema.read_text()))
    types = cluster["available_node_types"]
    assert types["gpu"]["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert (types["gpu"]["min_workers"], types["head"]["resources"]["CPU"]) == (0, 0)


@pytest.mark.parametrize("name", ALL)
def test_no_image_is_the_latest(name):
    assert ":latest" not in (DEPLOY / name).read_text()
