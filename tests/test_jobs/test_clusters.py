"""The cluster files: what Ray says of them, what a launch on AWS would do, and that nothing is left open."""

import copy
import tomllib
from pathlib import Path

import pytest
import yaml

pytestmark = pytest.mark.heavy

ROOT = Path(__file__).resolve().parents[2]


def read(name):
    return yaml.safe_load((ROOT / name).read_text())


def prepared(config):
    """The config as `ray up` would use it, checked by Ray."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(copy.deepcopy(config))
    validate_config(config)
    return config


@pytest.mark.parametrize("name", ["cluster.yaml", "cluster.onprem.yaml"])
def test_ray_accepts_the_file_and_would_see_a_mistake(name):
    config = read(name)
    prepared(config)
    for change in ({"max_worker": 3}, {"file_mounts": []}, {"idle_timeout_minutes": "ten"}):
        with pytest.raises(Exception, match=r"additional|not of type|validat|required|propert|'list'"):
            prepared(config | change)


@pytest.mark.parametrize("name", ["cluster.yaml", "cluster.onprem.yaml", "deploy/rayjob.yaml", "deploy/slurm.sh"])
def test_no_machine_needs_a_disk_of_others(name):
    text = (ROOT / name).read_text()
    assert not any(word in text for word in ("/shared", "nfs", "efs.", "persistentVolumeClaim", "mountpoint"))


@pytest.mark.parametrize("name", ["cluster.yaml", "cluster.onprem.yaml"])
def test_machines_get_what_jobs_and_buckets_need(name):
    """The extras with Ray's dashboard, which `ray job submit` speaks to, and with object storage."""
    setup = " ".join(read(name)["setup_commands"])
    assert "[ray,remote,soma,hdf5,tensorboard]" in setup
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert any(wanted.startswith("ray[") and "default" in wanted for wanted in extras["ray"])
    assert any("obstore" in wanted for wanted in extras["remote"])


@pytest.mark.parametrize("name", ["cluster.yaml", "cluster.onprem.yaml"])
def test_nothing_listens_to_the_world_and_everything_asks_for_the_token(name):
    config = prepared(read(name))
    starts = [
        line for line in config["head_start_ray_commands"] + config["worker_start_ray_commands"] if "start" in line
    ]
    assert len(starts) == 2
    assert all("RAY_AUTH_MODE=token" in line for line in starts)
    assert "--dashboard-host=127.0.0.1" in starts[0]
    assert "0.0.0.0" not in (ROOT / name).read_text()
    assert "~/.ray/auth_token" in config["file_mounts"]
    assert any(line.startswith("chmod 600 ~/.ray/auth_token") for line in config["setup_commands"])


def test_the_cluster_on_aws_uses_what_it_is_given():
    """Groups, profiles and subnets are named, so that Ray makes none of its own, which would be wide open."""
    config = prepared(read("cluster.yaml"))
    assert config["provider"]["use_internal_ips"] is True
    for node in config["available_node_types"].values():
        launch = node["node_config"]
        assert {"SecurityGroupIds", "SubnetIds", "IamInstanceProfile", "ImageId", "KeyName"} <= launch.keys()
        assert launch["MetadataOptions"]["HttpTokens"] == "required"
        assert all(disk["Ebs"]["Encrypted"] for disk in launch["BlockDeviceMappings"])
    assert config["available_node_types"]["gpu"]["resources"]["GPU"] == 4


