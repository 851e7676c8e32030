"""What can be wrong with deploy/docker, deploy/kubernetes and deploy/observability without a cluster to say so.

usage: manifests.py REPOSITORY FOLDER-OF-DEFINITIONS OVERLAY.yaml…

Each OVERLAY.yaml is what `kubectl kustomize` made of an overlay; its name is the overlay's. `restored` is production after
deploy/kubernetes/restore, twice for booking and once for identity.
"""

import json
import re
import sys
from pathlib import Path

import jsonschema
import kubernetes_validate
import yaml

# The oldest that the README promises, and a newer one.
KUBERNETES = ("1.30", "1.33")
# Made by people or by operators before the roll-out: deploy/kubernetes/README.md says how.
PROVIDED_SECRETS = {
    "local": {"identity-database", "booking-database", "booking-service-account", "identity-signing-keys", "postgres-password"},
    "production": {"identity-db-app", "identity-db-ca", "booking-db-app", "booking-db-ca", "booking-service-account", "identity-signing-keys"},
    "restored": {"identity-db-1-app", "identity-db-1-ca", "booking-db-2-app", "booking-db-2-ca", "booking-service-account", "identity-signing-keys"},
    "tls": {"identity-database", "booking-database", "booking-service-account", "identity-signing-keys", "identity-service-tls", "booking-service-tls"},
}

# Clusters that a restore leaves behind: kept until the books are proven.
LEFT_BEHIND = {"restored": {"identity-db", "booking-db", "booking-db-1"}}
# MiB for identity-service without its hashes: connections, calls, what it remembers.
BESIDES_HASHES = 256

repository, definitions = Path(sys.argv[1]), Path(sys.argv[2])
wrong = []


class Loader(yaml.SafeLoader):
    """Reads what looks like a time as text, as `kubectl` does."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def expect(holds, text):
    if not holds:
        wrong.append(text)


def closed(schema):
    """The schema, refusing fields that it does not know, as `kubectl apply` does."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    schema = {key: closed(part) for key, part in schema.items()}
    if isinstance(schema.get("properties"), dict) and "type" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
        schema.setdefault("additionalProperties", False)
    return schema


def custom_schemas():
    schemas = {}
    for path in definitions.glob("*.yaml"):
        for crd in yaml.safe_load_all(path.read_text()):
            if not crd or crd.get("kind") != "CustomResourceDefinition":
                continue
            for version in crd["spec"]["versions"]:
                schema = closed(version["schema"]["openAPIV3Schema"])
                schema["properties"]["metadata"] = {"type": "object"}
                schemas[f"{crd['spec']['group']}/{version['name']}", crd["spec"]["names"]["kind"]] = schema
    return schemas


def options(service):
    """The environment variables that the service reads: they stand at its options."""
    sources = [*repository.glob("service-core/src/**/*.rs"), *repository.glob(f"{service}/src/**/*.rs")]
    return {name for path in sources for name in re.findall(r'env = "(ROWLOCK_\w+)"', path.read_text())}


def seconds(text):
    return int(text.removesuffix("s"))


def mebibytes(text):
    return int(text[:-2]) * {"Mi": 1, "Gi": 1024}[text[-2:]]


def named(objects, kind):
    return {o["metadata"]["name"]: o for o in objects if o["kind"] == kind}


def check_schema(where, obj, schemas):
    name = f"{where}: {obj['kind']} {obj['metadata']['name']}"
    schema = schemas.get((obj["apiVersion"], obj["kind"]))
    try:
        if schema:
            jsonschema.Draft7Validator(schema).validate(obj)
        else:
            for version in KUBERNETES:
                kubernetes_validate.validate(obj, version, strict=True)
    except (jsonschema.ValidationError, kubernetes_validate.ValidationError) as error:
        expect(False, f"{name}: {'.'.join(map(str, error.path))}: {error.message}")


