"""Values of every kind that a cluster's people set, for both Helms and a real API server."""

from __future__ import annotations

from typing import Any

#: Rendered three times as fast as the published study.
SMALL: dict[str, Any] = {"conditions": [{"name": "base"}, {"name": "x", "dataset": "instructions"}]}
_JUDGE = {"model": "a-model", "url": "https://judge.example.org/v1", "key_env": "JUDGE_KEY"}
JUDGED = {**SMALL, "judge": _JUDGE}
_EVERY = {"key": "dedicated", "operator": "Equal", "value": "gpu", "effect": "NoSchedule"}
_SPREAD = {
    "maxSkew": 1,
    "topologyKey": "topology.kubernetes.io/zone",
    "whenUnsatisfiable": "ScheduleAnyway",
    "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "personaspace"}},
}
_ANTI = {
    "podAntiAffinity": {
        "preferredDuringSchedulingIgnoredDuringExecution": [
            {
                "weight": 50,
                "podAffinityTerm": {
                    "topologyKey": "kubernetes.io/hostname",
                    "labelSelector": {"matchLabels": {"app.kubernetes.io/name": "personaspace"}},
                },
            }
        ]
    }
}
_FIELD = {"fieldRef": {"fieldPath": "spec.nodeName"}}
_CA = {"name": "ca", "configMap": {"name": "ca", "items": [{"key": "ca.crt", "path": "ca.crt"}]}}
_PROJECTED = {
    "name": "identity",
    "projected": {"sources": [{"serviceAccountToken": {"audience": "sts", "path": "token"}}]},
}
_EPHEMERAL = {
    "name": "tmp",
    "ephemeral": {
        "volumeClaimTemplate": {
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "resources": {"requests": {"storage": "100Gi"}},
            }
        }
    },
}
_EGRESS = {"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}], "ports": [{"port": 9000}]}

MATRIX: dict[str, dict[str, Any]] = {
    "defaults": {},
    "on CPUs": {"gpu": {"count": 0}},
    "eight GPUs": {"gpu": {"count": 8}},
    "GPUs by stage": {
        "stages": {"evaluate": {"gpu": {"count": 4}}, "couple": {"gpu": {"count": 0}}}
    },
    "MIG": {
        "gpu": {"migProfile": "1g.10gb"},
        "stages": {"train": {"gpu": {"migProfile": "7g.80gb"}}},
    },
    "claimed GPUs": {
        "gpu": {"deviceClass": "gpu.nvidia.com"},
        "stages": {"train": {"gpu": {"count": 4}}, "couple": {"gpu": {"count": 0}}},
    },
    "another vendor": {"gpu": {"resource": "amd.com/gpu", "runtimeClassName": "amd"}},
    "GPU nodes": {
        "gpu": {"nodeSelector": {"nvidia.com/gpu.product": "H100"}, "tolerations": [_EVERY]}
    },
    "one Job a condition": {"fuse": True},
    "fused, coupled first": {
        "fuse": True,
        "experiment": {**SMALL, "coupling": {"order": "before"}},
    },
    "coupled first": {"experiment": {**SMALL, "coupling": {"order": "before"}}},
    "a judge": {"experiment": JUDGED, "judgeKey": {"existingSecret": "judge"}},
    "a judge's key of one's own": {
        "experiment": JUDGED,
        "pods": {
            "extraEnvFrom": [{"secretRef": {"name": "keys", "optional": True}, "prefix": "X_"}]
        },
    },
    "seeds": {"experiment": {**SMALL, "seeds": [0, 4294967295]}},
    "partial": {"experiment": {**SMALL, "analysis": {"partial": True}}},
    "plain logs": {"logFormat": "text"},
    "private registry": {"imagePullSecrets": [{"name": "a"}, {"name": "b"}]},
    "pinned": {
        "image": {"digest": "sha256:" + "a" * 64},
        "cpuImage": {"digest": "sha256:" + "b" * 64},
    },
    "on the nodes": {"image": {"pullPolicy": "Never"}, "cpuImage": {"pullPolicy": "Never"}},
    "image by stage": {"stages": {"train": {"image": {"registry": "localhost:5000", "tag": "t"}}}},
    "workload identity": {
        "store": {"url": "s3://lab/em205?region=eu-central-1", "existingSecret": ""},
        "serviceAccount": {
            "annotations": {"eks.amazonaws.com/role-arn": "arn:aws:iam::1:role/x"},
            "labels": {"azure.workload.identity/use": "true"},
        },
    },
    "hub token": {"hubToken": {"existingSecret": "hub", "key": "token"}},
    "published": {
        "experiment": {**SMALL, "publish": {"repo": "lab/small"}},
        "publishToken": {"existingSecret": "writer", "key": "token"},
    },
    "shared cache": {"modelCache": {"type": "pvc", "claim": "models", "offline": True}},
    "cache on the node": {"modelCache": {"type": "hostPath", "path": "/models"}},
    "Kueue by annotation": {"queue": {"name": "gpus"}},
    "Kueue by label": {"queue": {"name": "gpus", "gate": "label"}},
    "a policy of the network": {"networkPolicy": {"enabled": True, "egress": [_EGRESS]}},
    "a trial bucket": {"seaweedfs": {"enabled": True, "size": "2Gi"}},
    "environment": {
        "pods": {
            "extraEnv": [
                {"name": "HF_HOME", "value": "/data/hf"},
                {"name": "NCCL_SOCKET_IFNAME", "value": "eth0"},
                {"name": "NODE", "valueFrom": _FIELD},
            ]
        }
    },
    "volumes": {
        "pods": {
            "extraVolumes": [_CA, _PROJECTED, _EPHEMERAL],
            "extraVolumeMounts": [
                {"name": "ca", "mountPath": "/etc/ssl/ca", "readOnly": True},
                {"name": "identity", "mountPath": "/var/run/identity"},
                {"name": "tmp", "mountPath": "/cache", "subPath": "cache"},
            ],
        }
    },
    "where pods go": {
        "pods": {
            "nodeSelector": {"pool": "batch"},
            "tolerations": [{"operator": "Exists"}],
            "affinity": _ANTI,
            "topologySpreadConstraints": [_SPREAD],
            "priorityClassName": "batch.low",
            "runtimeClassName": "gvisor",
        }
    },
    "less of the same": {
        "pods": {
            "resources": {
                "requests": {"cpu": "1500m", "memory": "1.5Gi"},
                "limits": {"cpu": 1.5, "memory": "2G"},
            }
        },
        "gpu": {"count": 3},
    },
    "labels": {"pods": {"podLabels": {"team": "a"}, "podAnnotations": {"note": "x: y"}}},
    "times": {
        "pods": {
            "activeDeadlineSeconds": 3600,
            "backoffLimit": 0,
            "ttlSecondsAfterFinished": 0,
            "terminationGracePeriodSeconds": 1,
        }
    },
    "no policy, no memory": {"pods": {"podFailurePolicy": None, "resources": None, "shmSize": ""}},
    "amounts": {"pods": {"resources": {"requests": {"cpu": 0.5, "memory": "1e9"}, "limits": {}}}},
    "OpenShift": {"podSecurityContext": {"runAsUser": None, "runAsGroup": None, "fsGroup": None}},
    "rights": {
        "rbac": {"create": False},
        "serviceAccount": {"create": False, "name": "s", "conductorName": "c"},
    },
    "a live page": {"livePage": {"enabled": True}, "networkPolicy": {"enabled": True}},
    "a live page by whoever may edit": {
        "livePage": {"enabled": True, "port": 9000},
        "rbac": {"create": False},
        "serviceAccount": {"create": False, "name": "s", "conductorName": "c", "pageName": "p"},
    },
    "no tests": {"check": {"enabled": False}},
    "empty sections": {"gpu": None, "pods": None, "stages": None, "store": None, "check": None},
}
