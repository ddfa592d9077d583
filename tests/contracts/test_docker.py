"""The contents of docker/, without Docker."""

import re
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docker/compose.yaml").read_text()
SERVICES = yaml.safe_load(TEXT)["services"]
SECRET = re.compile(r"(PASSWORD|SECRET_ACCESS_KEY|SECRET_KEY|AUTH_STRING)$")


def test_the_services_are_there():
    assert {"postgres", "storage", "mlflow", "prefect", "worker", "worker-gpu"} <= set(SERVICES)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_pinned_checked_and_local(name):
    service = SERVICES[name]
    if "image" in service:
        assert re.search(r":\S*\d\S*$", service["image"]) and "latest" not in service["image"]
    else:
        assert (ROOT / "docker" / service["build"]["context"] / service["build"]["dockerfile"]).exists()
    assert "healthcheck" in service
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    for key, value in service.get("environment", {}).items():
        if SECRET.search(key):
            assert re.fullmatch(r"(\w+:)?\$\{\w+:\?\}", value), f"{key} is not from the environment"


def test_every_file_that_is_mounted_or_copied_exists():
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            if (source := volume.split(":")[0]).startswith("."):
                assert (ROOT / "docker" / source).exists()
    copied = re.findall(r"(?m)^COPY (.+) \S+$", (ROOT / "docker/Dockerfile").read_text())
    assert all((ROOT / name).exists() for line in copied for name in line.split())


def test_images_have_the_versions_of_the_lock():
    lock = dict(line.split("==") for line in (ROOT / "requirements.lock").read_text().split())
    assert SERVICES["prefect"]["image"].split(":")[1].startswith(lock["prefect"])
    assert re.search(r"(?m)^FROM \S+:3\.11\.\d+-", (ROOT / "docker/Dockerfile").read_text())


def test_modules_that_services_run_exist():
    for module in re.findall(r"python -m (flows\.\w+)", TEXT):
        assert (ROOT / f"{module.replace('.', '/')}.py").exists()


def environment(name: str) -> dict[str, str]:
    return SERVICES[name]["environment"]


def test_each_worker_serves_and_reaps_another_pool():
    commands = {name: SERVICES[name]["command"] for name in SERVICES if name.startswith("worker")}
    assert commands == {"worker": "python -m flows.worker local", "worker-gpu": "python -m flows.worker gpu"}
    assert "deploy" in SERVICES["worker-gpu"] and "deploy" not in SERVICES["worker"]
    assert environment("deployment")["SPEECH_RBA_POOL"] == "${NIGHTLY_POOL:-local}"
    for name in commands:
        assert SERVICES[name]["init"] and "deployment" in SERVICES[name]["depends_on"]
        assert "SPEECH_RBA_POOL" not in environment(
            name
        )  # the service `deployment` alone says where nightly runs


def test_each_secret_is_known_to_one_server_and_its_clients():
    """Each is known to the server that checks it and to its clients, which use it as one user."""
    known_to = {
        "POSTGRES_PASSWORD": {"postgres"},  # its administrator
        "MLFLOW_DATABASE_PASSWORD": {"postgres", "mlflow"},
        "PREFECT_DATABASE_PASSWORD": {"postgres", "prefect"},
        "S3_PASSWORD": {"storage", "mlflow"},
        "MLFLOW_SECRET_KEY": {"mlflow"},
        "REVIEWER_PASSWORD": {"mlflow", "accounts"},
        "TRAINER_PASSWORD": {"accounts", "deployment", "worker", "worker-gpu"},
        "OPERATOR_PASSWORD": {"prefect", "deployment", "worker", "worker-gpu"},
    }
    services, keys = {}, {}
    for name, service in SERVICES.items():
        for key, value in service.get("environment", {}).items():
            for secret in re.findall(r"\$\{(\w+):\?\}", value):
                services.setdefault(secret, set()).add(name)
                keys.setdefault((name, secret), []).append(key)
    assert services == known_to
    assert {where: names for where, names in keys.items() if len(names) > 1} == {}
    outside = re.sub(r"(?m)^      \w+: .*$|^  \w+: .*$|^#.*$", "", TEXT)
    assert not re.search(r"\$\{\w+:\?\}", outside), "every user of a machine can list command lines"


def test_databases_have_the_users_that_the_addresses_name():
    sql = (ROOT / "docker/databases.sql").read_text()
    addresses = {"mlflow": "MLFLOW_BACKEND_STORE_URI", "prefect": "PREFECT_API_DATABASE_CONNECTION_URL"}
    for name, key in addresses.items():
        variable = f"{name.upper()}_DATABASE_PASSWORD"
        assert f"//{name}:${{{variable}:?}}@postgres/{name}" in environment(name)[key]
        assert f"\\getenv {name}_password {variable}" in sql
        assert f"CREATE ROLE {name} LOGIN PASSWORD :'{name}_password';" in sql
        assert f"CREATE DATABASE {name} OWNER {name};" in sql
        assert variable in environment("postgres")


@pytest.mark.parametrize("name", ["mlflow", "accounts", "prefect", "deployment", "worker", "worker-gpu"])
def test_services_reach_each_other_past_a_proxy(name):
    hosts = environment(name)["no_proxy"].split(",")
    assert {"127.0.0.1", "localhost", "mlflow", "prefect", "postgres", "storage"} == set(hosts)
    assert environment(name)["NO_PROXY"] == environment(name)["no_proxy"]


def test_the_image_waits_without_spinning_and_a_person_may_switch_the_hub_on():
    dockerfile = (ROOT / "docker/Dockerfile").read_text()
    assert re.search(r"\bOMP_WAIT_POLICY=passive\b", dockerfile)
    for name in ("deployment", "worker", "worker-gpu"):
        assert environment(name)["HF_HUB_OFFLINE"] == "${HF_HUB_OFFLINE:-1}"


def test_folders_that_volumes_are_mounted_on_belong_to_the_worker():
    dockerfile = (ROOT / "docker/Dockerfile").read_text()
    folders = re.search(r"mkdir -p (.+?) && chown -R worker \.", dockerfile)[1].split()
    mounted = [volume.split(":")[1] for volume in SERVICES["worker"]["volumes"]]
    assert [path.removeprefix("/home/worker/project/") for path in mounted] == folders
