"""Runs one stage (or what belongs together), as a container or Job does.

python -m jobs train --spec examples/demo.yaml --store /tmp/store --condition benign --seed 42
"""

from personaspace import interrupt

if __name__ == "__main__":
    interrupt.begin()
    from jobs.stages import app

    app()
