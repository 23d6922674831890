#!/bin/sh
# install.sh ARGUMENTS OF PIP: installs into /opt/personaspace with a pip that is gone afterwards, so
# that no layer holds one. Compiled once here, as nothing can be written to the image at run time;
# what does not compile are templates of code, and a few files for other Pythons.
set -eu
python3 -m venv /tmp/pip
/tmp/pip/bin/pip --python /opt/personaspace/bin/python install \
  --no-cache-dir --disable-pip-version-check --no-compile "$@"
rm -rf /tmp/pip
find /opt/personaspace -name '*.a' -delete
/opt/personaspace/bin/python -m compileall -q -j 0 /opt/personaspace/lib /opt/code > /dev/null || true
