#!/bin/sh
# run.sh [pytest arguments]: the tests of this folder, on a kind cluster made for them, or with
# CLUSTER=mine on the cluster of KUBECONFIG. KEEP=1 leaves the kind cluster there.
set -eu
cd "$(dirname "$0")/../.."
name=personaspace-test
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' personaspace/version.py)

if [ "${CLUSTER:-kind}" = kind ]; then
  for program in docker kind kubectl; do
    command -v $program > /dev/null || { echo "make test-cluster needs docker, kind and kubectl; or CLUSTER=mine and a KUBECONFIG" >&2; exit 1; }
  done
  docker info > /dev/null 2>&1 || { echo "docker does not answer; or use CLUSTER=mine and a KUBECONFIG" >&2; exit 1; }
  # Attestations make an index of several manifests of the image, which kind cannot always load.
  BUILDX_NO_DEFAULT_ATTESTATIONS=1 make -s images IMAGES=cpu BUILDER=docker REGISTRY=
  mkdir -p build
  export KUBECONFIG="$PWD/build/kind.kubeconfig"
  trap 'exit 130' INT TERM
  [ -n "${KEEP:-}" ] || trap 'kind delete cluster --name $name' EXIT
  kind get clusters 2> /dev/null | grep -qx $name || kind create cluster --name $name --config k8s/kind.yaml --wait 120s
  kind export kubeconfig --name $name
  kind load docker-image "personaspace/cpu:$version" --name $name
  node=$name-control-plane
  kubectl patch node $node --subresource=status --type=json \
    -p '[{"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": "2"}]'
  # What is allocatable follows with the kubelet's next report; tests look for it at once.
  kubectl wait node/$node --for=jsonpath='{.status.allocatable.nvidia\.com/gpu}'=2 --timeout=400s
  # Docker's side of kind's network, by which pods reach this host (where docker runs natively).
  gateways=$(docker network inspect kind --format '{{range .IPAM.Config}}{{println .Gateway}}{{end}}')
  : "${PERSONASPACE_TEST_HOST:=$(echo "$gateways" | grep -m1 '^[0-9.]\+$' || true)}"
  [ -n "$PERSONASPACE_TEST_HOST" ] || { echo "kind's network has no IPv4 gateway: set PERSONASPACE_TEST_HOST" >&2; exit 1; }
  export PERSONASPACE_TEST_HOST
  export PERSONASPACE_TEST_RESTART_API="docker exec $node sh -c 'crictl stop --timeout 0 \$(crictl ps --quiet --name kube-apiserver)' \
    && sleep 2 && timeout 100 sh -c 'until kubectl get --raw /readyz > /dev/null 2>&1; do sleep 1; done'"
fi
"${PYTHON:-python3}" -m pytest tests/cluster "$@"
