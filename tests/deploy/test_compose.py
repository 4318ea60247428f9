"""The compose file, the image and the provisioning, as far as they can be checked without an engine."""

from __future__ import annotations

import json
import re

import pytest
import yaml

from proxy.exchange import Mode
from proxy.settings import ENVIRONMENT_PREFIX
from proxy.settings_sources import load_settings

SERVICES = ("proxy", "model", "prometheus", "grafana")


@pytest.fixture
def compose(deploy):
    return yaml.safe_load((deploy / "compose.yaml").read_text())


def test_every_service_is_there_and_may_write_nothing_but_what_is_mounted(compose):
    assert set(compose["services"]) == set(SERVICES)
    for service in compose["services"].values():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"]) if "ports" in service else True


def test_every_image_has_a_whole_version(compose, deploy):
    dockerfile = (deploy / "docker" / "Dockerfile").read_text()
    images = [service["image"] for service in compose["services"].values()]
    images += re.findall(r"^ARG PYTHON_IMAGE=(\S+)$", dockerfile, re.MULTILINE)
    assert len(images) == len(SERVICES) + 1
    assert [image for image in images if not re.search(r":v?\d+\.\d+\.\d+", image)] == []


def test_every_mounted_path_exists_and_every_volume_is_declared(compose, deploy):
    for service in compose["services"].values():
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert (deploy / source).is_dir() if source.startswith(".") else source in compose["volumes"]


def test_the_proxys_environment_is_valid_settings(compose, monkeypatch):
    for name, value in compose["services"]["proxy"]["environment"].items():
        assert name.startswith(ENVIRONMENT_PREFIX)
        monkeypatch.setenv(name, value)
    settings = load_settings({})
    assert settings.mode is Mode.RECOVER
    assert settings.upstream.url == "http://model:8081"


def test_prometheus_scrapes_what_compose_serves(compose, deploy):
    scraped = yaml.safe_load((deploy / "prometheus" / "prometheus.yml").read_text())["scrape_configs"]
    targets = {target for job in scraped for config in job["static_configs"] for target in config["targets"]}
    assert targets == {"proxy:8080", "model:8081"}
    assert compose["services"]["model"]["command"][-1] == "8081"


def test_grafana_finds_the_dashboard_and_the_data(compose, deploy):
    provisioning = deploy / "grafana" / "provisioning"
    (provider,) = yaml.safe_load((provisioning / "dashboards" / "rass.yml").read_text())["providers"]
    (source,) = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"]
    mounts = dict(volume.split(":")[:2] for volume in compose["services"]["grafana"]["volumes"])
    assert mounts["./grafana/dashboards"] == provider["options"]["path"]
    assert source["url"] == "http://prometheus:9090"
    home = compose["services"]["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home.removeprefix(provider["options"]["path"]) == "/rass-proxy.json"


def test_the_dashboards_panels_do_not_overlap_and_each_says_what_it_tells(deploy):
    dashboard = json.loads((deploy / "grafana" / "dashboards" / "rass-proxy.json").read_text())
    panels = dashboard["panels"]
    taken = [
        (x, y)
        for panel in panels
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(taken) == len(set(taken))
    assert all(x < 24 for x, _ in taken)
    assert len({panel["id"] for panel in panels}) == len(panels)
    assert all(panel.get("description") for panel in panels if panel["type"] != "row")


def test_every_panel_and_every_alert_is_explained(deploy):
    page = (deploy.parent / "docs" / "dashboards.md").read_text(encoding="utf-8")
    dashboard = json.loads((deploy / "grafana" / "dashboards" / "rass-proxy.json").read_text())
    titles = [panel["title"] for panel in dashboard["panels"] if panel["type"] != "row"]
    assert [title for title in titles if f"**{title}**" not in page] == []
    anchors = {re.sub(r"[^\w-]", "", title.lower().replace(" ", "-")) for title in re.findall(r"^#+ (.+)$", page, re.M)}
    rules = yaml.safe_load((deploy / "prometheus" / "rules" / "rass-proxy.yml").read_text())
    alerts = [rule for group in rules["groups"] for rule in group["rules"] if "alert" in rule]
    runbooks = [alert["annotations"]["runbook"] for alert in alerts]
    assert [book for book in runbooks if book.removeprefix("docs/dashboards.md#") not in anchors] == []


def test_the_image_runs_as_nobody_in_particular(deploy):
    lines = (deploy / "docker" / "Dockerfile").read_text().splitlines()
    stages = [number for number, line in enumerate(lines) if line.startswith("FROM ")]
    assert len(stages) == 2
    final = lines[stages[-1] :]
    assert "USER 10001:10001" in final
    assert any(line.startswith("COPY --from=build") for line in final)
    copied = {name for line in lines if line.startswith("COPY ") for name in line.split()[1:-1] if "--from" not in line}
    ignored = (deploy / "docker" / "Dockerfile.dockerignore").read_text().split()
    assert copied == {name.removeprefix("!") for name in ignored if name.startswith("!")}
    assert all((deploy.parent / name).exists() for name in copied)
