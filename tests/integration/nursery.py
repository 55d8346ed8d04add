"""Forks workers from a process that has imported everything: a start costs milliseconds.

Lines on stdin are `home<TAB>run folder`. For each, `child ID` is printed, then, when it ended,
`status N`: whoever reads never takes one for the other. The child runs the same
`nuggets.worker.main` as every launcher's process.
"""

import os
import sys

import nuggets.stages.pipeline  # noqa: F401 - what makes the real start slow
from nuggets import worker


def main() -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        home, folder = line.rstrip("\n").split("\t")
        child = os.fork()
        if child == 0:
            os.environ["NUGGETS_HOME"] = home
            os.chdir(folder)
            os._exit(worker.main([folder]))
        print("child", child, flush=True)
        print("status", os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
    main()
