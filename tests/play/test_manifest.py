from collections.abc import Mapping
from typing import Any

import pytest

from crishim.errors import InvalidArgument
from crishim.model.sandbox import DNSConfig, PortMapping
from crishim.play.configs import Node, Start, container_config, sandbox_config
from crishim.play.environment import expand
from crishim.play.manifest import digest_of, parse
from crishim.play.pod import Pod, PullPolicy, RestartPolicy


def pod_of(container: Mapping[str, Any] | None = None, /, **spec: Any) -> Pod:
    main = {"name": "main", "image": "registry.example/image:1", **(container or {})}
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": {"containers": [main], **spec}}
    return parse(manifest, uid="uid-1", seen="2026-01-01T00:00:00Z")


def config_of(container: Mapping[str, Any], /, **spec: Any) -> Any:
    pod = pod_of(container, **spec)
    start = Start(image_id="sha256:1", ips=("10.0.0.9",), token="token")
    return container_config(pod, pod.containers[0], Node(ips=("192.0.2.1",)), start)


def test_a_pod_has_the_api_servers_defaults() -> None:
    """What a manifest does not say is as the API server would have filled it in."""
    pod = pod_of()
    assert ("default", RestartPolicy.ALWAYS, 30, "pod") == (pod.namespace, pod.restart, pod.grace, pod.hostname)
    assert "api" == pod.annotations["kubernetes.io/config.source"]
    assert digest_of({"a": 1}) != digest_of({"a": 2})


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        ("registry.example:5000/image", PullPolicy.ALWAYS),
        ("image:latest", PullPolicy.ALWAYS),
        ("registry.example:5000/image:1", PullPolicy.IF_NOT_PRESENT),
        ("image@sha256:00", PullPolicy.IF_NOT_PRESENT),
    ],
)
def test_the_pull_policy_goes_by_the_tag(image: str, expected: PullPolicy) -> None:
    """An image without a tag, or with the tag latest, is always pulled."""
    assert expected is pod_of({"image": image}).containers[0].pull


@pytest.mark.parametrize(
    ("container", "spec", "field"),
    [
        ({"envFrom": [{"secretRef": {"name": "no"}}]}, {}, "spec.containers[0].envFrom[0].secretRef"),
        ({"imag": "x"}, {}, "spec.containers[0].imag"),
        ({"image": 3}, {}, "spec.containers[0].image"),
        ({"image": ""}, {}, "spec.containers[0].image"),
        ({"restartPolicy": "Always"}, {}, "spec.containers[0].restartPolicy"),
        (
            {"env": [{"name": "A", "valueFrom": {"secretKeyRef": {}}}]},
            {},
            "spec.containers[0].env[0].valueFrom.secretKeyRef.name",
        ),
        ({"resources": {"limits": {"example.com/gpu": 1}}}, {}, "spec.containers[0].resources.limits.example.com/gpu"),
        ({"resources": {"limits": {"cpu": "much"}}}, {}, "spec.containers[0].resources.limits.cpu"),
        ({"volumeMounts": [{"name": "no", "mountPath": "/v"}]}, {}, "spec.containers[0].volumeMounts[0].name"),
        ({"livenessProbe": {"periodSeconds": 1}}, {}, "spec.containers[0].livenessProbe"),
        ({"command": "ls"}, {}, "spec.containers[0].command"),
        ({"stdin": "yes"}, {}, "spec.containers[0].stdin"),
        ({}, {"volumes": [{"name": "v", "secret": {}}]}, "spec.volumes[0].secret.secretName"),
        ({}, {"volumes": [{"name": "v", "configMap": {"name": "no"}}]}, "spec.volumes[0].configMap"),
        ({}, {"volumes": [{"name": "v", "projected": {"sources": []}}]}, "spec.volumes[0].projected"),
        ({"livenessProbe": {"tcpSocket": {"port": "web"}}}, {}, "spec.containers[0].livenessProbe.tcpSocket.port"),
        ({"livenessProbe": {"httpGet": {"port": 80, "scheme": "FTP"}}}, {}, "spec.containers[0].livenessProbe.httpGet.scheme"),
        ({"livenessProbe": {"sleep": {"seconds": 1}}}, {}, "spec.containers[0].livenessProbe.sleep"),
        ({"lifecycle": {"preStop": {"tcpSocket": {"port": 80}}}}, {}, "spec.containers[0].lifecycle.preStop.tcpSocket"),
        ({}, {"volumes": [{"name": "v", "emptyDir": {}, "nfs": {}}]}, "spec.volumes[0].nfs"),
        ({}, {"hostUsers": False}, "spec.hostUsers"),
        ({}, {"setHostnameAsFQDN": True}, "spec.setHostnameAsFQDN"),
        ({}, {"containers": []}, "spec.containers"),
        ({}, {"restartPolicy": "Sometimes"}, "spec.restartPolicy"),
        ({}, {"initContainers": [{"name": "main", "image": "x"}]}, "spec.containers[0].name"),
        ({}, {"securityContext": {"windowsOptions": {"x": 1}}}, "spec.securityContext.windowsOptions"),
    ],
)
def test_what_is_not_known_is_refused_by_its_path(container: Any, spec: Any, field: str) -> None:
    """A field that this kubelet does not know, or cannot read, is refused and named."""
    with pytest.raises(InvalidArgument) as refused:
        pod_of(container, **spec)
    assert field == refused.value.field


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a $(A) b", "a 1 b"),
        ("$$(A)", "$(A)"),
        ("$(B) $A ${A}", "$(B) $A ${A}"),
        ("$((i+1)) $! $(A", "$((i+1)) $! $(A"),
        ("$$$(A)$", "$1$"),
    ],
)
def test_references_are_expanded_as_kubernetes_does(text: str, expected: str) -> None:
    """`$(NAME)` becomes the variable's value, `$$` one dollar, and everything else stays."""
    assert expected == expand(text, {"A": "1"})


