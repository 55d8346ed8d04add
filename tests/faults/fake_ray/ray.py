"""The few calls of Ray that the keeper makes, without a cluster: a task is a forked process.

The folder `FAKE_RAY` holds `nodes.json`, a list of what each node has. A task waits until a node
has what it asks for, and gets GPUs by number in CUDA_VISIBLE_DEVICES, as from Ray. A node that
leaves the list takes its tasks with it.
"""

import json
import multiprocessing
import os
import time
from pathlib import Path
from types import SimpleNamespace

_fork = multiprocessing.get_context("fork")
_tasks = []


class RayError(Exception):
    pass


class NodeDiedError(RayError):
    pass


class RayTaskError(RayError):
    pass


exceptions = SimpleNamespace(RayError=RayError)


def _nodes():
    return json.loads(Path(os.environ["FAKE_RAY"], "nodes.json").read_text())


def init(address, **settings):
    if not _nodes():
        raise ConnectionError(f"Could not find any running Ray instance at {address}.")


def nodes():
    return [{"Alive": True, "Resources": node} for node in _nodes()]


def shutdown():
    for task in _tasks:
        task.end(None)


def remote(function):
    return SimpleNamespace(options=lambda **asked: _Options(function, asked))


class _Options:
    def __init__(self, function, asked):
        self.function, self.asked = function, asked

    def remote(self, *given):
        task = _Task(self.function, given, self.asked)
        _tasks.append(task)
        return task


class _Task:
    def __init__(self, function, given, asked):
        self.function, self.given = function, given
        self.cpus, self.gpus = asked["num_cpus"], asked["num_gpus"]
        self.process = self.node = None
        self.held, self.error, self.over = [], None, False

    def try_to_start(self):
        for number, node in enumerate(_nodes()):
            here = [t for t in _tasks if t.process and not t.over and t.node == number]
            taken = {gpu for task in here for gpu in task.held}
            free = [gpu for gpu in range(node.get("GPU", 0)) if gpu not in taken]
            if sum(t.cpus for t in here) + self.cpus <= node["CPU"] and self.gpus <= len(free):
                self.node, self.held = number, free[: self.gpus]
                self.process = _fork.Process(target=self.run)
                self.process.start()
                return

    def run(self):
        if self.held:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(map(str, self.held))
        self.function(*self.given)

    def look(self):
        if self.over:
            return
        if self.process is None:
            self.try_to_start()
        elif self.node >= len(_nodes()):
            self.end(NodeDiedError("Task failed because the node it was running on is dead."))
        elif not self.process.is_alive():
            self.over = True
            if self.process.exitcode:
                self.error = RayTaskError("the task raised")

    def end(self, error):
        self.over, self.error = True, self.error or error
        if self.process:
            self.process.kill()
            self.process.join()


def wait(tasks, num_returns, timeout):
    deadline = time.monotonic() + timeout
    while True:
        for task in _tasks:
            task.look()
        over = [task for task in tasks if task.over]
        if over or time.monotonic() > deadline:
            return over, [task for task in tasks if not task.over]
        time.sleep(0.01)


def get(task):
    if task.error:
        raise task.error


def cancel(task, force):
    task.end(RayError("This task or its dependency was cancelled."))