def check_pods(where, objects, secrets):
    configs = named(objects, "ConfigMap")
    for obj in objects:
        if obj["kind"] not in ("Deployment", "Job", "StatefulSet"):
            continue
        name, pod = f"{where}: {obj['kind']} {obj['metadata']['name']}", obj["spec"]["template"]["spec"]
        wanted = {v["secret"]["secretName"] for v in pod["volumes"] if "secret" in v}
        wanted |= {s["secret"]["name"] for v in pod["volumes"] for s in v.get("projected", {}).get("sources", [])}
        wanted |= {e["valueFrom"]["secretKeyRef"]["name"] for c in pod["containers"] for e in c.get("env", []) if "valueFrom" in e}
        expect(wanted <= secrets, f"{name}: nobody provides the Secrets {wanted - secrets}")
        for container in pod["containers"]:
            env = {e["name"]: e.get("value", "") for e in container.get("env", [])}
            for source in container.get("envFrom", []):
                config = configs.get(source["configMapRef"]["name"])
                expect(config, f"{name}: there is no ConfigMap {source['configMapRef']['name']}")
                env |= (config or {}).get("data", {})
            service = re.search(r"(identity|booking)-service", container["image"])
            if not service:
                continue
            unknown = {e for e in env if e.startswith("ROWLOCK_")} - options(service[0])
            expect(not unknown, f"{name}: {service[0]} does not read {unknown}")
            mounts = tuple(m["mountPath"] + "/" for m in container["volumeMounts"])
            files = {e: v for e, v in env.items() if v.startswith("/") and e != "ROWLOCK_KEYS_DIR"}
            expect(all(v.startswith(mounts) for v in files.values()), f"{name}: not mounted: {files}")
            if obj["kind"] == "Deployment":
                drain = seconds(env["ROWLOCK_DRAIN_GRACE"]) + container["lifecycle"]["preStop"]["sleep"]["seconds"]
                expect(pod["terminationGracePeriodSeconds"] > drain, f"{name}: is killed before it has drained, after {drain} s")
                check_hashes(name, env, container["resources"]["limits"]["memory"])


def check_hashes(name, env, limit):
    """The memory that each thread keeps for hashing passwords fits in the pod's, whatever the node."""
    if "identity-service" in name:
        # Without the option there are as many threads as the node has cores.
        threads, each = env.get("ROWLOCK_PASSWORD_HASH_THREADS"), int(env.get("ROWLOCK_PASSWORD_HASH_MEMORY_KIB", 19456))
        needed = float(threads or "inf") * each / 1024 + BESIDES_HASHES
        expect(needed <= mebibytes(limit), f"{name}: {limit} are too few with ROWLOCK_PASSWORD_HASH_THREADS={threads} of {each} KiB each")


def check_backups(where, objects):
    """Every database is archived to a store that is there, and every one in use has a schedule."""
    stores, clusters = named(objects, "ObjectStore"), named(objects, "Cluster")
    in_use = clusters.keys() - LEFT_BEHIND.get(where, set())
    scheduled = {s["spec"]["cluster"]["name"] for s in named(objects, "ScheduledBackup").values()}
    expect(scheduled == in_use, f"{where}: Clusters in use are {in_use}, ScheduledBackups are of {scheduled}")
    for name, pooler in named(objects, "Pooler").items():
        expect(pooler["spec"]["cluster"]["name"] in in_use, f"{where}: Pooler {name}: its Cluster is not in use")
    for name, cluster in clusters.items():
        used = {p["parameters"]["barmanObjectName"] for p in cluster["spec"].get("plugins", []) if p.get("isWALArchiver")}
        expect(used and used <= stores.keys(), f"{where}: Cluster {name}: its WAL goes to {used or 'no store'}")
        for source in cluster["spec"].get("externalClusters", []):
            server = source["plugin"]["parameters"]["serverName"]
            expect(server in clusters.keys() - {name}, f"{where}: Cluster {name} begins from the store of {server}")


def chosen(selector, labels):
    """Whether a label selector chooses what has these labels."""
    parts = [labels.get(key) == value for key, value in selector.get("matchLabels", {}).items()]
    return all(parts + [labels.get(e["key"]) in e["values"] for e in selector.get("matchExpressions", [])])


def peers(policy, direction, port):
    """The pod selectors of whom a policy lets in from or out to at this port; None stands for anybody."""
    side = "from" if direction == "ingress" else "to"
    for rule in policy["spec"].get(direction, []):
        if port in [p["port"] for p in rule.get("ports", [])]:
            yield from (peer.get("podSelector") for peer in rule.get(side, [{}]))


