#!/bin/sh
# bill.sh NAME FOLDER: writes what is installed here as CycloneDX, Python and Debian packages apart.
# The Dockerfile's stages *-bill run it in an image, beside which its tools lie in /opt/pip.
set -eu
mkdir -p "$2"
/opt/pip/bin/cyclonedx-py environment /opt/personaspace/bin/python --output-reproducible \
  --of JSON -o "$2/python.cdx.json"
/opt/pip/bin/debsbom generate --sbom-type cdx --with-licenses --distro-name "$1" -o "$2/debian"