def test_variables_from_fields_of_the_pod() -> None:
    """Values refer to fields of the pod and to variables before them; commands to all of them."""
    fields = {
        "NAME": "metadata.name",
        "UID": "metadata.uid",
        "IP": "status.podIP",
        "HOST": "status.hostIP",
        "NODE": "spec.nodeName",
        "SEEN": "metadata.annotations['kubernetes.io/config.seen']",
    }
    env = [{"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}} for name, path in fields.items()]
    config = config_of({"env": [*env, {"name": "ALL", "value": "$(NAME)-$(LATER)"}], "args": ["$(ALL)", "$(IP)"]})
    expected = {
        "NAME": "pod",
        "UID": "uid-1",
        "IP": "10.0.0.9",
        "HOST": "192.0.2.1",
        "NODE": "node",
        "SEEN": "2026-01-01T00:00:00Z",
        "ALL": "pod-$(LATER)",
    }
    assert expected == {variable.key: variable.value for variable in config.envs}
    assert ("pod-$(LATER)", "10.0.0.9") == config.args
    with pytest.raises(InvalidArgument):
        config_of({"env": [{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.nothing"}}}]})


def test_ports_are_mapped_and_listed() -> None:
    """Every port reaches the sandbox, with the node's own number on the host network, and the container's annotations."""
    ports = [{"containerPort": 80, "name": "http"}, {"containerPort": 53, "hostPort": 5353, "protocol": "UDP"}]
    pod = pod_of({"ports": ports})
    first, second = sandbox_config(pod, Node()).port_mappings
    assert (80, 0, 53, 5353) == (first.container_port, first.host_port, second.container_port, second.host_port)
    expected = (
        '[{"name":"http","containerPort":80,"protocol":"TCP"},{"hostPort":5353,"containerPort":53,"protocol":"UDP"}]'
    )  # fmt: skip
    assert expected == config_of({"ports": ports}).annotations["io.kubernetes.container.ports"]
    on_host = pod_of({"ports": [{"containerPort": 80}]}, hostNetwork=True)
    assert (PortMapping(container_port=80, host_port=80),) == sandbox_config(on_host, Node()).port_mappings


def test_dns_is_the_nodes_and_the_pods() -> None:
    """The pod's own servers come behind the node's, or alone with policy None."""
    node = Node(dns=DNSConfig(servers=("192.0.2.53",), options=("ndots:1",)))
    own = {"nameservers": ["192.0.2.54"], "options": [{"name": "ndots", "value": "5"}, {"name": "edns0"}]}
    both = DNSConfig(servers=("192.0.2.53", "192.0.2.54"), options=("ndots:5", "edns0"))
    assert both == sandbox_config(pod_of(dnsConfig=own), node).dns_config
    alone = DNSConfig(servers=("192.0.2.54",), options=("ndots:5", "edns0"))
    assert alone == sandbox_config(pod_of(dnsConfig=own, dnsPolicy="None"), node).dns_config


def test_a_user_is_the_containers_the_pods_or_the_images() -> None:
    """The container's user beats the pod's, that beats the image's; runAsNonRoot refuses root and names."""
    user = {"securityContext": {"runAsUser": 5}}
    shared = {"runAsUser": 7}
    assert 5 == config_of(user, securityContext=shared).linux.security_context.run_as_user
    assert 7 == config_of({}, securityContext=shared).linux.security_context.run_as_user
    pod = pod_of(securityContext={"runAsNonRoot": True})
    for image_user in (0, "nobody"):
        with pytest.raises(InvalidArgument) as refused:
            container_config(pod, pod.containers[0], Node(), Start(image_id="i", image_user=image_user, token="t"))
        assert "spec.containers[0].securityContext.runAsNonRoot" == refused.value.field
    linux = container_config(pod_of(), pod.containers[0], Node(), Start(image_id="i", image_user="nobody", token="t")).linux
    assert linux is not None
    assert linux.security_context is not None
    assert (None, "nobody") == (linux.security_context.run_as_user, linux.security_context.run_as_username)