def test_a_launch_on_aws(tmp_path, monkeypatch):
    """Ray's bootstrap and its first two machines, against a simulated AWS."""
    import boto3
    import moto

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "testing")
    config = read("cluster.yaml")
    region = config["provider"]["region"]
    monkeypatch.setenv("AWS_DEFAULT_REGION", region)
    with moto.mock_aws():
        from ray.autoscaler._private.aws.config import bootstrap_aws
        from ray.autoscaler._private.aws.node_provider import AWSNodeProvider

        ec2, iam = boto3.resource("ec2", region_name=region), boto3.client("iam")
        vpc = ec2.create_vpc(CidrBlock="10.0.0.0/16")
        subnet = vpc.create_subnet(CidrBlock="10.0.1.0/24", AvailabilityZone=f"{region}a")
        group = ec2.create_security_group(GroupName="cfgen", Description="members only", VpcId=vpc.id)
        groups_before = {g.id for g in ec2.security_groups.all()}
        image = boto3.client("ec2", region_name=region).describe_images(Owners=["amazon"])["Images"][0]["ImageId"]
        key = tmp_path / "key.pem"
        key.write_text(ec2.create_key_pair(KeyName="cfgen-cluster").key_material)
        config["auth"]["ssh_private_key"] = str(key)
        config["file_mounts"] = {}
        for name, node in config["available_node_types"].items():
            profile = iam.create_instance_profile(InstanceProfileName=f"cfgen-{name}")["InstanceProfile"]["Arn"]
            node["node_config"] |= {
                "SubnetIds": [subnet.id], "SecurityGroupIds": [group.id], "ImageId": image,
                "IamInstanceProfile": {"Arn": profile},
            }  # fmt: skip
        config = bootstrap_aws(prepared(config))
        provider = AWSNodeProvider(config["provider"], "cfgen")
        for name in ("head", "gpu"):
            launch = config["available_node_types"][name]["node_config"]
            provider.create_node(launch, {"ray-node-type": name, "ray-cluster-name": "cfgen"}, 1)
        machines = sorted(ec2.instances.all(), key=lambda machine: machine.instance_type)
        assert [machine.instance_type for machine in machines] == ["g6e.12xlarge", "m7i.2xlarge"]
        for machine in machines:
            assert [g["GroupId"] for g in machine.security_groups] == [group.id]
            assert machine.subnet_id == subnet.id
            assert "cfgen-" in machine.iam_instance_profile["Arn"]
        assert {g.id for g in ec2.security_groups.all()} == groups_before, "Ray made no group of its own"
        assert [role["RoleName"] for role in iam.list_roles()["Roles"]] == [], "nor a role"


# The fields of KubeRay 1.5 (ray-operator/apis/ray/v1) that a manifest may use here; others are taken for mistakes.
# All of them, and no others, are also in the definition of 1.7.0, which the manifest was checked against in full.
JOB = {"entrypoint", "submissionMode", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit"}
CLUSTER = {
    "rayVersion",
    "authOptions",
    "enableInTreeAutoscaling",
    "autoscalerOptions",
    "headGroupSpec",
    "workerGroupSpecs",
}
HEAD = {"serviceType", "rayStartParams", "template"}
WORKERS = {"groupName", "replicas", "minReplicas", "maxReplicas", "rayStartParams", "template"}
POD = {"restartPolicy", "automountServiceAccountToken", "securityContext", "containers", "volumes"}
CONTAINER = {"name", "image", "envFrom", "resources", "securityContext", "volumeMounts"}


def test_the_kubernetes_job():
    manifest = read("deploy/rayjob.yaml")
    assert (manifest["apiVersion"], manifest["kind"]) == ("ray.io/v1", "RayJob")
    job = manifest["spec"]
    cluster = job["rayClusterSpec"]
    head, (workers,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert set(job) == {*JOB, "rayClusterSpec"}
    assert (set(cluster), set(head), set(workers)) == (CLUSTER, HEAD, WORKERS)
    assert cluster["authOptions"] == {"mode": "token"}
    assert head["serviceType"] == "ClusterIP"
    for group in (head, workers):
        assert all(isinstance(value, str) for value in group["rayStartParams"].values()), "KubeRay wants text"
        pod = group["template"]["spec"]
        (container,) = pod["containers"]
        assert (set(pod) - {"terminationGracePeriodSeconds"}, set(container)) == (POD, CONTAINER)
        assert container["envFrom"] == [{"secretRef": {"name": "cfgen-bucket"}}]
        assert pod["restartPolicy"] == "Never", "the autoscaler v2 starts pods itself"
        mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
        assert mounted == {"scratch": "/tmp", "shm": "/dev/shm"}
        assert all("emptyDir" in volume for volume in pod["volumes"]), "no volume is shared"
        assert {volume["name"] for volume in pod["volumes"]} == set(mounted)
        assert container["resources"]["limits"] == container["resources"]["requests"]
        assert pod["securityContext"]["runAsNonRoot"] is True
    assert (cluster["autoscalerOptions"]["version"], workers["template"]["spec"]["terminationGracePeriodSeconds"]) == (
        "v2", 120
    )  # fmt: skip
    n = workers["maxReplicas"]
    assert f"--workers {n} --gpus-per-worker 1" in job["entrypoint"], "every worker has a machine to run on"


def test_the_entry_point_of_the_kubernetes_job_is_one(tmp_path):
    """The command in the manifest parses: its options are those of `cfgen-dist train`."""
    import argparse

    from cfgen_dist.cli import train

    words = read("deploy/rayjob.yaml")["spec"]["entrypoint"].split()
    assert (ROOT / words[1]).is_file()
    parser = argparse.ArgumentParser()
    train.configure(parser)
    args = parser.parse_args(words[2:])
    assert (args.workers, args.gpus_per_worker, args.resume) == ("8", 1, True)
