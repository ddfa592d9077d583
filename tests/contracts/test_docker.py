"""What must hold of docker/ and can be read from its files: Docker itself is not needed here."""

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
