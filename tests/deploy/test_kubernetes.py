"""The manifests in deploy/kubernetes: valid for Kubernetes by its own schemas, and consistent with the server."""

from __future__ import annotations

import re

import kubernetes_validate
import pytest
import yaml

from archscore._version import __version__
from archscore_server import cli
from support.containers import ROOT

FILES = sorted((ROOT / "deploy" / "kubernetes").glob("*.yml"))
MANIFESTS = {manifest["kind"]: manifest for file in FILES for manifest in yaml.safe_load_all(file.read_text())}
POD = MANIFESTS["Deployment"]["spec"]["template"]
[CONTAINER] = POD["spec"]["containers"]


@pytest.mark.parametrize("version", ["1.31", "1.35"])
@pytest.mark.parametrize("kind", MANIFESTS)
def test_valid(kind: str, version: str) -> None:
    kubernetes_validate.validate(MANIFESTS[kind], version, strict=True)


def test_what_is_not_valid_is_found() -> None:
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate({**MANIFESTS["Service"], "specs": {}}, "1.35", strict=True)


def test_everything_selects_the_pods() -> None:
    labels = POD["metadata"]["labels"].items()
    assert MANIFESTS["Deployment"]["spec"]["selector"]["matchLabels"].items() <= labels
    assert MANIFESTS["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"].items() <= labels
    assert MANIFESTS["Service"]["spec"]["selector"].items() <= labels
    assert MANIFESTS["Service"]["spec"]["clusterIP"] == "None"


def test_volumes_are_those_that_there_are() -> None:
    volumes = {volume["name"]: volume for volume in POD["spec"]["volumes"]}
    mounts = {mount["name"]: mount["mountPath"] for mount in CONTAINER["volumeMounts"]}
    assert volumes.keys() == mounts.keys()
    claim = volumes["store"]["persistentVolumeClaim"]["claimName"]
    assert claim == MANIFESTS["PersistentVolumeClaim"]["metadata"]["name"]
    for variable in CONTAINER["env"]:
        if variable["value"].startswith("/"):
            assert variable["value"].startswith(tuple(mounts.values())), variable


def test_it_has_time_to_drain() -> None:
    assert POD["spec"]["terminationGracePeriodSeconds"] > cli._DEFAULTS.lame_duck + cli._DEFAULTS.grace


def test_a_service_named_archscore_sets_no_option() -> None:
    assert MANIFESTS["Service"]["metadata"]["name"] == "archscore"
    assert POD["spec"]["enableServiceLinks"] is False


def test_variables_are_options_of_the_server() -> None:
    options = {f"ARCHSCORE_{option.name.upper()}" for option in cli.main.params}
    assert {variable["name"] for variable in CONTAINER["env"]} <= options


def test_probes_are_the_command_of_the_image() -> None:
    for probe in ("startupProbe", "readinessProbe"):
        assert CONTAINER[probe]["exec"]["command"] == ["archscore-server", "health"]
        assert CONTAINER[probe]["timeoutSeconds"] > cli.main.commands["health"].params[-1].default


def test_the_user_is_that_of_the_image() -> None:
    [user] = re.findall(r"^USER (\d+):\d+$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert POD["spec"]["securityContext"]["runAsUser"] == int(user)
    assert POD["spec"]["securityContext"]["runAsNonRoot"]
    assert CONTAINER["securityContext"]["readOnlyRootFilesystem"]


def test_the_image_is_that_of_this_version() -> None:
    assert CONTAINER["image"].endswith(f":{__version__}")