def check_databases(where, objects):
    """A service and its migrations reach every Cluster of their own and are let in by it, and no other one's."""
    policies, clusters = named(objects, "NetworkPolicy").values(), named(objects, "Cluster")
    for obj in objects:
        if obj["kind"] not in ("Deployment", "Job"):
            continue
        labels, name = obj["spec"]["template"]["metadata"]["labels"], f"{where}: {obj['kind']} {obj['metadata']['name']}"
        out = [s for p in policies if chosen(p["spec"]["podSelector"], labels) for s in peers(p, "egress", 5432)]
        # Where the database is elsewhere, base does not know where.
        expect(out and (None not in out or where == "tls"), f"{name}: may go to port 5432 of anybody, or of nobody")
        for cluster in clusters:
            instance, own = {"cnpg.io/cluster": cluster}, labels["app.kubernetes.io/name"].startswith(cluster.split("-")[0])
            into = [s for p in policies if chosen(p["spec"]["podSelector"], instance) for s in peers(p, "ingress", 5432)]
            expect(any(chosen(s, instance) for s in out if s) == own, f"{name}: {'does not reach' if own else 'reaches'} {cluster}")
            expect(any(chosen(s, labels) for s in into if s) == own, f"{name}: is {'not ' if own else ''}let in by {cluster}")


def check_services(where, objects):
    pods = [o["spec"]["template"] for o in objects if o["kind"] in ("Deployment", "StatefulSet")]
    for service in named(objects, "Service").values():
        selector = service["spec"]["selector"].items()
        behind = [p for p in pods if selector <= p["metadata"]["labels"].items()]
        name = f"{where}: Service {service['metadata']['name']}"
        expect(len(behind) == 1, f"{name}: chooses the pods of {len(behind)} workloads, not of one")
        for port in service["spec"]["ports"]:
            for pod in behind:
                ports = {p["name"]: p["containerPort"] for c in pod["spec"]["containers"] for p in c["ports"]}
                expect(ports.get(port["targetPort"]) == port["port"], f"{name}: port {port['name']} is not the pods'")


def check_routes(where, objects):
    """Every service of the contract that people call is routed, to the service that has it; and nothing else."""
    protos = {
        f"rowlock.{package}.v1.{service}": f"{package}-service"
        for package in ("identity", "booking")
        for path in (repository / f"proto/rowlock/{package}/v1").glob("*.proto")
        for service in re.findall(r"^service (\w+)", path.read_text(), re.M)
    }
    # Other services in the cluster call it; it is not for the world.
    protos.pop("rowlock.identity.v1.RevocationService")
    routed = {
        match["method"]["service"]: rule["backendRefs"][0]["name"]
        for route in named(objects, "GRPCRoute").values()
        for rule in route["spec"]["rules"]
        for match in rule["matches"]
    }
    if routed:
        expect(routed == protos, f"{where}: routed is {set(routed.items()) ^ set(protos.items())} too much or too little")


def check_readme(policies):
    """What deploy/kubernetes/README.md has its readers patch and label is there."""
    readme = (repository / "deploy/kubernetes/README.md").read_text()
    named_there = set(re.findall(r"NetworkPolicy `([^`]+)`", readme))
    expect(named_there and named_there <= policies, f"README: NetworkPolicies {named_there - policies} are not there")
    manifests = "".join(path.read_text() for path in (repository / "deploy/kubernetes").rglob("*.yaml"))
    asked_for = set(re.findall(r"namespaceSelector: {matchLabels: {(rowlock\.dev/\w+)", manifests))
    told = set(re.findall(r"\| `(rowlock\.dev/\w+)=true` \|", readme))
    expect(asked_for == told, f"README: labels of namespaces: {asked_for ^ told}")


