"""Forks workers from a process that has imported everything: a start costs milliseconds.

What the models' tokenizers need was tried before as well, which every process does once.

Lines on stdin are `home<TAB>run folder`. For each, `child ID` is printed, then, when it ended,
`status N`: whoever reads never takes one for the other. The child runs the same
`nuggets.worker.main` as every launcher's process.
"""

import contextlib
import os
import sys

# What makes the real start slow, and what transformers brings when it is first used.
import peft  # noqa: F401
import torch._dynamo  # noqa: F401
import transformers.models.llama.modeling_llama  # noqa: F401
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: F401

import nuggets.stages.pipeline  # noqa: F401
from nuggets import worker
from nuggets.models.references import parse_ref
from nuggets.models.tried import try_tokenizer

with contextlib.suppress(ImportError):
    import lm_eval.evaluator  # noqa: F401


def main() -> None:
    for model in sys.argv[1:]:
        try_tokenizer(parse_ref(model))
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
