#!/bin/sh
# run.sh [pytest arguments]: the tests of this folder, on a kind cluster made for them, or with
# CLUSTER=mine on the cluster of KUBECONFIG. KEEP=1 leaves the kind cluster there.
set -eu
cd "$(dirname "$0")/../.."
name=personaspace-test
version=$(sed -n 's/^__version__ = "\(.*\)"/\1/p' personaspace/__init__.py)

if [ "${CLUSTER:-kind}" = kind ]; then
  for program in docker kind kubectl; do
    command -v $program > /dev/null || { echo "make test-cluster needs docker, kind and kubectl; or CLUSTER=mine and a KUBECONFIG" >&2; exit 1; }
  done
  docker info > /dev/null 2>&1 || { echo "docker does not answer; or use CLUSTER=mine and a KUBECONFIG" >&2; exit 1; }
  make -s images IMAGES=cpu BUILDER=docker
  mkdir -p build
  export KUBECONFIG="$PWD/build/kind.kubeconfig"
  kind get clusters 2> /dev/null | grep -qx $name || kind create cluster --name $name --config k8s/kind.yaml --wait 120s
  [ -n "${KEEP:-}" ] || trap 'kind delete cluster --name $name' EXIT
  kind export kubeconfig --name $name
  kind load docker-image "personaspace/cpu:$version" --name $name
  kubectl patch node $name-control-plane --subresource=status --type=json \
    -p '[{"op": "add", "path": "/status/capacity/nvidia.com~1gpu", "value": "2"}]'
  PERSONASPACE_TEST_HOST=$(docker network inspect kind --format '{{range .IPAM.Config}}{{.Gateway}} {{end}}' | tr ' ' '\n' | grep -m1 '\.')
  export PERSONASPACE_TEST_HOST
  export PERSONASPACE_TEST_RESTART_API="docker exec $name-control-plane pkill -9 kube-apiserver; sleep 5; kubectl wait --for=condition=Ready node --all --timeout=100s"
fi
"${PYTHON:-python3}" -m pytest tests/cluster "$@"