def check_docker():
    docker = repository / "deploy/docker"
    compose = yaml.safe_load((docker / "compose.yaml").read_text())
    schema = json.loads((definitions / "compose-spec.json").read_text())
    for error in jsonschema.validators.validator_for(schema)(schema).iter_errors(compose):
        expect(False, f"compose: {'.'.join(map(str, error.path))}: {error.message}")
    services = compose["services"]
    envoy = yaml.safe_load((docker / "envoy.yaml").read_text())["static_resources"]
    awaited = {
        needed
        for service in services.values()
        for needed, how in service.get("depends_on", {}).items()
        if how["condition"] == "service_completed_successfully"
    }
    arguments = set(re.findall(r"^ARG (\w+)", (docker / "Dockerfile").read_text(), re.M))
    for name, service in services.items():
        for needed in service.get("depends_on", {}):
            expect(needed in services, f"compose: {name} depends on {needed}, which there is not")
        # Compose copies everything else into the container, which is refused where nothing can be written.
        sources = [compose[kind][use["source"]] for kind in ("configs", "secrets") for use in service.get(kind, [])]
        expect(not service.get("read_only") or all("file" in s for s in sources), f"compose: {name} is read-only and is given what is no file")
        # `up --wait` fails when one ends that nobody waits for.
        expect((service["restart"] == "no") == (name in awaited), f"compose: {name} ends, and nobody waits for that; or waited for, and never ends")
        target = service.get("build", {}).get("target")
        if target:
            expect(service["build"]["args"].keys() <= arguments, f"compose: {name}: the Dockerfile does not know all of {service['build']['args']}")
            unknown = {e for e in service["environment"] if e.startswith("ROWLOCK_")} - options(target)
            expect(not unknown, f"compose: {name} does not read {unknown}")
            mounts = tuple(volume.split(":")[1] + "/" for volume in service.get("volumes", []))
            files = {e: v for e, v in service["environment"].items() if e.endswith("_FILE") and not v.startswith(mounts)}
            expect(not files, f"compose: {name}: not mounted: {files}")
    for cluster in envoy["clusters"]:
        for endpoint in cluster["load_assignment"]["endpoints"][0]["lb_endpoints"]:
            host = endpoint["endpoint"]["address"]["socket_address"]["address"]
            expect(host in services, f"envoy: there is no service {host}")
    listening = {listener["address"]["socket_address"]["port_value"] for listener in envoy["listeners"]}
    published = {int(port.rsplit(":", 1)[1]) for port in services["balancer"]["ports"]}
    expect(listening == published, f"compose publishes {published}, envoy listens on {listening}")
    ignore = (docker / "Dockerfile.dockerignore").read_text()
    members = re.search(r"members = \[(.*)\]", (repository / "Cargo.toml").read_text())[1]
    for member in re.findall(r'"([\w-]+)"', members):
        expect(f"\n!{member}\n" in ignore, f"the image's context lacks {member}")


def check_queries():
    """Alerts and panels ask for the series of our services alone: others have metrics of the same names."""
    observability = repository / "deploy/observability"
    rules = yaml.safe_load((observability / "prometheus-rule.yaml").read_text())["spec"]["groups"]
    panels = json.loads((observability / "dashboard.json").read_text())["panels"]
    asked = [(rule["alert"], rule["expr"]) for group in rules for rule in group["rules"]]
    asked += [(panel["title"], target["expr"]) for panel in panels for target in panel.get("targets", [])]
    for name, query in asked:
        without_ranges = re.sub(r"\[[^]]*\]", "", query)
        for metric, labels in re.findall(r"\b(up|ready|\w+_\w+)\b(?!\()({[^}]*})?", without_ranges):
            expect("job=" in labels, f"{name}: asks everybody for {metric}")


def main():
    schemas, policies = custom_schemas(), set()
    for path in map(Path, sys.argv[3:]):
        objects = [o for o in yaml.load_all(path.read_text(), Loader) if o]
        for obj in objects:
            check_schema(path.stem, obj, schemas)
        check_pods(path.stem, objects, PROVIDED_SECRETS[path.stem])
        check_services(path.stem, objects)
        check_routes(path.stem, objects)
        check_backups(path.stem, objects)
        check_databases(path.stem, objects)
        policies |= set(named(objects, "NetworkPolicy"))
    check_readme(policies)
    check_docker()
    check_queries()
    for line in wrong:
        print(line, file=sys.stderr)
    sys.exit(1 if wrong else 0)


main()
