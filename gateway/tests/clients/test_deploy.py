"""What deploy/ says, as far as it can be read without a container engine: every file that is mounted, copied or named is there,
and those who speak to each other use the same names."""

import json
import pathlib
import re

import yaml

DEPLOY = pathlib.Path(__file__).parent.parent.parent.parent / "deploy"


def read(*path):
    return yaml.safe_load(DEPLOY.joinpath(*path).read_text())


def mounts(service):
    """Where things of ours are in a container, by their place there; those of the engine's own have no path."""
    found = {}
    for mount in service.get("volumes", []):
        source, target = mount.split(":")[:2]
        if source.startswith("."):
            found[target] = (DEPLOY / source).resolve()
    return found


def inside(service, path):
    """The file of ours that a container sees at this path."""
    for target, source in mounts(service).items():
        if path == target or path.startswith(f"{target}/"):
            return source / path[len(target) :].lstrip("/") if path != target else source
    raise AssertionError(f"nothing is mounted at {path}")


def test_everything_that_the_compose_file_mounts_builds_and_depends_on_is_there():
    compose = read("compose.yaml")
    services = compose["services"]
    for name, service in services.items():
        assert ("image" in service) != ("build" in service), name
        assert set(service.get("depends_on", [])) <= set(services), name
        assert set(service.get("secrets", [])) <= set(compose["secrets"]), name
        for mount in service.get("volumes", []):
            source = mount.split(":")[0]
            # Named volumes are the engine's; the models are whoever's they are, as the file says at its top.
            if source == "./models":
                assert "./models/model.gguf" in (DEPLOY / "compose.yaml").read_text().split("services:")[0]
            elif source.startswith("."):
                assert (DEPLOY / source).exists(), f"{name}: {source}"
            else:
                assert source in compose["volumes"], f"{name}: {source}"
    build = services["tidegate"]["build"]
    root = (DEPLOY / build["context"]).resolve()
    dockerfile = root / build["dockerfile"]
    assert (root / "Cargo.lock").is_file() and dockerfile.is_file() and pathlib.Path(f"{dockerfile}.dockerignore").is_file()


def test_the_gateway_is_where_the_others_look_for_it():
    compose, config = read("compose.yaml"), read("gateway.yaml")
    services = compose["services"]
    gateway = services["tidegate"]
    started = re.search(r"^CMD (.*)$", (DEPLOY / "Dockerfile").read_text(), re.M)
    assert inside(gateway, json.loads(started[1])[-1]) == DEPLOY / "gateway.yaml"
    ports = {config["listen"].split(":")[1], config["admin"]["listen"].split(":")[1]}
    assert ports == {port.split(":")[-1] for port in gateway["ports"]}
    assert config["admin"]["token"] == "${env:ADMIN_TOKEN}" and "ADMIN_TOKEN" in gateway["environment"]
    for pool in config["pools"].values():
        for backend in pool["backends"]:
            host, port = re.fullmatch(r"http://(\w+):(\d+)", backend).groups()
            assert port in services[host]["command"]
    seconds = lambda text: int(text[:-1]) * {"s": 1, "m": 60}[text[-1]]
    assert seconds(gateway["stop_grace_period"]) > seconds(config["drain"]["time"])


def test_prometheus_and_grafana_find_what_they_are_given():
    compose = read("compose.yaml")
    services = compose["services"]
    prometheus = read("prometheus", "prometheus.yml")
    assert inside(services["prometheus"], "/etc/prometheus/prometheus.yml") == DEPLOY / "prometheus" / "prometheus.yml"
    for rules in prometheus["rule_files"]:
        assert inside(services["prometheus"], f"/etc/prometheus/{rules}").is_file()
    (job,) = prometheus["scrape_configs"]
    assert job["authorization"]["credentials_file"] == "/run/secrets/" + services["prometheus"]["secrets"][0]
    (target,) = job["static_configs"][0]["targets"]
    assert target.split(":")[0] in services and target.split(":")[1] == read("gateway.yaml")["admin"]["listen"].split(":")[1]

    grafana = services["grafana"]
    assert inside(grafana, "/etc/grafana/provisioning") == DEPLOY / "grafana" / "provisioning"
    (source,) = read("grafana", "provisioning", "datasources", "prometheus.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090" and source["type"] == "prometheus" and source["isDefault"]
    assert source["jsonData"]["timeInterval"] == prometheus["global"]["scrape_interval"]
    (provider,) = read("grafana", "provisioning", "dashboards", "tidegate.yaml")["providers"]
    folder = inside(grafana, provider["options"]["path"])
    (dashboard,) = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    # It asks whichever Prometheus there is: the default one, until somebody chooses another.
    asked = []

    def keep(table):
        asked.extend([table["datasource"]] if isinstance(table.get("datasource"), dict) else [])
        return table

    json.loads(json.dumps(dashboard), object_hook=keep)
    variables = {variable["name"]: variable for variable in dashboard["templating"]["list"]}
    assert variables["datasource"]["type"] == "datasource" and variables["datasource"]["query"] == source["type"]
    assert len(asked) > 50 and all(one == {"type": "prometheus", "uid": "${datasource}"} for one in asked), asked


def test_the_unit_keeps_the_journal_of_usage_over_a_restart():
    """In memory, in a directory that is the service's own: it need not be said in the file."""
    unit = (DEPLOY / "systemd" / "tidegate.service").read_text()
    settings = dict(line.split("=", 1) for line in unit.splitlines() if "=" in line and not line.startswith("#"))
    assert settings["RuntimeDirectoryPreserve"] == "restart" and settings["Restart"] == "on-failure"
    assert settings["Environment"] == f"TIDEGATE_JOURNAL=/run/{settings['RuntimeDirectory']}"
